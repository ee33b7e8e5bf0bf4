"""The client engine: look up, join, publish, listen; what both faces of a producer run, and free of any model code.

`engine` holds the protocol's client side as steps without I/O; `sync` runs them on the caller's thread.
"""
