"""The private names of other packages that training relies on; each list stands beside the code that uses them."""

from __future__ import annotations

from sftcore.distributed import watchdog
from sftcore.runtime.private_api import check_private_names
from sftcore.training import arguments, build, checkpointing, trainer


def check_private_names_of_libraries() -> None:
    """Check that the installed transformers, accelerate and torch have them all.

    Raises:
        SftError: names are missing or changed.
    """
    check_private_names(
        "transformers",
        trainer.PRIVATE_NAMES,
        checkpointing.PRIVATE_NAMES,
        checkpointing.MODEL_NAMES,
        arguments.PRIVATE_NAMES,
        build.PRIVATE_NAMES,
    )
    check_private_names("accelerate", trainer.ACCELERATOR_NAMES)
    check_private_names("torch", watchdog.PRIVATE_NAMES)
