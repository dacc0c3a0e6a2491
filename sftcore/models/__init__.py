"""The base model, without training it: its files, tokenizer, weights and chat template.

A configuration goes in; a BaseModel, and a labeller for its tokenizer and template, come out.
Knows neither the rows of a dataset nor how a model is trained or saved.
"""
