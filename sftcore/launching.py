"""For backends with a launcher of their own: start processes, ask them to stop, and be asked to stop."""

from sftcore.runtime.launched import Launched
from sftcore.runtime.signals import Stopped, listening

__all__ = ["Launched", "Stopped", "listening"]
