"""From sources to the sets of a run: rows labelled by many processes, cached, and selected; knows no model."""
