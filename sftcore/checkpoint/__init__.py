"""Checkpoints: complete or not there at all, and resumed from exactly.

In: files that each rank writes, random states. Out: verified checkpoint folders, and the exported model.
It must not know the Trainer, the data or the configuration; only ``training`` knows what a run needs to resume.
"""
