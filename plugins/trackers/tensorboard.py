"""TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sftcore import Tracker


@dataclass
class TensorBoard(Tracker):
    """Writes event files for `tensorboard --logdir`."""

    requires: ClassVar[tuple[str, ...]] = ("tensorboard",)

    log_dir: str | None = None
    """Folder of the event files; default: tensorboard in the output folder."""

    def start(self, run: Mapping[str, Any]) -> None:
        # tensorboard's own writer: torch wraps the same one, but takes long to import
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(self.log_dir or f"{run['output_dir']}/tensorboard")
        config = json.dumps({**run["config"], "versions": run["versions"]}, indent=2, ensure_ascii=False, default=str)
        self._text("config", f"```json\n{config}\n```")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]), step)
        self._writer.flush()

    def finish(self, error: BaseException | None = None) -> None:
        self._text("end", "finished" if error is None else f"{type(error).__name__}: {error}")
        self._writer.close()

    def _text(self, tag: str, text: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        metadata = create_summary_metadata(display_name=None, description=None)
        tensor = make_tensor_proto([text.encode()], shape=(1,))
        self._add(Summary(value=[Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)]), 0)

    def _add(self, summary: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
