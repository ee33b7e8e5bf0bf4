"""What foreseen costs: ratios to baselines that are measured in the same run: `python -m benchmarks`."""
