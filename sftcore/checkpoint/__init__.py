"""Checkpoints that are there whole or not at all, and what a run needs to go on from one as if it had never stopped."""

from sftcore.checkpoint.manifest import Manifest
from sftcore.checkpoint.store import Checkpoint, Checkpoints

__all__ = ["Checkpoint", "Checkpoints", "Manifest"]
