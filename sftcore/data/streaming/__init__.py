"""Rows that are read, labelled and trained as they come.

In: sources and a labeller. Out: examples in an order that follows from data and seed, and the account of their rows.
Knows nothing of models, and of the Trainer no more than its dataset and callback.
"""
