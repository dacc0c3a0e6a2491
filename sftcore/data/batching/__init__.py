"""From examples to batches: rows that several examples share, the order of an epoch, and tensors.

In: examples. Out: batches of tensors, the same for any number of ranks.
Knows nothing of files, templates or how examples were labelled.
"""
