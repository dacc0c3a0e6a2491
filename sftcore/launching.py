"""For backends with a launcher of their own: start processes, ask them to stop, and be asked to stop."""

from sftcore.runtime.output import guard_output
from sftcore.runtime.rank_control import STOPPED_EXIT_CODE, LaunchedProcess
from sftcore.runtime.signal_mask import stop_signals_blocked
from sftcore.runtime.signals import Stopped, handle_stop_signals

__all__ = [
    "STOPPED_EXIT_CODE",
    "LaunchedProcess",
    "Stopped",
    "guard_output",
    "handle_stop_signals",
    "stop_signals_blocked",
]
