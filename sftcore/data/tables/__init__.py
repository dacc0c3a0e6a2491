"""data/tables."""
