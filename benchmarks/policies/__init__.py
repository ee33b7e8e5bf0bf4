"""What a model's cache policy and the cache server's eviction come to, with the real code in real time."""
