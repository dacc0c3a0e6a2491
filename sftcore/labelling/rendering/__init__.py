"""Chat templates in a Jinja sandbox: rendered plainly, or with the origin of every character.

A template and messages go in; text comes out, and the message and field of its characters.
It knows nothing of tokens, labels or turns.
"""
