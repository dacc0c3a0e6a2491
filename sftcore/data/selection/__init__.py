"""data/selection."""
