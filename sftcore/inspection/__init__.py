"""What ``sft preview`` and ``sft stats`` show of training data; nothing is trained.

A configuration or labelled examples go in; text, JSON or an HTML page comes out.
Knows neither weights nor the training loop.
"""
