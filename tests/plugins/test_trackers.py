"""The real wandb, swanlab and tensorboard, offline; what they wrote is read back."""

from __future__ import annotations

import json
import struct
import time

import pytest

SECRET = "canary-4711"


@pytest.fixture(scope="module")
def tracked(make_sft, nursery, tmp_path_factory):
    """A run that all trackers followed."""
    sft = make_sft(tmp_path_factory.mktemp("tracked"))
    sft.config["trackers"] = [
        {"name": "wandb", "mode": "offline", "project": "p", "tags": ["t"]},
        {"name": "swanlab", "mode": "offline", "project": "p"},
        "tensorboard",
        "none",
    ]
    sft.config["training_args"] |= {"max_steps": 5, "hub_token": SECRET, "run_name": "named"}
    code, sft.said = sft.run_forked(nursery)
    assert code == 0, sft.said
    return sft


def test_metrics_hold_every_step(tracked):
    lines = tracked.metrics()
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
    assert "failed" not in tracked.said


def test_wandb_holds_the_losses(tracked):
    (file,) = tracked.out.glob("wandb/offline-run-*/*.wandb")
    history, config = read_wandb(file)
    assert {row["_step"]: row["loss"] for row in history if "loss" in row} == dict(enumerate(tracked.losses(), start=1))
    assert config["seed"] == 42
    assert config["method"]["name"] == "sftcore/full"


def test_swanlab_holds_the_losses(tracked):
    (file,) = tracked.out.glob("swanlab/**/*.swanlab")
    assert read_swanlab(file, "loss") == pytest.approx(dict(enumerate(tracked.losses(), start=1)))


def test_tensorboard_holds_the_losses(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked.out / "tensorboard")).Reload()
    assert {event.step: event.value for event in events.Scalars("loss")} == pytest.approx(
        dict(enumerate(tracked.losses(), start=1))
    )


def test_no_secret_is_written(tracked):
    for file in tracked.out.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


@pytest.mark.slow
def test_only_rank_0_tracks(sft):
    sft.config |= {
        "trackers": [{"name": "wandb", "mode": "offline"}],
        "backend": {"name": "torchrun", "nproc_per_node": 2},
    }
    sft.train_apart(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    assert len(list(sft.out.glob("wandb/offline-run-*"))) == 1
    assert len(sft.losses()) == 3


def test_a_tracker_that_fails_is_disabled_and_training_continues(sft, tmp_path):
    (tmp_path / "file").write_text("")
    sft.config["trackers"] = [{"name": "tensorboard", "log_dir": str(tmp_path / "file" / "below")}]
    said = sft.train()
    assert "the tracker tensorboard failed in start and is disabled" in said
    assert len(sft.losses()) == 3


def test_an_error_reaches_the_tracker(sft):
    from sftcore_plugins.trackers.wandb import WandB

    tracker = WandB(mode="offline")
    tracker.start({"id": "i", "pid": 1, "name": "n", "output_dir": str(sft.folder), "config": {}, "versions": {}})
    tracker.log({"loss": 1.0}, 1)
    tracker.finish(RuntimeError("out of luck"))
    (file,) = sft.folder.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 30  # wandb's own process writes it, some time after it has answered
    while b"out of luck" not in file.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert b"out of luck" in file.read_bytes()


def test_trace_overrides_the_yaml(sft):
    sft.config["trackers"] = [{"name": "wandb", "mode": "offline"}]
    sft.train("--trace", "tensorboard")
    assert (sft.out / "tensorboard").is_dir()
    assert not (sft.out / "wandb").exists()


def read_wandb(file):
    """Return history and config in a .wandb file: LevelDB's log format around wandb's own protobuf."""
    from wandb.proto import wandb_internal_pb2

    data, history, config = file.read_bytes(), [], {}
    position, started, record = 7, b"", wandb_internal_pb2.Record()
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        _, length, kind = struct.unpack("<IHB", data[position : position + 7]) if left >= 7 else (0, 0, 0)
        if kind == 0:
            position += left
            continue
        started += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a record, or its last part
            record.ParseFromString(started)
            started = b""
            what = record.WhichOneof("record_type")
            if what == "history":
                history.append(
                    {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                )
            elif what == "run":
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return history, config


def read_swanlab(file, key):
    """Return step and value of the scalar *key* in a .swanlab file."""
    from google.protobuf.json_format import MessageToDict
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    reader, found = DataStoreReader(), {}
    reader.open(str(file))
    for data in reader:
        record = Record()
        record.ParseFromString(data)
        scalar = MessageToDict(record).get("scalar", {})
        if scalar.get("key") == key:
            found[int(scalar["step"])] = scalar["value"]["number"]
    return found
