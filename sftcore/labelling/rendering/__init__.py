"""labelling/rendering."""
