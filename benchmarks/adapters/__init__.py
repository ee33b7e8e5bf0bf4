"""What the adapters' examples give by batch size, and how far a batch is from its inputs alone."""
