"""Which rows are trained, how often, and which are evaluated.

In: the keys of labelled rows, the configuration and the seed. Out: row numbers of each set.
Knows nothing of tokens, files or the order of rows.
"""
