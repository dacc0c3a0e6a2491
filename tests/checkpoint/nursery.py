"""Runs of ``sft`` in processes that are forked from one that has imported everything, so that thousands can be ended.

``python nursery.py`` is that process: it takes one JSON object a line, starts what it asks for, and answers with one.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from running import end_with_parent

IMPORTED = (
    "sftcore.cli.main",
    "sftcore.runs.run",
    "sftcore.training.trainer",
    "sftcore.training.build",
    "sftcore.training.arguments",
    "sftcore_plugins.backends.torchrun",
    "sftcore_plugins.backends.fsdp",
    "sftcore_plugins.backends.deepspeed",
    "sftcore_plugins.methods.lora",
    "sftcore_plugins.methods.full",
    "sftcore_plugins.formats.messages",
    "peft.tuners.lora",
    "deepspeed",
    "einops",
    "transformers.models.llama.modeling_llama",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
)
"""What a run needs, as far as it is there."""

ZERO = "package:sftcore_config/deepspeed/ds_config{}.json"
BACKENDS = {
    "ddp": {"name": "torchrun"},
    "fsdp": {"name": "fsdp"},
    "sharded": {"name": "fsdp", "state_dict_type": "sharded"},
    "zero-2": {"name": "deepspeed", "config": ZERO.format("")},
    "zero-3": {"name": "deepspeed", "config": ZERO.format("_zero3")},
}
"""What runs on several ranks."""

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Death:
    """Where a process kills itself.

    Attributes:
        event: at which file event below the output folder, counted from 0.
        torn: not before it, but when its file was written in half; of what is no write, before it.
        rank: which process.
    """

    event: int
    torn: bool = False
    rank: int = 0


class Nursery:
    """Starts runs, and waits for them."""

    def __init__(self) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self._told()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def start(self, folder: Path, *args: str, ranks: int = 1, death: Death | None = None, **env: str) -> list[int]:
        """Start ``sft run`` in *folder* on so many ranks, and return their process ids."""
        self._ask(start=[*args], folder=str(folder), ranks=ranks, death=death and vars(death), env=env)
        return list(self._told()["pids"])

    def wait(self, pids: Sequence[int], seconds: float = 120) -> list[int]:
        """Return the exit codes; when one ends by a signal, the others have some seconds left, as launchers do it."""
        self._ask(wait=[*pids], seconds=seconds)
        return list(self._told()["codes"])

    def run(self, folder: Path, *args: str, ranks: int = 1, death: Death | None = None, **env: str) -> list[int]:
        """Run to the end, and return the exit codes."""
        return self.wait(self.start(folder, *args, ranks=ranks, death=death, **env))

    def _ask(self, **asked: Any) -> None:
        assert self._process.stdin
        print(json.dumps(asked), file=self._process.stdin, flush=True)

    def _told(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the nursery has ended"
        return dict(json.loads(line))


def outcome(out: Path) -> dict[str, Any]:
    """Return what has to be the same for two runs that are one: weights, optimizer, metrics, the rows of each step."""
    trained = sorted(out.glob("*.safetensors"))
    last = max(out.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name.split("-")[1]))
    steps: dict[tuple[int, int], str] = {}
    for path in out.parent.glob("samples-*.jsonl"):
        for line in path.read_text().splitlines():
            with suppress(ValueError):  # the last line of one that was killed
                rank, step, part, rows, _ = json.loads(line)
                steps[rank, step, part] = rows
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timed = ("time", "runtime", "per_second")
    return {
        "weights": [_hash(path) for path in trained],
        "optimizer": [_hash(path) for path in sorted(last.glob("*optimizer*"))],
        "last": last.name,
        "samples": sorted((*key, rows) for key, rows in steps.items()),
        "metrics": [{key: item for key, item in line.items() if not key.endswith(timed)} for line in metrics],
    }


def order(out: Path) -> list[str]:
    """Return where the rows were read that a run trained on, in the order of steps, their parts and ranks."""
    lines = [json.loads(line) for path in out.parent.glob("samples-*.jsonl") for line in path.read_text().splitlines()]
    return [row for _, _, _, _, rows in sorted(lines, key=lambda line: (line[1], line[2], line[0])) for row in rows]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- the process that has imported everything ----


def main() -> None:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries say things while they are imported
    import torch

    for name in IMPORTED:
        with suppress(ImportError):
            importlib.import_module(name)
    torch.set_num_threads(1)
    print("{}", file=answer, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        told = {"pids": _start(asked)} if "start" in asked else {"codes": _wait(asked["wait"], asked["seconds"])}
        print(json.dumps(told), file=answer, flush=True)


def _start(asked: Mapping[str, Any]) -> list[int]:
    env = dict(asked["env"])
    if asked["ranks"] > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
            env |= {"WORLD_SIZE": str(asked["ranks"]), "LOCAL_WORLD_SIZE": str(asked["ranks"])}
    pids = []
    for rank in range(asked["ranks"]):
        pid = os.fork()
        if not pid:
            end_with_parent()
            os.setpgid(0, 0)
            if asked["ranks"] > 1:
                env |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            _live(Path(asked["folder"]), asked["start"], rank, asked["death"], env)
        pids.append(pid)
    return pids


def _wait(pids: Sequence[int], seconds: float) -> list[int]:
    codes: dict[int, int] = {}
    until = time.monotonic() + seconds
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
                    if codes[pid] not in (0, 75):
                        until = min(until, time.monotonic() + 15)
        if time.monotonic() > until:
            for pid in pids:
                if pid not in codes:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


def _live(folder: Path, args: list[str], rank: int, death: Mapping[str, Any] | None, env: dict[str, str]) -> None:
    """Be a rank; never return. Where nodes share no disk, each rank is one, in a folder of its own."""
    if env.get("APART"):
        folder = folder / f"node-{rank}"
        folder.mkdir(exist_ok=True)
        (folder / "finetune.yaml").write_bytes((folder.parent / "finetune.yaml").read_bytes())
        env |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    os.chdir(folder)
    os.environ.update(env)
    log = os.open(folder / f"log-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if (asked := env.get("STOP_IN")) and rank == int(env.get("STOP_RANK", "0")):
        _stop_in(*asked.split(":"))
    if (limit := env.get("LARGEST_FILE")) and rank == 1:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    if env.get("DRAWS"):
        import torch

        torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: torch.rand(1) and None)
    _note_samples(folder / f"samples-{rank}.jsonl", rank)
    _count_events(folder, rank, death)
    _note_pickles(folder / f"pickles-{rank}.txt")
    sys.argv = ["sft", "run"]
    import sftcore.__main__ as program

    if env.get("PLAIN"):
        program.main = _plain
    else:
        program.main = lambda: _main(["run", "--config", "finetune.yaml", *args])
    program.program()


def _main(argv: list[str]) -> int:
    from sftcore.cli.main import main

    return main(argv)


def _stop_in(method: str, call: str) -> None:
    """Ask this process to stop when a method of the trainer is called for this time."""
    from sftcore.training.trainer import SftTrainer

    before, calls = getattr(SftTrainer, method), [0]

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == int(call):
            os.kill(os.getpid(), signal.SIGTERM)
        return before(self, *args, **kwargs)

    setattr(SftTrainer, method, called)


def _plain() -> int:
    """Train with transformers' own Trainer, which goes on from the newest checkpoint as users of it do."""
    import torch
    import transformers
    from transformers.trainer_utils import get_last_checkpoint

    model = transformers.AutoModelForCausalLM.from_pretrained(os.environ["PLAIN"])
    chance = torch.Generator().manual_seed(0)
    rows = [{"input_ids": (ids := torch.randint(0, 200, (12,), generator=chance)), "labels": ids} for _ in range(24)]
    args = transformers.TrainingArguments(
        output_dir="out", max_steps=3, save_steps=2, save_total_limit=1, per_device_train_batch_size=4,
        learning_rate=1e-3, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model, args, train_dataset=rows)
    trainer.train(resume_from_checkpoint=get_last_checkpoint("out") if os.path.isdir("out") else None)
    if int(os.environ.get("RANK", "0")) == 0:
        trainer.save_model("final")
    return 0


def _note_samples(path: Path, rank: int) -> None:
    """Write down which rows are trained in which part of which step."""
    from sftcore.training.trainer import SftTrainer

    before = SftTrainer.training_step
    file = path.open("a", buffering=1)
    seen = [-1, 0]

    def training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen[:] = [self.state.global_step, seen[1] + 1 if seen[0] == self.state.global_step else 0]
        rows = hashlib.sha256(inputs["input_ids"].numpy().tobytes()).hexdigest()
        file.write(json.dumps([rank, *seen, rows, [*inputs.get("origins", [])]]) + "\n")
        return before(self, model, inputs, *args, **kwargs)

    SftTrainer.training_step = training_step  # type: ignore[method-assign]


def _note_pickles(path: Path) -> None:
    """Write down what pickles name, while a run goes on from a checkpoint, and who reads them."""
    from sftcore.training.trainer import SftTrainer

    before, reading = SftTrainer._prepare_for_training, [False]
    file = path.open("w", buffering=1)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "pickle.find_class" and reading[0]:
            frame, who = sys._getframe(), []
            while frame := frame.f_back:  # type: ignore[assignment]
                who.append(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}")
            file.write(json.dumps([*args, who[:12]]) + "\n")

    def prepare(self: Any, *args: Any, **kwargs: Any) -> Any:
        reading[0] = True
        try:
            return before(self, *args, **kwargs)
        finally:
            reading[0] = False

    SftTrainer._prepare_for_training = prepare  # type: ignore[method-assign]
    sys.addaudithook(hook)


def _count_events(folder: Path, rank: int, death: Mapping[str, Any] | None) -> None:
    """Count what happens to files below the output folder, and end this process at one of them."""
    import safetensors.torch
    import torch

    out = str(folder / "out")
    counted = [0]
    open_torn: list[str] = []
    notes = os.open(folder / f"events-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def happens(kind: str, path: str, writes: bool) -> None:
        if open_torn:
            torn = open_torn.pop()
            with suppress(OSError):
                os.truncate(torn, os.path.getsize(torn) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(notes, f"{counted[0]} {kind} {path}\n".encode())
        if death and rank == death["rank"] and counted[0] == death["event"]:
            if not (death["torn"] and writes):
                os.kill(os.getpid(), signal.SIGKILL)
            open_torn.append(path)
        counted[0] += 1

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, (str, os.PathLike)) and flags & WRITES and os.path.abspath(path).startswith(out):
                happens(event, os.path.abspath(path), True)
        elif event in CHANGES and isinstance(args[0], (str, os.PathLike)) and os.path.abspath(args[0]).startswith(out):
            happens(event, os.path.abspath(args[0]), False)

    serialize = safetensors.torch.serialize_file

    def serialize_file(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        path = os.path.abspath(filename)
        if path.startswith(out):  # it is written by Rust, which tells nobody
            happens("safetensors", path, True)
        return serialize(tensors, filename, *args, **kwargs)

    save = torch.save

    def torch_save(value: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(file, (str, os.PathLike)) and os.path.abspath(file).startswith(out):
            happens("torch", os.path.abspath(file), True)  # it is written by C++, which tells nobody
        save(value, file, *args, **kwargs)

    torch.save = torch_save
    safetensors.torch.serialize_file = serialize_file
    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
