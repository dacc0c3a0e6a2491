"""Trackers, such as Weights & Biases: each a process of its own that reads the metrics file of the run.

The trackers of a configuration and ``metrics.jsonl`` go in; nothing comes back but warnings.
Knows neither the model nor the training loop, and never makes a run wait.
"""
