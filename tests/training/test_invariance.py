"""Loss and gradient of a step do not depend on how its conversations are distributed over rows, batches and ranks.

torchrun runs this file too: ``test_invariance.py MODEL FOLDER`` is what each rank does.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import transformers

from sftcore.data import MapStyleSet
from sftcore.data.row_types import Example, Origin

BAR = 1e-6
"""The largest relative difference: of the losses, and of the gradients as vectors."""

LENGTHS = (12, 40, 23, 57, 31, 7, 48, 33)
"""Tokens of the conversations; packed into rows of 64, they fill four."""


class Spread(NamedTuple):
    """The distribution of the conversations of a step; each rank takes ``batch`` rows, ``accumulation`` times."""

    batch: int
    accumulation: int = 1
    packing: bool = False
    flat: bool = False
    """Whether the rows of a batch are laid end to end, as flash attention wants them."""


ONE_RANK = {
    "padded": Spread(8),
    "accumulation 2": Spread(4, 2),
    "accumulation 4": Spread(2, 4),
    "each alone": Spread(1, 8),
    "packed": Spread(4, packing=True),
    "packed, accumulation 2": Spread(2, 2, packing=True),
    "packed, accumulation 4": Spread(1, 4, packing=True),
    "packed, flat": Spread(4, packing=True, flat=True),
    "packed, flat, accumulation 2": Spread(2, 2, packing=True, flat=True),
}
TWO_RANKS = {
    "2 ranks": Spread(4),
    "2 ranks, accumulation 2": Spread(2, 2),
    "2 ranks, accumulation 4": Spread(1, 4),
    "2 ranks, packed": Spread(2, packing=True),
    "2 ranks, packed, accumulation 2": Spread(1, 2, packing=True),
    "2 ranks, packed, flat": Spread(2, packing=True, flat=True),
}
WEIGHTED = {"no weights": 0, "weights": 8, "weights in the first half": 4}
"""How many of the conversations, from the first on, have weights; half of them may be those of one rank."""


class Step(NamedTuple):
    """What a step saw before the weights changed; ``gradient`` is float64, all parameters in one vector."""

    loss: float
    eval_loss: float
    gradient: torch.Tensor


class Rows(MapStyleSet):
    """A training set of a few examples."""

    def __init__(self, examples: list[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, row: int) -> Example:  # type: ignore[override]
        return self._examples[row]

    @property
    def weighted(self) -> bool:
        return any(example.weights is not None for example in self)


def conversations(weighted: int) -> Rows:
    """Make them; their first tokens are labelled too, which must not count, since nothing predicts them."""
    chance = random.Random(7)
    examples = []
    for number, length in enumerate(LENGTHS):
        ids = chance.choices(range(1, 200), k=length)
        trained = [at == 0 or (at > 2 and at % 8 > number % 4) for at in range(length)]
        labels = [token if on else -100 for token, on in zip(ids, trained, strict=True)]
        weights = [chance.choice((0.1, 0.3, 1.0, 2.5)) if on else 0.0 for on in trained]
        origins = (Origin("f", number),)
        examples.append(Example(ids, labels, (length,), origins, weights if number < weighted else None))
    return Rows(examples)


def by_hand(model: Path, weighted: int) -> Step:
    """Compute in float64, with nothing of sftcore, one conversation after the other."""
    llama = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    total, weight = torch.zeros((), dtype=torch.float64), 0.0
    for example in conversations(weighted):
        logprobs = llama(torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
        for at in range(1, len(example.labels)):
            if example.labels[at] != -100:
                each = 1.0 if example.weights is None else example.weights[at]
                total, weight = total - each * logprobs[at - 1, example.labels[at]], weight + each
    loss = total / weight
    loss.backward()
    return Step(loss.item(), loss.item(), torch.cat([parameter.grad.flatten() for parameter in llama.parameters()]))


class KeepGradient(transformers.TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradient = torch.cat([weight.grad.double().flatten() for weight in model.parameters()])


def trainer_of(model: Path, folder: Path, spread: Spread, train_set: Any, eval_set: Any) -> Any:
    """The trainer of a run, in float32."""
    from sftcore.checkpoint.writer import CheckpointWriter
    from sftcore.config.document import Document
    from sftcore.config.loader import load_config
    from sftcore.core.registry import Registry
    from sftcore.data import PackedSet
    from sftcore.distributed.ranks import Ranks
    from sftcore.distributed.watchdog import Watchdog
    from sftcore.models import base_model
    from sftcore.models.chat_template import ModelSetup
    from sftcore.runtime.signals import StopRequest
    from sftcore.training import arguments, build

    given = {
        "output_dir": str(folder),
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": spread.batch,
        "per_device_eval_batch_size": spread.batch,
        "gradient_accumulation_steps": spread.accumulation,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "eval_on_start": True,
        "eval_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    data = {"train": "not read", "packing": spread.packing}
    values = {"model": {"name_or_path": str(model)}, "data": data, "method": "full", "training_args": given}
    loaded = load_config(Document(values), Registry.discover(), os.environ)
    loaded.config.backend.start(os.environ, True)
    base = base_model.resolve_base_model(loaded.config.model, loaded.document)
    args = arguments.build_training_args(loaded, cpu=True, has_eval=False, environ=os.environ)
    if spread.packing:
        train_set, eval_set = PackedSet(train_set, 64), PackedSet(eval_set, 64)
    assert len(train_set) == spread.batch * spread.accumulation * args.world_size
    ranks = Ranks(args.ddp_timeout)
    trainer = build.build_job(
        ModelSetup(base, base.load_tokenizer(), Any, SimpleNamespace(stops=[])),
        loaded.config,
        args,
        SimpleNamespace(train=train_set, eval=eval_set, fingerprint=""),
        CheckpointWriter(folder, ranks, {}),
        StopRequest(),
        Watchdog(ranks, 60, 60, print),
    ).trainer
    assert not trainer.data_collator.flat
    trainer.data_collator = replace(trainer.data_collator, flat=spread.flat)
    return trainer


def by_sftcore(model: Path, folder: Path, spread: Spread, weighted: int) -> Step:
    """Evaluate, and take a step."""
    trainer = trainer_of(model, folder, spread, conversations(weighted), conversations(weighted))
    assert trainer.data_collator.weighted == (weighted > 0)
    keep = KeepGradient()
    trainer.add_callback(keep)
    given: set[str] = set()
    trainer.model.register_forward_pre_hook(lambda module, args, kwargs: given.update(kwargs), with_kwargs=True)
    loss = trainer.train().training_loss
    eval_loss = next(logs["eval_loss"] for logs in trainer.state.log_history if "eval_loss" in logs)
    assert "input_ids" in given
    assert "loss_weights" not in given
    assert spread.packing or trainer.state.num_input_tokens_seen == sum(LENGTHS)
    return Step(loss, eval_loss, keep.gradient)


def on_each_rank(model: Path, folder: Path) -> None:
    """Take every step that two ranks take together."""
    steps = {
        (spread, weighted): tuple(by_sftcore(model, folder, TWO_RANKS[spread], WEIGHTED[weighted]))
        for spread in TWO_RANKS
        for weighted in WEIGHTED
    }
    torch.save(steps, folder / f"rank{os.environ['RANK']}.pt")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Spend no time on threads: there is too little to do for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_process() -> Iterator[None]:
    """Make an end of what accelerate keeps of a run."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of two small layers and few tokens, so that a step takes no time."""
    from tokenizers import Tokenizer, models

    folder = tmp_path_factory.mktemp("llama")
    words = Tokenizer(models.WordLevel({"<pad>": 0}, "<pad>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(model: Path) -> dict[str, Step]:
    return {name: by_hand(model, weighted) for name, weighted in WEIGHTED.items()}


@pytest.fixture(scope="module")
def two_ranks(model: Path, nursery: Any, once: Any) -> list[dict[tuple[str, str], Step]]:
    """What each of two real ranks saw."""

    def train(folder: Path) -> None:
        codes = nursery.run_program(Path(__file__), str(model), str(folder), folder=folder, ranks=2)
        assert codes == [0, 0], [path.read_text() for path in folder.glob("log-*.txt")]

    folder = once("ranks", train)
    ranks = [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]
    return [{key: Step(*values) for key, values in rank.items()} for rank in ranks]


def differences(step: Step, expected: Step) -> Step:
    """The relative differences."""
    return Step(
        abs(step.loss / expected.loss - 1),
        abs(step.eval_loss / expected.eval_loss - 1),
        float((step.gradient - expected.gradient).norm() / expected.gradient.norm()),
    )


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("spread", ONE_RANK)
def test_loss_and_gradient_are_the_same_on_one_rank(model, expected, tmp_path, one_process, spread, weighted):
    found = differences(by_sftcore(model, tmp_path, ONE_RANK[spread], WEIGHTED[weighted]), expected[weighted])
    print(found)
    assert max(found) <= BAR


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("spread", TWO_RANKS)
def test_loss_and_gradient_are_the_same_on_two_ranks(two_ranks, expected, spread, weighted):
    for rank in two_ranks:
        found = differences(rank[spread, weighted], expected[weighted])
        print(found)
        assert max(found) <= BAR


def test_these_loss_weights_change_the_loss(expected):
    for one, other in [("no weights", "weights"), ("weights", "weights in the first half")]:
        assert min(differences(expected[one], expected[other])) > 10 * BAR


def test_only_the_training_or_the_evaluation_set_may_have_loss_weights(model, expected, tmp_path, one_process):
    trainer = trainer_of(model, tmp_path, ONE_RANK["padded"], conversations(0), conversations(8))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected["weights"].loss, rel=BAR)
    assert trainer.train().training_loss == pytest.approx(expected["no weights"].loss, rel=BAR)


def test_deepspeed_does_not_round_loss_weights(model, expected, tmp_path, one_process, monkeypatch):
    """Where DeepSpeed trains in bfloat16, transformers gives every float of a batch that type."""
    trainer = trainer_of(model, tmp_path, ONE_RANK["padded"], conversations(8), conversations(8))
    batch = trainer.data_collator(conversations(8))
    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    monkeypatch.setattr(type(trainer.accelerator.state), "deepspeed_plugin", plugin)
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    assert trainer._prepare_inputs(batch)["loss_weights"].dtype == torch.bfloat16
    loss = trainer.training_step(trainer.model, batch, batch["loss_weights"][:, 1:].sum())
    trainer.prediction_step(trainer.model, batch, prediction_loss_only=True)
    total, weight = trainer._loss.pop_evaluated()
    assert [float(loss), total / weight] == pytest.approx([expected["weights"].loss] * 2, rel=BAR)


if __name__ == "__main__":
    on_each_rank(*map(Path, sys.argv[1:]))
