"""Private names of transformers.Trainer: the list of them is complete, and checked before anything else."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import transformers

from sftcore.training import trainer
from sftcore.training.private_names import TRAINER

ASSIGNED = {
    node.attr
    for node in ast.walk(ast.parse(inspect.getsource(transformers.Trainer)))
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
}
TRAINERS = {*dir(transformers.Trainer), *ASSIGNED}


def trainer_classes():
    for path in Path(trainer.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Trainer") for base in node.bases):
                yield node


def overridden():
    """Methods of the Trainer that a subclass defines."""
    names = {item.name for node in trainer_classes() for item in node.body if isinstance(item, ast.FunctionDef)}
    return (names & TRAINERS) - {"__init__", "train"}


def used():
    """Private names of the Trainer that a subclass reads, sets or calls, on itself or on its base class."""
    for node in (item for parent in trainer_classes() for item in ast.walk(parent)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "super()"):
            yield node.attr


def private(names):
    return {name for name in names if name in TRAINERS and name.startswith("_") and not name.startswith("__")}


def test_every_method_of_the_trainer_that_is_overridden_is_listed():
    assert len(overridden()) > 20
    assert overridden() == set(TRAINER.overrides)


def test_every_private_name_of_the_trainer_that_is_used_is_listed():
    beside_overrides = {*TRAINER.calls, *TRAINER.attributes}
    assert private(used()) > {"_tr_loss", "_evaluate", "_save_scaler"}
    assert private(used()) <= {*beside_overrides, *overridden()}
    assert private(beside_overrides) <= private(used())


@pytest.mark.parametrize("name", ["_get_grad_norm", "_save_checkpoint", "_maybe_log_save_evaluate"])
def test_a_renamed_private_method_of_the_trainer_ends_the_run_before_data_and_training(sft, monkeypatch, name):
    monkeypatch.setattr(transformers.Trainer, f"{name}_v2", getattr(transformers.Trainer, name), raising=False)
    monkeypatch.delattr(transformers.Trainer, name)
    ended = sft.run_here()
    assert ended.code == 2
    assert f"Trainer: {name} does not exist" in ended.said
    assert f"transformers {transformers.__version__} " in ended.said
    assert "tested with transformers" in ended.said
    assert ended.said.count("error:") == 1
    assert "rows.jsonl" not in ended.said
    assert not sft.out.exists()


def test_a_changed_parameter_of_a_private_method_is_reported(monkeypatch):
    def _save_checkpoint(self, trial, model): ...

    monkeypatch.setattr(transformers.Trainer, "_save_checkpoint", _save_checkpoint)
    assert "_save_checkpoint takes (trial, model), not (model, trial, ...)" in TRAINER.problems()
