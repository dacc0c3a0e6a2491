"""From files and hub datasets to parsed rows, each with its file and line.

In: the sources of the configuration. Out: conversations with a key of their content, and the rows that were rejected.
Knows no tokenizer, template or label.
"""
