"""What docs/scaling.md says, measured: what each step costs, whether that adds up, and what a large deployment does."""
