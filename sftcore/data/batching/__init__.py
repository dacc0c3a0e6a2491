"""data/batching."""
