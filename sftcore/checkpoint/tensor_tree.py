"""Nested Python values with tensors in them, in one safetensors file: nothing in it can run code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_SHAPE = "tree"


def save(value: object, path: Path) -> None:
    """Write *value*: dicts, lists, tuples, tensors, numbers, strings, booleans and None, in each other.

    A tensor that stands in it twice is written once.

    Raises:
        TypeError: something else is in it.
        OSError: it cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    seen: dict[tuple[object, ...], str] = {}

    def plain(value: object) -> object:
        if type(value) in (torch.Tensor, torch.nn.Parameter):
            assert isinstance(value, torch.Tensor)
            place = value.data_ptr() if value.numel() else len(tensors)
            same = (place, value.shape, value.stride(), value.dtype, value.device)
            if same not in seen:
                seen[same] = str(len(tensors))
                tensors[seen[same]] = value.detach().to("cpu", copy=True).contiguous()
            return {"tensor": seen[same]}
        if isinstance(value, dict):
            return {"dict": [[plain(key), plain(item)] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            return {"tuple" if isinstance(value, tuple) else "list": [plain(item) for item in value]}
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} cannot be written as numbers and text")

    shape = json.dumps(plain(value))
    save_file(tensors, path, metadata={_SHAPE: shape})


def load(path: Path, device: torch.device | str = "cpu") -> Any:
    """Return what :func:`save` wrote, its tensors on *device*.

    Raises:
        OSError, ValueError, safetensors.SafetensorError: it cannot be read.
    """
    with safe_open(path, framework="pt", device=str(device)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        shape = json.loads(file.metadata()[_SHAPE])

    def built(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, inner),) = value.items()
        if kind == "tensor":
            return tensors[inner]
        if kind == "dict":
            return {built(key): built(item) for key, item in inner}
        items = [built(item) for item in inner]
        return tuple(items) if kind == "tuple" else items

    return built(shape)
