"""What happens to runs that are killed while they save: with transformers' Trainer as it is, and with sftcore.

Each run is killed before every file event below its output folder, and with every file half written, and started again.
``python bench/crashes.py [RANKS...]`` prints how many finished with the same weights, with others, or not at all.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections import Counter
from pathlib import Path

import yaml

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "checkpoint")]

from nursery import Kill, Nursery  # noqa: E402
from small_model import make_small_model  # noqa: E402

CONFIG = {
    "method": "full",
    "training_args": {
        "output_dir": "out",
        "max_steps": 3,
        "save_steps": 2,
        "save_total_limit": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
    },
}


def weights(folder: Path, plain: bool) -> str | None:
    """SHA-256 of the trained weights, if they exist."""
    path = folder / ("final" if plain else "out") / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def sweep(nursery: Nursery, base: Path, small: Path, ranks: int, plain: bool) -> Counter[str]:
    """The outcomes of the killed runs, counted."""
    env = {"PLAIN": str(small)} if plain else {}
    more = () if plain else ("--resume", "auto")

    def folder(name: str) -> Path:
        made = base / f"{name}-{ranks}-{plain}"
        made.mkdir()
        data = {"train": str(small / "rows.jsonl"), "workers": 1}
        config = {"model": {"name_or_path": str(small)}, "data": data, **CONFIG}
        (made / "finetune.yaml").write_text(yaml.safe_dump(config))
        return made

    whole = folder("whole")
    assert set(nursery.run(whole, *more, ranks=ranks, **env)) == {0}, (whole / "log-0.txt").read_text()
    found: Counter[str] = Counter()
    for rank in range(ranks):
        events = (whole / f"events-{rank}.txt").read_text().splitlines()
        for number, event in enumerate(events):
            for torn in (False, True)[: 1 + (event.split()[1] in ("open", "safetensors"))]:
                make_run = folder(f"{rank}-{number}-{torn}")
                nursery.run(make_run, *more, ranks=ranks, kill=Kill(number, torn, rank), **env)
                codes = nursery.run(make_run, *more, ranks=ranks, **env)
                same = weights(make_run, plain) == weights(whole, plain)
                found[
                    "the same weights" if same else "other weights, silently" if set(codes) == {0} else "refused"
                ] += 1
    return found


def main() -> None:
    base = Path(tempfile.mkdtemp())
    small = base / "small"
    small.mkdir()
    make_small_model(small)
    nursery = Nursery()
    print(f"{'':22}{'killed':>8}{'the same weights':>20}{'other weights, silently':>26}{'refused':>10}")
    for ranks in map(int, sys.argv[1:] or ("1", "2")):
        for plain in (True, False):
            found = sweep(nursery, base, small, ranks, plain)
            name = f"{'Trainer' if plain else 'sftcore'}, {ranks} rank{'s' * (ranks > 1)}"
            row = [f"{found[key]}" for key in ("the same weights", "other weights, silently", "refused")]
            print(f"{name:22}{found.total():>8}{row[0]:>20}{row[1]:>26}{row[2]:>10}", flush=True)
    nursery.close()


if __name__ == "__main__":
    main()
