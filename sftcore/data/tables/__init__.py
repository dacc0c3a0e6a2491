"""From conversations to Arrow tables of labelled tokens, and from these to examples and the account of every row."""
