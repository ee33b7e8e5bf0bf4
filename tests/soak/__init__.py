"""Soak: a steady load for a while, everything that could grow measured, and a verdict on whether anything does."""
