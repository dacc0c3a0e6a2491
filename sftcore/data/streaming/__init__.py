"""data/streaming."""
