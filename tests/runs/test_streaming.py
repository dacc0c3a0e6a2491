"""Runs on a stream: the same steps on any number of ranks and after a resume, and an account of all rows."""

from __future__ import annotations

import json

import pytest

from sftcore.data.preparation.source_cache import Cache

QUESTION = "What is {} plus one?"


def line(number, weight=None):
    answer = {"role": "assistant", "content": f"{number + 1}" + "!" * (number % 5)}
    if weight is not None:
        answer["weight"] = weight
    asked = QUESTION.format(number)
    return json.dumps({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": asked}, answer]})


@pytest.fixture
def stream(sft):
    """The command line, with a stream of 100 rows; some in the second half have weights."""
    path = sft.folder / "stream.jsonl"
    path.write_text("\n".join(line(number, 0.5 if number > 60 and number % 9 == 0 else None) for number in range(100)))
    sft.config["data"] = {"train": str(path), "streaming": True, "shuffle_buffer": 32, "workers": 2}
    sft.config["training_args"] |= {"learning_rate": 3e-3, "max_steps": 4}
    return sft


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_streaming_saves_no_rows(stream, eval_rows):
    stream.config["data"]["eval"] = str(eval_rows)
    before = {item.about["source"] for item in Cache().entries()}
    said = stream.train()
    after = {item.about["source"] for item in Cache().entries()}
    assert after - before <= {str(eval_rows)}
    assert not any("stream.jsonl" in source for source in after)
    data = stream.record()["data"]
    assert data["rows"]["trained"] == data["train"]["kept"] == data["train"]["examples"] == 16
    assert data["rows"]["evaluated"] == 40
    assert data["train"]["worked_example"]["trained"] == ["1<|im_end|>"]
    assert data["fingerprint"].startswith("sha256:")
    assert f"{data['rows']['read']:,} rows read: 16 trained, 40 evaluated" in said
    assert not (stream.out / "quarantine.jsonl").exists()
    assert [entry for entry in stream.metrics() if "eval_loss" in entry]


@pytest.mark.slow
def test_streaming_on_two_ranks_takes_the_steps_of_one(stream):
    """Past the end of the data, and with weights that at first no rank has, and then now one and now the other."""
    stream.config["training_args"] |= {"max_steps": 36}
    stream.train()
    one, out = stream.losses(), stream.out
    stream.config["training_args"] |= {"output_dir": f"{out}-2", "per_device_train_batch_size": 2}
    stream.config["backend"] = {"name": "torchrun", "nproc_per_node": 2}
    stream.train_apart(OMP_NUM_THREADS="1")
    assert stream.losses() == pytest.approx(one, rel=1e-4)
    assert stream.record()["data"] == json.loads((out / "run.json").read_text())["data"]
    assert stream.record()["data"]["rows"]["trained"] == 144
    assert len({round(loss, 3) for loss in one}) > 25


@pytest.mark.parametrize("packing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_resumed_streaming_run_continues_with_the_next_rows(stream, packing):
    stream.config["data"] |= {"packing": packing, "max_length": 128, "max_bad_rows": 1}
    with open(stream.config["data"]["train"], "a") as file:
        file.write("\nno row")
    steps = 16 if not packing else 10
    stream.config["training_args"] |= {
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": steps - 3,
    }
    stream.train()
    whole, out, record = stream.losses(), stream.out, stream.record()["data"]
    assert record["train"]["notes"][0].startswith("2 complete passes" if packing else "1 complete pass")
    stream.config["training_args"]["output_dir"] = f"{out}-2"
    said = stream.train(f"training_args.resume_from_checkpoint={out}/checkpoint-{steps - 3}")
    assert stream.losses() == whole[-3:]
    first, second = weights(out), weights(stream.out)
    assert all((first[name] == second[name]).all() for name in first)
    assert stream.record()["data"] == record
    assert f"{record['train']['notes'][0]}" in said
    for folder in (out, stream.out):
        [refused] = map(json.loads, (folder / "quarantine.jsonl").read_text().splitlines())
        assert refused["source"].endswith("stream.jsonl:101")
        assert refused["raw"] == "no row"


@pytest.mark.slow
def test_resuming_a_finished_streaming_run_trains_nothing(stream):
    stream.config["training_args"] |= {"save_strategy": "steps", "save_steps": 4}
    stream.train()
    before = weights(stream.out)
    stream.train("training_args.resume_from_checkpoint='true'")
    assert stream.record()["steps"] == 4
    assert all((before[name] == values).all() for name, values in weights(stream.out).items())


def test_streaming_trains_like_prepared_data(stream):
    """All rows in one step, in whatever order."""
    stream.config["training_args"] |= {"max_steps": 1, "per_device_train_batch_size": 100}
    stream.train()
    streamed = stream.losses()
    stream.train("data.streaming=false")
    assert stream.losses() == pytest.approx(streamed, rel=1e-5)


def test_streaming_with_packing(stream):
    stream.config["data"] |= {"packing": True, "max_length": 128}
    stream.train()
    message = stream.record()["data"]["train"]["packing"]
    assert message["rows"] == 16
    assert message["rows_before"] > 16
    assert 0.7 < message["fill"] <= 1


def test_streaming_checks_packing_on_the_first_rows(stream):
    from transformers import AutoTokenizer, RwkvConfig, RwkvForCausalLM

    folder = stream.folder / "rwkv"
    tokenizer = AutoTokenizer.from_pretrained(stream.config["model"]["name_or_path"])
    tokenizer.save_pretrained(folder)
    RwkvForCausalLM(RwkvConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2)).save_pretrained(folder)
    stream.config["model"] = {"name_or_path": str(folder)}
    done = stream.run_here("data.packing=true", "data.max_length=128")
    assert done.code == 2
    assert "RwkvForCausalLM with the attention 'eager' does not isolate packed conversations" in done.said


def test_a_malformed_row_of_a_stream_ends_the_run_where_it_comes(stream):
    """It is reported with file and line, and run.json accounts for all rows before it."""
    path = stream.folder / "long.jsonl"
    lines = [line(number) for number in range(300)]
    lines[280] = "no row"
    path.write_text("\n".join(lines))
    stream.config["data"] |= {"train": str(path)}
    stream.config["data"]["shuffle_buffer"] = 128
    stream.config["training_args"] |= {"max_steps": 30, "per_device_train_batch_size": 16}
    done = stream.run_here()
    assert done.code == 2
    assert "long.jsonl:281: not valid JSON: " in done.said
    assert "1 row cannot be used; fix or remove" in done.said
    record = stream.record()
    assert record["status"] == "failed"
    rows = record["data"]["rows"]
    assert sum(rows["rejected"].values()) == 1
    assert rows["read"] == rows["trained"] + 1 + sum(rows["dropped"].values()) == 300
    assert rows["trained"] == 16 * len(stream.losses()) == 240
    [refused] = map(json.loads, (stream.out / "quarantine.jsonl").read_text().splitlines())
    assert refused["raw"] == "no row"
    assert f"300 rows read: {rows['trained']:,} trained, 1 rejected" in done.said


def test_a_malformed_row_among_the_first_of_a_stream_ends_the_run_before_there_is_a_folder(stream):
    with open(stream.config["data"]["train"], "r+") as file:
        file.write("no")
    done = stream.run_here()
    assert done.code == 2
    assert "stream.jsonl:1: not valid JSON: " in done.said
    assert not stream.out.exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"max_steps": -1}, r"training_args.max_steps: must be at least 1 with data.streaming, "),
        ({"dataloader_num_workers": 2}, "training_args.dataloader_num_workers: does not work with data.streaming: "),
        ({"auto_find_batch_size": True}, "training_args.auto_find_batch_size: does not work with data.streaming: "),
        (
            {"accelerator_config": {"split_batches": True}},
            "training_args.accelerator_config: split_batches and dispatch_batches do not work with data.streaming",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_that_do_not_work_with_streaming(stream, keys, message):
    stream.config["training_args"] |= keys
    done = stream.run_here()
    assert done.code == 2
    assert "finetune.yaml:" in done.said
    assert message in done.said
    assert not (stream.out / "model.safetensors").exists()


def test_streaming_needs_max_steps(stream):
    del stream.config["training_args"]["max_steps"]
    done = stream.run_here()
    assert done.code == 2
    assert "training_args.max_steps: must be at least 1 with data.streaming" in done.said


@pytest.mark.parametrize("command", ["prepare", "stats"])
def test_sft_prepare_and_stats_reject_streaming(stream, command, capsys):
    from sftcore.cli.main import main

    assert main([command, "--config", str(stream.write())]) == 2
    assert "data.streaming: a stream is not prepared; add data.streaming=false" in capsys.readouterr().err
    assert main([command, "--config", str(stream.write()), "data.streaming=false", "data.train.limit=9"]) == 0


def test_sft_preview_works_with_streaming(stream, capsys):
    from sftcore.cli.main import main

    assert main(["preview", "-n", "1", "--config", str(stream.write())]) == 0
    assert "What is 0 plus one?" in capsys.readouterr().out
