"""Chaos: real processes under faults, everything that is asked and answered written down, and a checker over it."""
