"""foreseen: the contract that producers and workers share.

Application code imports `producer`, model files import `workers`; what is here belongs to both.
"""
