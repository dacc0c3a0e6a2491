"""Nested Python values with tensors, as one safetensors file: reading it cannot run code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_TREE = "tree"


def save_tree(value: object, path: Path) -> None:
    """Write *value*: dicts, lists, tuples, tensors, numbers, strings, booleans and None, nested.

    A tensor that appears twice is written once.

    Raises:
        TypeError: *value* contains another type.
        OSError: the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    names: dict[tuple[object, ...], str] = {}

    def to_json(value: object) -> object:
        if type(value) in (torch.Tensor, torch.nn.Parameter):
            assert isinstance(value, torch.Tensor)
            address = value.data_ptr() if value.numel() else len(tensors)
            identity = (address, value.shape, value.stride(), value.dtype, value.device)
            if identity not in names:
                names[identity] = str(len(tensors))
                tensors[names[identity]] = value.detach().to("cpu", copy=True).contiguous()
            return {"tensor": names[identity]}
        if isinstance(value, dict):
            return {"dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            return {"tuple" if isinstance(value, tuple) else "list": [to_json(item) for item in value]}
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} cannot be written as numbers and text")

    tree = json.dumps(to_json(value))
    save_file(tensors, path, metadata={_TREE: tree})


def load_tree(path: Path) -> Any:
    """The value that :func:`save_tree` wrote, its tensors on the CPU.

    Raises:
        OSError, ValueError, safetensors.SafetensorError: the file cannot be read.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is not a mapping
        tree = json.loads(file.metadata()[_TREE])

    def from_json(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "dict":
            return {from_json(key): from_json(item) for key, item in content}
        items = [from_json(item) for item in content]
        return tuple(items) if kind == "tuple" else items

    return from_json(tree)
