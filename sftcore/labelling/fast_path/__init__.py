"""labelling/fast_path."""
