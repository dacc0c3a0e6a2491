"""Nested values with tensors in a safetensors file."""

from __future__ import annotations

import math

import pytest
import torch

from sftcore.checkpoint import tensor_tree


def test_a_tensor_tree_reads_back_as_written(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    value = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": shared}, 1: {"exp_avg": shared, "view": shared.T}},
        "groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "fused": None, "on": True, "params": [0, 1]}],
        "worst": math.inf,
        "bytes": torch.zeros(3, dtype=torch.uint8),
        "none": torch.zeros(0),
        ("a", 1): "text",
    }
    tensor_tree.save_tree(value, tmp_path / "a.safetensors")
    read = tensor_tree.load_tree(tmp_path / "a.safetensors")
    assert str(read) == str(value)
    assert read["groups"][0]["betas"] == (0.9, 0.999)
    assert read["state"][0]["exp_avg"] is read["state"][1]["exp_avg"]


def test_an_optimizer_restored_from_a_tensor_tree_continues_exactly(tmp_path):
    def steps(optimizer, weight, count):
        for number in range(count):
            weight.grad = torch.full_like(weight, number - 1.5)
            optimizer.step()

    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    whole, first = (torch.optim.AdamW([weight], lr=0.1) for weight in weights)
    steps(whole, weights[0], 3)
    steps(first, weights[1], 3)
    tensor_tree.save_tree(first.state_dict(), tmp_path / "optimizer.safetensors")
    second = torch.optim.AdamW([weights[1]], lr=9)
    second.load_state_dict(tensor_tree.load_tree(tmp_path / "optimizer.safetensors"))
    for optimizer, weight in ((whole, weights[0]), (second, weights[1])):
        steps(optimizer, weight, 2)
    assert torch.equal(*weights)


def test_a_tensor_tree_rejects_other_types(tmp_path):
    with pytest.raises(TypeError, match=r"builtins\.object cannot be written"):
        tensor_tree.save_tree({"a": object()}, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()
