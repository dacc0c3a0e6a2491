"""data/preparation."""
