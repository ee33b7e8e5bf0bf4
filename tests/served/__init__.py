"""Models that worker processes serve in the tests; put `tests` on PYTHONPATH and serve `served.slow`."""
