"""The fields of a message, or of a whole row, that say whether and how much it is trained."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypedDict

from sftcore.core.errors import RowError, json_type

TRAIN_KEYS = ("train", "trainable", "training", "loss", "loss_mask")
"""Every spelling of whether a message is trained."""

WEIGHT_KEYS = ("weight", "loss_weight", "loss_scale")
"""Every spelling of the weight of its trained tokens."""

TRAINING_KEYS = frozenset((*TRAIN_KEYS, *WEIGHT_KEYS))


class TrainingFields(TypedDict):
    """The fields of a :class:`sftcore.Message` that control its training."""

    train: bool | None
    weight: float


def read_training_fields(fields: Mapping[str, Any], where: str = "") -> TrainingFields:
    """Return ``train`` and ``weight`` of *fields*, in any spelling; null is the same as a missing key.

    Raises:
        RowError: one has another type, a weight is negative or not finite, or two spellings differ.
    """
    train = _agreed({key: _switch(fields[key], key, where) for key in TRAIN_KEYS if fields.get(key) is not None}, where)
    weight = _agreed(
        {key: _weight(fields[key], key, where) for key in WEIGHT_KEYS if fields.get(key) is not None}, where
    )
    return {"train": train, "weight": 1.0 if weight is None else weight}


def _agreed(values: Mapping[str, Any], where: str) -> Any:
    if len(set(values.values())) > 1:
        given = " and ".join(f"'{key}' is {json_value}" for key, json_value in values.items())
        raise RowError(f"{where}{given}; keep one of them")
    return next(iter(values.values()), None)


def _switch(value: object, key: str, where: str) -> bool:
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise RowError(f"{where}'{key}' must be true or false, not {json_type(value)}")


def _weight(value: object, key: str, where: str) -> float:
    got = json_type(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 <= value <= sys.float_info.max:  # false for NaN, and for an integer that no float can hold
            return float(value)
        got = repr(value)
    raise RowError(f"{where}'{key}' must be a finite number of at least 0, not {got}")
