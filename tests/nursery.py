"""Runs of ``sft`` in processes forked from one that has imported everything, so that thousands can be killed.

``python nursery.py`` is that process: it reads a JSON object per line, starts or awaits runs, and answers with one.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import os
import runpy
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
"""Modules of a run, imported as far as they are installed."""

ZERO = "package:sftcore_config/deepspeed/ds_config{}.json"
BACKENDS = {
    "ddp": {"name": "torchrun"},
    "fsdp": {"name": "fsdp"},
    "sharded": {"name": "fsdp", "state_dict_type": "sharded"},
    "zero-2": {"name": "deepspeed", "config": ZERO.format("")},
    "zero-3": {"name": "deepspeed", "config": ZERO.format("_zero3")},
}
"""Backends for several ranks."""

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Kill:
    """When a rank kills itself.

    Attributes:
        event: number of the file event below the output folder, from 0.
        torn: after half of its file was written, and not before the event; events that do not write: before.
        rank: rank that is killed.
    """

    event: int
    torn: bool = False
    rank: int = 0


def die_with_parent() -> None:
    """Have this process killed when its parent ends, so that a failed test leaves no process behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Nursery:
    """Starts runs and waits for them."""

    def __init__(self) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self._read_answer()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def start(self, folder: Path, *args: str, ranks: int = 1, kill: Kill | None = None, **env: str) -> list[int]:
        """Start ``sft run`` in *folder*; the process ids of the ranks."""
        self._send(start=[*args], folder=str(folder), ranks=ranks, kill=kill and vars(kill), env=env)
        return list(self._read_answer()["pids"])

    def run_program(self, program: Path | str, *args: str, folder: Path, ranks: int = 1, **env: str) -> list[int]:
        """Run a script, or a module by its name, in *folder* as ``python`` would; the exit codes.

        The environment is that of the caller with *env*, and ``folder/log-RANK.txt`` has what a rank printed.
        """
        env = {**os.environ, **env, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._send(start=[*args], program=str(program), folder=str(folder), ranks=ranks, env=env)
        return self.wait(list(self._read_answer()["pids"]))

    def wait(self, pids: Sequence[int], seconds: float = 120) -> list[int]:
        """The exit codes; when one rank fails, the others have some seconds left, as with launchers."""
        self._send(wait=[*pids], seconds=seconds)
        return list(self._read_answer()["codes"])

    def run(self, folder: Path, *args: str, ranks: int = 1, kill: Kill | None = None, **env: str) -> list[int]:
        """Run to the end; the exit codes."""
        return self.wait(self.start(folder, *args, ranks=ranks, kill=kill, **env))

    def _send(self, **request: Any) -> None:
        assert self._process.stdin
        print(json.dumps(request), file=self._process.stdin, flush=True)

    def _read_answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the nursery has ended"
        return dict(json.loads(line))


def outcome(out: Path) -> dict[str, Any]:
    """What an interrupted and an uninterrupted run have in common: weights, optimizer, metrics, rows of each step."""
    weights = sorted(out.glob("*.safetensors"))
    last = max(out.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name.split("-")[1]))
    steps: dict[tuple[int, int], str] = {}
    for path in out.parent.glob("samples-*.jsonl"):
        for line in path.read_text().splitlines():
            with suppress(ValueError):  # the last line of a killed rank
                rank, step, part, rows, _ = json.loads(line)
                steps[rank, step, part] = rows
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timed = ("time", "runtime", "per_second")
    return {
        "weights": [_hash(path) for path in weights],
        "optimizer": [_hash(path) for path in sorted(last.glob("*optimizer*"))],
        "last": last.name,
        "samples": sorted((*key, rows) for key, rows in steps.items()),
        "metrics": [{key: item for key, item in line.items() if not key.endswith(timed)} for line in metrics],
    }


def row_order(out: Path) -> list[str]:
    """Origins of the rows that a run trained, in the order of steps, batches and ranks."""
    lines = [json.loads(line) for path in out.parent.glob("samples-*.jsonl") for line in path.read_text().splitlines()]
    return [row for _, _, _, _, rows in sorted(lines, key=lambda line: (line[1], line[2], line[0])) for row in rows]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- the process that forks ----


def main() -> None:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print while they are imported
    import torch

    for name in IMPORTED:
        with suppress(ImportError):
            importlib.import_module(name)
    torch.set_num_threads(1)
    print("{}", file=answer, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            print(json.dumps({"pids": _start(request)}), file=answer, flush=True)
        else:
            print(json.dumps({"codes": _wait(request["wait"], request["seconds"])}), file=answer, flush=True)


def _start(request: Mapping[str, Any]) -> list[int]:
    env = dict(request["env"])
    if request["ranks"] > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
            env |= {"WORLD_SIZE": str(request["ranks"]), "LOCAL_WORLD_SIZE": str(request["ranks"])}
    pids = []
    for rank in range(request["ranks"]):
        pid = os.fork()
        if not pid:
            die_with_parent()
            os.setpgid(0, 0)
            if request["ranks"] > 1:
                env |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            if "program" in request:
                _run_program(Path(request["folder"]), request["program"], request["start"], rank, env)
            _run_rank(Path(request["folder"]), request["start"], rank, request["kill"], env)
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


def _enter(folder: Path, rank: int) -> None:
    """Make *folder* the current one, and write what is printed to a file in it."""
    os.chdir(folder)
    log = os.open(folder / f"log-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _run_program(folder: Path, program: str, args: list[str], rank: int, env: dict[str, str]) -> None:
    """Be a process with that program; never return."""
    os.environ.clear()
    os.environ.update(env)
    _enter(folder, rank)
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = [program, *args]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    sys.exit()


def _run_rank(folder: Path, args: list[str], rank: int, kill: Mapping[str, Any] | None, env: dict[str, str]) -> None:
    """Be a rank; never return. With SEPARATE_DISKS each rank is a node, in a folder of its own."""
    if env.get("SEPARATE_DISKS"):
        folder = folder / f"node-{rank}"
        folder.mkdir(exist_ok=True)
        (folder / "finetune.yaml").write_bytes((folder.parent / "finetune.yaml").read_bytes())
        env |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update(env)
    _enter(folder, rank)
    if (place := env.get("STOP_IN")) and rank == int(env.get("STOP_RANK", "0")):
        _stop_in(*place.split(":"))
    if (limit := env.get("LARGEST_FILE")) and rank == 1:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    if env.get("USES_RNG"):
        import torch

        torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: torch.rand(1) and None)
    _record_samples(folder / f"samples-{rank}.jsonl", rank)
    _count_events(folder, rank, kill)
    _record_pickles(folder / f"pickles-{rank}.txt")
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
    """Send SIGTERM to this process at a certain call of a method of the trainer."""
    from sftcore.training.trainer import SftTrainer

    before, calls = getattr(SftTrainer, method), [0]

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == int(call):
            os.kill(os.getpid(), signal.SIGTERM)
        return before(self, *args, **kwargs)

    setattr(SftTrainer, method, called)


def _plain() -> int:
    """Train with transformers' own Trainer, which resumes from the newest checkpoint as its users do."""
    import torch
    import transformers
    from transformers.trainer_utils import get_last_checkpoint

    model = transformers.AutoModelForCausalLM.from_pretrained(os.environ["PLAIN"])
    generator = torch.Generator().manual_seed(0)
    rows = [{"input_ids": (ids := torch.randint(0, 200, (12,), generator=generator)), "labels": ids} for _ in range(24)]
    args = transformers.TrainingArguments(
        output_dir="out", max_steps=3, save_steps=2, save_total_limit=1, per_device_train_batch_size=4,
        learning_rate=1e-3, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model, args, train_dataset=rows)
    trainer.train(resume_from_checkpoint=get_last_checkpoint("out") if os.path.isdir("out") else None)
    if int(os.environ.get("RANK", "0")) == 0:
        trainer.save_model("final")
    return 0


def _record_samples(path: Path, rank: int) -> None:
    """Record the rows of each batch of each step."""
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


def _record_pickles(path: Path) -> None:
    """Record the classes that pickles name while a run resumes from a checkpoint, and who reads them."""
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


def _count_events(folder: Path, rank: int, kill: Mapping[str, Any] | None) -> None:
    """Count the changes of files below the output folder, and kill this process at one of them."""
    import safetensors.torch
    import torch

    out = str(folder / "out")
    counted = [0]
    open_torn: list[tuple[str, int]] = []  # and the size that it had: what was appended before stays
    log = os.open(folder / f"events-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def on_event(kind: str, path: str, writes: bool, appends: bool = False) -> None:
        if open_torn:
            torn, before = open_torn.pop()
            with suppress(OSError):
                os.truncate(torn, (before + os.path.getsize(torn)) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(log, f"{counted[0]} {kind} {path}\n".encode())
        if kill and rank == kill["rank"] and counted[0] == kill["event"]:
            if not (kill["torn"] and writes):
                os.kill(os.getpid(), signal.SIGKILL)
            open_torn.append((path, os.path.getsize(path) if appends and os.path.exists(path) else 0))
        counted[0] += 1

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, (str, os.PathLike)) and flags & WRITES and os.path.abspath(path).startswith(out):
                on_event(event, os.path.abspath(path), True, bool(flags & os.O_APPEND))
        elif event in CHANGES and isinstance(args[0], (str, os.PathLike)) and os.path.abspath(args[0]).startswith(out):
            on_event(event, os.path.abspath(args[0]), False)

    serialize = safetensors.torch.serialize_file

    def serialize_file(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        path = os.path.abspath(filename)
        if path.startswith(out):  # written by Rust, without an audit event
            on_event("safetensors", path, True)
        return serialize(tensors, filename, *args, **kwargs)

    save = torch.save

    def torch_save(value: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(file, (str, os.PathLike)) and os.path.abspath(file).startswith(out):
            on_event("torch", os.path.abspath(file), True)  # written by C++, without an audit event
        save(value, file, *args, **kwargs)

    torch.save = torch_save
    safetensors.torch.serialize_file = serialize_file
    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
