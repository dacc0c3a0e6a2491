"""One process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sftcore import Backend, SftError


@dataclass
class OneProcess(Backend):
    """Trains in this process, without a launcher."""

    def start(self, environ: Mapping[str, str], cpu: bool) -> None:
        if (size := environ.get("WORLD_SIZE", "1")) != "1":
            raise SftError(
                f"a launcher started {size} processes, but the backend is 'none'; set it to auto, or to the launcher's"
            )
