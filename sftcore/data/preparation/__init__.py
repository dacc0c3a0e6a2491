"""From sources to the sets of a run: rows labelled by many processes, cached, and selected.

In: the configuration and a labeller. Out: a training set, an evaluation set, and the account of all rows.
Knows nothing of models, training or streams.
"""
