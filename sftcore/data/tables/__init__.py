"""From parsed rows to Arrow tables of labelled tokens, and from these to the examples and the summary of a set.

In: conversations and a labeller. Out: tables, examples, and an account of every row.
Knows nothing of processes, caches or the order of training.
"""
