"""Training with transformers' Trainer: exact to the token, and resumable at every step.

In: a model, a method, training sets, ``TrainingArguments``. Out: steps, metrics, the state of a checkpoint.
It must not know where rows come from, how they were labelled, or what a run prints and records besides.
"""
