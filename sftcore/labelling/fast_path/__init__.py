"""The fast path: labels conversations of one shape from a plan, without rendering them.

In: conversations, a chat template and a function that labels by rendering. Out: rendered conversations, or None.
Must not know: tokens, tables and files.
"""
