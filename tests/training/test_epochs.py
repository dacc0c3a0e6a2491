"""Packed rows are new in each epoch: the batches that the model gets, with workers, on two ranks, and resumed.

torchrun runs this file too: ``test_epochs.py FOLDER`` is what each rank does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers

from sftcore import Backend
from sftcore.data.row_types import Example, Origin

LENGTHS = (3, 9, 5, 7) * 8
"""Tokens of the documents; the first token of each tells which one it is."""

FIRST = 10
SEED = 11
BATCH = 2
EPOCHS = 3


class Way(NamedTuple):
    """A way to load the rows."""

    accumulation: int = 1
    workers: int = 0
    persistent: bool = False
    data_seed: int | None = None
    strategy: str = "random"


WAYS = {
    "plain": Way(),
    "accumulation": Way(accumulation=2),
    "workers": Way(workers=2),
    "persistent workers": Way(workers=2, persistent=True),
    "data_seed": Way(data_seed=5),
    "sequential": Way(strategy="sequential"),
}

Seen = list[list[list[int]]]
"""The documents of each row of each batch."""


def packed_set() -> Any:
    from sftcore.data import PackedSet

    documents = []
    for number, length in enumerate(LENGTHS):
        ids = [FIRST + number, *range(1, length)]
        documents.append(Example(ids, ids, (length,), (Origin("f", number),)))
    packed = PackedSet(documents, 12)
    assert len(packed) % (2 * BATCH * 2) == 0, "all batches are full, on two ranks too"
    return packed


def train(folder: Path, way: Way, resume: str | None = None) -> Seen:
    """Train for three epochs, or resume from a checkpoint; the batches that the model got."""
    from accelerate.state import AcceleratorState
    from sftcore_plugins.methods.full import Full

    from sftcore.checkpoint.writer import CheckpointWriter
    from sftcore.config.schema import NonFiniteConfig
    from sftcore.data import Collator, RowOrder
    from sftcore.distributed.ranks import Ranks
    from sftcore.distributed.watchdog import Watchdog
    from sftcore.runtime.signals import StopRequest
    from sftcore.training.loss import TokenMeanLoss
    from sftcore.training.non_finite import NonFiniteGuard
    from sftcore.training.trainer import SftTrainer

    packed = packed_set()
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=FIRST + len(LENGTHS),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    )
    steps = len(packed) // (BATCH * int(os.environ.get("WORLD_SIZE", "1")) * way.accumulation)
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=way.accumulation,
        train_sampling_strategy=way.strategy,
        dataloader_num_workers=way.workers,
        dataloader_persistent_workers=way.persistent,
        seed=SEED,
        data_seed=way.data_seed,
        save_strategy="steps",
        save_steps=steps + steps // 2,  # in the middle of the second epoch
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    order = RowOrder(SEED if way.data_seed is None else way.data_seed, way.strategy == "sequential")
    ranks = Ranks(args.ddp_timeout)
    trainer = SftTrainer(
        loss=TokenMeanLoss(),
        method=Full(),
        backend=Backend(),
        checkpoint_writer=CheckpointWriter(folder, ranks, {}),
        stop=StopRequest(),
        non_finite=NonFiniteGuard(NonFiniteConfig(), ranks),
        watchdog=Watchdog(ranks, 60, 60, print),
        run_state=dict,
        model=model,
        args=args,
        train_dataset=packed.to_dataset(0, order),
        data_collator=Collator(0, packed=True),
    )
    seen: Seen = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"].tolist()
        seen.append([[token - FIRST for token in row if token >= FIRST] for row in ids])

    model.register_forward_pre_hook(note, with_kwargs=True)
    trainer.train(resume_from_checkpoint=resume)
    assert trainer.state.max_steps == EPOCHS * steps == trainer.state.global_step
    AcceleratorState._reset_state(reset_partial_state="WORLD_SIZE" not in os.environ)
    return seen


def both(folder: Path, way: Way) -> tuple[Seen, Seen]:
    """The batches of an uninterrupted run, and those after a resume from its checkpoint."""
    whole = train(folder, way)
    checkpoint = min(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return whole, train(folder / "resumed", way, str(checkpoint))


def expected(way: Way, rank: int = 0, ranks: int = 1) -> Seen:
    """The batches that a rank should get: its share of the rows in the order of seed and epoch."""
    bins = packed_set().bins
    batches: Seen = []
    for epoch in range(EPOCHS):
        seed = SEED if way.data_seed is None else way.data_seed
        rows = [list(row) for row in (bins.fixed() if way.strategy == "sequential" else bins.shuffled(seed, epoch))]
        batches += [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)][rank::ranks]
    return batches


def on_each_rank(folder: Path) -> None:
    """Train in every way, with the other rank."""
    seen = {name: both(folder / name, way) for name, way in WAYS.items()}
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(seen))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Spend no time on threads: there is too little to do for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two_ranks(nursery: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Seen]]]:
    """What each of two real ranks was given."""
    folder = tmp_path_factory.mktemp("ranks")
    codes = nursery.run_program(Path(__file__), str(folder), folder=folder, ranks=2)
    assert codes == [0, 0], [path.read_text() for path in folder.glob("log-*.txt")]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name != "plain" else ()) for name in WAYS]
)
def test_packed_rows_of_each_epoch_on_one_rank(tmp_path, name):
    whole, resumed = both(tmp_path, WAYS[name])
    assert whole == expected(WAYS[name])
    assert resumed == whole[len(whole) // 2 :]


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_packed_rows_of_each_epoch_on_two_ranks(two_ranks, name):
    for rank, seen in enumerate(two_ranks):
        whole, resumed = seen[name]
        assert whole == expected(WAYS[name], rank, 2)
        assert resumed == whole[len(whole) // 2 :]


def test_packing_has_each_document_once_in_an_epoch_and_other_rows_in_each_epoch():
    way = WAYS["plain"]
    batches = expected(way)
    epochs = [
        batches[start : start + len(batches) // EPOCHS] for start in range(0, len(batches), len(batches) // EPOCHS)
    ]
    for epoch in epochs:
        assert sorted(number for batch in epoch for row in batch for number in row) == list(range(len(LENGTHS)))
    assert len({json.dumps(epoch) for epoch in epochs}) == EPOCHS
    assert expected(way) != expected(WAYS["data_seed"])


if __name__ == "__main__":
    on_each_rank(Path(sys.argv[1]))
