"""The cache of labelled rows: the same bytes from any process, complete or absent, made again when it has to be."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
from datetime import datetime
from functools import partial

import pytest
from transformers import AutoTokenizer

from sftcore.config.document import Document
from sftcore.config.loader import load_config
from sftcore.core.errors import DataError, SftError
from sftcore.core.registry import Registry
from sftcore.data import prepare
from sftcore.data.preparation import blocks, fingerprint, pool, source_cache
from sftcore.data.preparation.progress import PreparationProgress
from sftcore.data.preparation.source_cache import ABOUT, Cache, CachedSource
from sftcore.data.tables import account
from sftcore.data.tables.label_batch import label_rows
from sftcore.labelling import Labeller, labeller
from sftcore.runtime import file_io
from sftcore.runtime.file_io import FileLock
from sftcore.tokenization import Encoder

REGISTRY = Registry.discover()
ROWS = 700


@pytest.fixture(scope="module")
def serving(smollm2):
    return Labeller(AutoTokenizer.from_pretrained(smollm2), ["<|im_end|>"])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Make blocks, shards and what one process does alone so small that a few rows have many of them."""
    monkeypatch.setattr(blocks, "ROWS", 20)
    monkeypatch.setattr(source_cache, "BLOCKS", 3)
    monkeypatch.setattr(pool, "FEW_BLOCKS", 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows of many kinds: several turns, weights, too long ones, bad ones, and those that cannot be labelled."""
    chance = random.Random(0)
    lines = []
    for number in range(ROWS):
        turns = [
            {"role": role, "content": f"{role} {number} é你 " * chance.randint(1, 30)} for role in ("user", "assistant")
        ]
        if number % 7 == 0:
            turns += [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "So.", "weight": 0.5}]
        line = json.dumps({"messages": turns}, ensure_ascii=False)
        lines.append({3: "{", 5: json.dumps({"messages": turns[:1]})}.get(number % 50, line))
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("\n".join(lines))
    return path


def configured(data, **options):
    section = {"train": str(data), "max_bad_rows": 0.5, "max_length": 200, **options}
    return load_config(Document({"model": {"name_or_path": "x"}, "method": "full", "data": section}), REGISTRY, {})


def made(folder, data, serving, **options):
    """Return the prepared data, and the bytes of all files that hold rows."""
    done = prepare(configured(data, **options), REGISTRY, serving, cache=Cache(folder))
    [(_, cached, _)] = done.sources
    return done, {path.name: path.read_bytes() for path in cached.folder.iterdir() if path.name != ABOUT}


class Counting(PreparationProgress):
    """Counts the rows that are labelled, and says nothing."""

    rows = 0

    def start(self, source):
        pass

    def update(self, share, rows, tokens):
        self.rows += rows

    def finish(self, complete):
        pass


def labelled(folder, data, serving, **options):
    """The number of rows that had to be labelled."""
    progress = Counting()
    prepare(configured(data, **options), REGISTRY, serving, progress, Cache(folder))
    return progress.rows


@pytest.fixture(scope="module")
def right(data, serving, tmp_path_factory):
    """What one process makes of the data, without an accelerator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "ROWS", 20)
        patch.setattr(source_cache, "BLOCKS", 3)
        patch.setattr(pool, "FEW_BLOCKS", 10**9)
        patch.setattr(labeller, "Encoder", lambda tokenizer, **_: Encoder(tokenizer, lambda _: None))
        vars(serving).pop("encoder", None)
        files = made(tmp_path_factory.mktemp("right"), data, serving)[1]
        vars(serving).pop("encoder", None)
    assert len([name for name in files if name.endswith(".arrow")]) == 12
    return files


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_any_number_of_workers_writes_the_same_bytes(tmp_path, data, serving, right, processes):
    assert made(tmp_path, data, serving, workers=processes)[1] == right


def test_an_accelerator_makes_the_same_bytes(tmp_path, data, serving, right, monkeypatch):
    pytest.importorskip("fastokens")
    monkeypatch.setattr(labeller, "Encoder", lambda tokenizer, **_: Encoder(tokenizer, verify_after=0))
    asked = []
    monkeypatch.setattr(Encoder, "_accelerated", lambda self, *args: asked.append(1) or accelerated(self, *args))
    monkeypatch.setattr(pool, "FEW_BLOCKS", 10**9)
    vars(serving).pop("encoder", None)
    assert made(tmp_path, data, serving)[1] == right
    assert serving.encoder.engine == "fastokens"
    assert asked


accelerated = Encoder._accelerated


def test_cached_rows_are_not_labelled_again(tmp_path, data, serving):
    assert labelled(tmp_path, data, serving) == ROWS
    assert labelled(tmp_path, data, serving) == 0


@pytest.mark.parametrize(
    "options",
    [{"eval": {"fraction": 0.1}}, {"packing": True}, {"max_bad_rows": 99}, {"workers": 2}],
    ids=lambda options: next(iter(options)),
)
def test_options_that_change_no_row_change_no_key(tmp_path, data, serving, options):
    made(tmp_path, data, serving)
    assert labelled(tmp_path, data, serving, **options) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 201},
        {"train_on": "all"},
        {"truncation": "split"},
        {"reasoning": "mask"},
        {"train_on_stop": False},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_matter_change_the_key(tmp_path, data, serving, options):
    made(tmp_path, data, serving)
    assert labelled(tmp_path, data, serving, **options) == ROWS


def test_options_of_a_source_change_the_key(tmp_path, data, serving):
    made(tmp_path, data, serving)
    for source in (
        {"limit": 50},
        {"weight": 2},
        {"columns": {"messages": "messages"}},
        {"roles": {"user": "user"}},
        {"message_keys": {"role": "role"}},
        {"format": "messages"},
    ):
        rows = labelled(tmp_path, data, serving, train={"path": str(data), **source})
        assert rows == {"limit": 50, "format": 0}.get(next(iter(source)), ROWS), source


def test_where_the_file_lies_does_not_matter_but_every_byte_of_it(tmp_path, data, serving):
    made(tmp_path / "c", data, serving)
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes(data.read_bytes())
    done, _ = made(tmp_path / "c", moved, serving)
    assert labelled(tmp_path / "c", moved, serving) == 0
    assert {example.origins[0].path for example in done.train} == {str(moved)}
    moved.write_bytes(data.read_bytes().replace(b"assistant 8 ", b"assistant 9 ", 1))
    assert labelled(tmp_path / "c", moved, serving) == ROWS


def test_another_template_changes_the_key(tmp_path, data, serving, smollm2):
    made(tmp_path, data, serving)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.chat_template += " "
    assert labelled(tmp_path, data, Labeller(tokenizer, ["<|im_end|>"])) == ROWS
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.add_tokens(["assistant 8"])
    assert labelled(tmp_path, data, Labeller(tokenizer, ["<|im_end|>"])) == ROWS
    assert labelled(tmp_path, data, Labeller(AutoTokenizer.from_pretrained(smollm2), ["<|im_end|>"])) == 0


def in_child(act):
    """Start *act* in a process of its own, and return its number."""
    child = os.fork()
    if not child:
        try:
            act()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.chaos)])
def test_a_preparation_resumed_after_sigkill_has_the_same_rows(tmp_path, data, serving, right, kills):
    """At random moments; the next preparation continues from finished shards."""
    chance = random.Random(1)
    began = time.monotonic()
    assert os.waitpid(in_child(lambda: made(tmp_path / "first", data, serving, workers=2)), 0)[1] == 0
    usual = time.monotonic() - began
    resumed = 0
    for kill in range(kills):
        folder = tmp_path / str(kill)
        child = in_child(partial(made, folder, data, serving, workers=1 + kill % 2))
        time.sleep(chance.random() * usual)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        parts = list(folder.glob("*.part/*.json"))
        done = Counting()
        rows = prepare(configured(data), REGISTRY, serving, done, Cache(folder)).sources[0].cached
        assert {path.name: path.read_bytes() for path in rows.folder.iterdir() if path.name != ABOUT} == right
        assert not list(folder.glob("*.part"))
        resumed += bool(parts) and done.rows < ROWS
    assert resumed


def test_of_processes_that_start_together_one_prepares(tmp_path, data, serving, right):
    children = [in_child(lambda: made(tmp_path, data, serving, workers=1)) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert made(tmp_path, data, serving)[1] == right
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_two_ranks_that_check_the_cache_at_once_do_not_deadlock(tmp_path, data, serving, right, monkeypatch):
    """As ranks do, which then keep what they have for the whole run."""
    both, looked, opened = threading.Barrier(2), threading.local(), CachedSource.open

    def look(folder, lock=None):
        if lock and not hasattr(looked, "once"):
            looked.once = True
            both.wait(60)
        return opened(folder, lock)

    monkeypatch.setattr(CachedSource, "open", look)
    kept = []

    def rank():
        kept.append(prepare(configured(data, workers=1), REGISTRY, serving, cache=Cache(tmp_path)))

    ranks = [threading.Thread(target=rank, daemon=True) for _ in range(2)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(120)
    assert len(kept) == 2
    assert [found.fingerprint for found in kept] == [kept[0].fingerprint] * 2


def test_without_file_locks_each_process_prepares_and_one_copy_stays(tmp_path, data, serving, right, monkeypatch):
    def refuse(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(file_io.fcntl, "flock", refuse)
    children = [in_child(lambda: made(tmp_path, data, serving, workers=1)) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert made(tmp_path, data, serving)[1] == right
    assert not list(tmp_path.glob("*.part"))


def test_a_truncated_shard_is_prepared_again(tmp_path, data, serving, right):
    done, _ = made(tmp_path, data, serving)
    [(_, cached, _)] = done.sources
    shard = cached.folder / "00003.arrow"
    shard.write_bytes(shard.read_bytes()[:-100])
    del done, cached
    assert made(tmp_path, data, serving)[1] == right


@pytest.mark.parametrize("name", ["00000.arrow", "00003.arrow", "00003.rejected"])
def test_a_flipped_bit_is_found_and_the_rows_are_prepared_again(tmp_path, data, serving, right, name, capsys):
    done, _ = made(tmp_path, data, serving)
    [(_, cached, _)] = done.sources
    content = bytearray((cached.folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (cached.folder / name).write_bytes(content)
    del done, cached
    source_cache._INTACT.clear()  # as in the next run
    assert made(tmp_path, data, serving)[1] == right
    assert "is damaged, and is prepared again" in capsys.readouterr().err
    assert labelled(tmp_path, data, serving) == 0


def test_changed_counts_are_found(tmp_path, data, serving, right, capsys):
    done, _ = made(tmp_path, data, serving)
    [(_, cached, _)] = done.sources
    path = cached.folder / "totals.json"
    text = path.read_text()
    assert '"read": ' in text
    path.write_text(text.replace('"read": ', '"read": 1', 1))
    del done, cached
    assert made(tmp_path, data, serving)[1] == right
    assert "is damaged, and is prepared again" in capsys.readouterr().err


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, serving):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"input": "q", "output": "a"}\n' * 200)

    class Touching(Counting):
        def update(self, share, rows, tokens):
            path.write_text('{"input": "q", "output": "b"}\n' * 200)

    with pytest.raises(DataError, match=r"rows\.jsonl: was changed while it was read; run again"):
        prepare(configured(path), REGISTRY, serving, Touching(), Cache(tmp_path / "c"))
    assert not [item for item in Cache(tmp_path / "c").entries() if item.complete]


def test_too_many_bad_rows_are_all_counted_and_nothing_is_cached_as_complete(tmp_path, data, serving):
    progress = Counting()
    with pytest.raises(DataError) as raised:
        prepare(configured(data, max_bad_rows=2), REGISTRY, serving, progress, Cache(tmp_path))
    assert "14 rows cannot be used" in str(raised.value)
    assert progress.rows == ROWS
    assert not [item for item in Cache(tmp_path).entries() if item.complete]


def test_a_process_that_is_killed_ends_the_run_with_a_hint(tmp_path, data, serving, monkeypatch):
    here = os.getpid()

    def killed(*args):
        return label_rows(*args) if os.getpid() == here else os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("sftcore.data.preparation.worker.label_rows", killed)
    with pytest.raises(SftError, match=r"was killed, most likely because memory ran out; .* smaller data\.workers"):
        made(tmp_path, data, serving, workers=2)


def test_a_full_disk_is_one_clear_error(tmp_path, data, serving, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(source_cache.CacheWriter, "add", full)
    with pytest.raises(
        SftError, match="No space left on device; free space with `sft cache clean`, or set SFTCORE_CACHE"
    ):
        made(tmp_path, data, serving)


def test_cache_list_names_entries_and_clean_keeps_those_in_use(tmp_path, data, serving):
    held = prepare(configured(data), REGISTRY, serving, cache=Cache(tmp_path))
    (tmp_path / "0123.part").mkdir()
    (tmp_path / "0123.part" / "00000.arrow").write_bytes(b"x" * 1500)
    items = Cache(tmp_path).entries()
    assert [item.complete for item in items] == [False, True]
    assert f"{ROWS} rows  {data}" in str(items[1])
    assert "1.5 kB        unfinished" in str(items[0])
    assert [Cache(tmp_path).remove(item) for item in items] == [True, False]
    [left] = Cache(tmp_path).entries()
    assert left.complete
    del held
    for child in multiprocessing.active_children():  # those that labelled have its lock until they are gone
        child.join()
    assert Cache(tmp_path).remove(left)
    assert not list(tmp_path.iterdir())


def test_a_lock_file_removed_while_waiting_is_locked_again(tmp_path):
    path = tmp_path / "a.lock"
    first, second = FileLock(path), FileLock(path)
    assert first.acquire()
    assert not second.acquire(blocking=False)
    first.remove()
    assert second.acquire(blocking=False)
    assert path.exists()
    assert not FileLock(path).acquire(blocking=False)


def test_a_file_that_changes_and_changes_back_leaves_nothing_of_what_was_between(tmp_path, serving, monkeypatch):
    path = tmp_path / "rows.jsonl"
    lines = {letter: f'{{"input": "q", "output": "{letter}"}}\n' * 400 for letter in "ab"}
    path.write_text(lines["a"])
    right = prepare(configured(path), REGISTRY, serving, cache=Cache(tmp_path / "right")).fingerprint
    stat = path.stat()

    class Touching(Counting):
        def update(self, share, rows, tokens):
            path.write_text(lines["b"])

    with pytest.raises(DataError, match="was changed while it was read"):
        prepare(configured(path), REGISTRY, serving, Touching(), Cache(tmp_path / "c"))
    path.write_text(lines["a"])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert prepare(configured(path), REGISTRY, serving, cache=Cache(tmp_path / "c")).fingerprint == right


def test_the_order_of_a_mapping_that_a_template_gets_is_in_the_key(tmp_path, data, serving, smollm2):
    given = [{"x": {"b": 1, "a": 2}}, {"x": {"a": 2, "b": 1}}]
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    served = [Labeller(tokenizer, ["<|im_end|>"], variables) for variables in given]
    assert len({fingerprint.digest_labeller(each) for each in served}) == 2


@pytest.mark.parametrize(("format", "same"), [("%d %b %Y", True), ("%H:%M", False)])
def test_the_time_is_in_the_key_as_far_as_the_template_prints_it(smollm2, monkeypatch, format, same):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.chat_template = "{{ strftime_now('" + format + "') }}" + tokenizer.chat_template
    served = Labeller(tokenizer, ["<|im_end|>"])
    digests = []
    for hour, day in ((9, 1), (17, 1), (9, 2)):
        monkeypatch.setattr(fingerprint, "NOW", datetime(2030, 1, day, hour))
        digests.append(fingerprint.digest_labeller(served))
    assert (digests[0] == digests[1]) == same
    assert digests[0] != digests[2]


def test_the_merges_of_a_slow_tokenizer_are_in_the_key(tmp_path):
    from transformers import CTRLTokenizer

    digests = []
    for number, merges in enumerate(("a b</w>", "b c</w>")):
        folder = tmp_path / str(number)
        folder.mkdir()
        words = ["a@@", "b@@", "c@@", "a", "b", "c", "ab", "bc", "<unk>"]
        (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
        tokenizer = CTRLTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
        tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
        digests.append(fingerprint.digest_labeller(Labeller(tokenizer, [])))
    assert len(set(digests)) == 2


def test_a_row_is_too_deep_or_not_whoever_reads_it(tmp_path, serving):
    path = tmp_path / "deep.jsonl"
    with path.open("w") as lines:
        for depth in range(300, 1200):
            lines.write('{"input": "q", "output": "a", "more": ' + "[" * depth + "]" * depth + "}\n")
    files = [made(tmp_path / str(number), path, serving, max_bad_rows=0.99, workers=number)[1] for number in (1, 2)]
    assert files[0] == files[1]
    assert any(name.endswith(".rejected") and files[0][name] for name in files[0])


def test_processes_are_forked_also_from_the_first_process_of_a_container(tmp_path, data, serving, right, monkeypatch):
    monkeypatch.setattr("sftcore.data.preparation.worker.os.getppid", lambda: 1)
    monkeypatch.setattr("sftcore.data.preparation.pool.os.getpid", lambda: 1)
    assert made(tmp_path, data, serving, workers=2)[1] == right


def test_shared_locks_work_on_nfs(tmp_path, data, serving, monkeypatch):
    """As on NFS: else the run that made the rows would keep all others waiting for as long as it runs."""
    flock = file_io.fcntl.flock

    def as_nfs(file, how):
        if how & file_io.fcntl.LOCK_SH and not file.readable():
            raise OSError(9, "Bad file descriptor")
        return flock(file, how)

    monkeypatch.setattr(file_io.fcntl, "flock", as_nfs)
    held = made(tmp_path, data, serving)
    assert made(tmp_path, data, serving)[1] == held[1]


def test_a_read_only_cache_is_used(tmp_path, data, serving, monkeypatch):
    right = made(tmp_path, data, serving)[1]
    [path] = tmp_path.glob("*.lock")
    opened = type(path).open

    def read_only(self, mode="r", *args, **options):
        if set(mode) & set("wa+"):
            raise OSError(30, "Read-only file system", str(self))
        return opened(self, mode, *args, **options)

    monkeypatch.setattr(type(path), "open", read_only)
    assert made(tmp_path, data, serving)[1] == right
    with pytest.raises(SftError, match="Read-only file system"):
        made(tmp_path, data, serving, max_length=77)
    assert [Cache(tmp_path).remove(item) for item in Cache(tmp_path).entries() if item.complete] == [False]


def test_a_table_sent_to_another_process_maps_the_files_again(tmp_path, data, serving):
    train = made(tmp_path, data, serving)[0].train
    sent = pickle.dumps(train.parts[0].table)
    assert len(sent) < 2000
    copied = pickle.loads(sent)
    assert copied.example(7).input_ids.tolist() == train.parts[0].table.example(7).input_ids.tolist()


def test_kinds_of_reasons_do_not_grow_without_end():
    totals = account.RowTotals()
    for number in range(500):
        totals.add(account.RowTotals(read=1, bad={f"reason {number}": 1}))
    assert len(totals.bad) == account.MAX_KINDS + 1
    assert sum(totals.bad.values()) == totals.read == 500
    assert totals.bad[account.OTHER_KINDS] == 500 - account.MAX_KINDS
