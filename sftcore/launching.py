"""For backends with a launcher of their own: start processes, ask them to stop, and be asked to stop."""

from sftcore.runtime.rank_control import STOPPED_EXIT_CODE, LaunchedProcess
from sftcore.runtime.signals import Stopped, handle_stop_signals

__all__ = ["STOPPED_EXIT_CODE", "LaunchedProcess", "Stopped", "handle_stop_signals"]
