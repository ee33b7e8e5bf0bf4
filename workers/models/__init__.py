"""Models that come with foreseen: examples of what a model file looks like."""
