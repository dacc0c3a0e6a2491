"""For backends with a launcher of their own: start processes, ask them to stop, and be asked to stop."""

from sftcore.runtime.launch_protocol import LaunchedProcess
from sftcore.runtime.signals import Stopped, handle_stop_signals

__all__ = ["LaunchedProcess", "Stopped", "handle_stop_signals"]
