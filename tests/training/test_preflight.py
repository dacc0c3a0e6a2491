"""What libraries would reject later is reported before the data is prepared, all of it, with its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sftcore.config.document import Document
from sftcore.config.loader import load_config
from sftcore.core.errors import SftError
from sftcore.core.registry import Registry
from sftcore.runs.preparation import set_up
from sftcore.training.preflight import check_before_data, learned_positions


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.fixture
def check(tmp_path, tiny, rows, registry):
    """A function that checks a configuration of one key per line: what is wrong with it, or an empty string."""

    def checked(overrides: dict[str, Any], model: Path = tiny) -> str:
        config: dict[str, Any] = {"model": {"name_or_path": str(model)}, "data": {"train": str(rows)}, "method": "full"}
        for key, value in overrides.items():
            section, _, name = key.partition(".")
            if name:
                config.setdefault(section, {})[name] = value
            else:
                config[section] = value
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config, default_flow_style=False, sort_keys=False))
        try:
            loaded = load_config(Document.load(path), registry, {})
            check_before_data(loaded, set_up(loaded))
        except SftError as error:
            return str(error).replace(str(path), "run.yaml")
        return ""

    return checked


@pytest.fixture
def make_model(tmp_path, tiny):
    """A function that copies the tiny model, and changes its configuration."""

    def make(**config: Any) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(tiny, folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    return make


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"method": "lora"},
        {"method": {"name": "lora", "loraplus_lr_ratio": 4.0}},
        {"training_args.bf16": True},
        {"training_args.optim": "adafactor", "training_args.lr_scheduler_type": "polynomial"},
        {
            "training_args.lr_scheduler_type": "cosine_with_min_lr",
            "training_args.lr_scheduler_kwargs": {"min_lr": 1e-6},
        },
        {"training_args.ddp_backend": "gloo"},  # of ranks that are started later
        {"training_args.activation_checkpointing": True, "ask.questions": ["Who are you?"]},
    ],
)
def test_what_works_is_accepted(check, overrides):
    assert check(overrides) == ""


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"training_args.learning_rate": -1.0}, "learning_rate: must be at least 0, not -1"),
        ({"training_args.learning_rate": float("inf")}, "learning_rate: must be finite, not inf"),
        ({"training_args.max_steps": 0}, "max_steps: must be at least 1, or -1 for no limit, not 0"),
        ({"training_args.num_train_epochs": 0}, "num_train_epochs: must be above 0, not 0"),
        ({"training_args.per_device_train_batch_size": 0}, "per_device_train_batch_size: must be at least 1, not 0"),
        ({"training_args.save_steps": 0}, "save_steps: must be above 0, not 0"),
        ({"training_args.adam_beta2": 1.5}, "adam_beta2: must be at least 0 and below 1, not 1.5"),
        ({"training_args.label_smoothing_factor": -0.5}, "label_smoothing_factor: must be at least 0 and below 1"),
        ({"training_args.warmup_steps": -3}, "warmup_steps: must be at least 0, not -3"),
        ({"training_args.metric_for_best_model": "bleu"}, "metric_for_best_model: no evaluation has a metric 'bleu'"),
        ({"training_args.optim": "galore_adamw"}, "optim: You need to install `galore_torch`"),
        ({"training_args.optim": "adamw_best"}, "optim: transformers rejects it: adamw_best is not a valid"),
        ({"training_args.lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type: One of min_lr or min_lr_rate"),
        ({"training_args.lr_scheduler_kwargs": {"power": 2}}, "lr_scheduler_kwargs: get_linear_schedule_with_warmup()"),
        ({"training_args.use_liger_kernel": True}, "use_liger_kernel: You have set `use_liger_kernel`"),
        ({"training_args.save_strategy": "best"}, "save_strategy: `args.metric_for_best_model` must be provided"),
        ({"training_args.load_best_model_at_end": True}, "load_best_model_at_end: transformers rejects it"),
        ({"training_args.eval_on_start": True}, "eval_on_start: the run has no rows to evaluate on"),
        ({"training_args.dataloader_persistent_workers": True}, "dataloader_persistent_workers: persistent_workers"),
        ({"training_args.activation_checkpointing_kwargs": {"reentrant": 1}}, "activation_checkpointing_kwargs: "),
        ({"training_args.accelerator_config": "none.json"}, "accelerator_config: transformers rejects it: [Errno 2]"),
        ({"training_args.resume_from_checkpoint": "gone"}, "gone cannot be resumed from: it does not exist"),
        ({"training_args.fp16": True, "model.dtype": "float16"}, "fp16: does not work with trained weights in float16"),
        ({"model.attn_implementation": "fast"}, "attn_implementation: the model"),
        ({"method": {"name": "lora", "r": 0}}, "method: PEFT rejects the options of the method: `r` should be"),
        ({"method": {"name": "lora", "loraplus_lr_ratio": -1.0}}, "method: loraplus_lr_ratio must be a number above 0"),
        ({"template_kwargs": {}, "ask.max_new_tokens": 0}, "ask.max_new_tokens: must be at least 1, not 0"),
        ({"seed": -1}, "seed: must be at least 0 and below 2^32, not -1"),
    ],
)
def test_what_would_be_rejected_later_is_reported_with_its_line(check, overrides, said):
    problem = check(overrides)
    assert problem.startswith("run.yaml:")
    assert said in problem
    assert "errors:" not in problem


def test_several_problems_are_reported_together_in_the_order_of_the_file(check):
    said = check(
        {
            "ask.questions": ["Who are you?"],
            "training_args.optim": "galore_adamw",
            "training_args.resume_from_checkpoint": "gone",
            "template_kwargs": {},
            "model.attn_implementation": "fast",
        }
    )
    assert said.startswith("the configuration has 2 errors:\n  run.yaml:3: model.attn_implementation: ")
    assert "training_args.resume_from_checkpoint: gone cannot be resumed from" in said


def test_a_folder_without_weights_or_with_a_part_of_them(check, make_model):
    folder = make_model()
    (folder / "model.safetensors").unlink()
    assert f"model.name_or_path: the folder {folder} holds no weights" in check({}, folder)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").touch()
    assert f"the folder {folder} lacks model-2.safetensors, of 2 files" in check({}, folder)


def test_all_weights_of_a_quantized_checkpoint_cannot_be_trained(check, make_model):
    folder = make_model(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "method: trains weights that the checkpoint has quantized" in check({}, folder)
    assert check({"method": "lora"}, folder) == ""


@pytest.fixture(scope="module")
def gpt2(tiny, tmp_path_factory):
    """A folder with a model that has learned 64 positions."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.save_pretrained(folder)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64, **ends)
    ).save_pretrained(folder)
    return folder


def test_lengths_beyond_learned_positions(check, gpt2):
    said = check({"data.max_length": 65}, gpt2)
    assert said.startswith("run.yaml:5: data.max_length: the model has 64 positions")
    assert check({"data.max_length": 64}, gpt2) == ""
    asked = {"data.max_length": 64, "ask.questions": ["Who are you, and where are you from?"]}
    assert "ask.max_new_tokens: the model has 64 positions" in check({**asked, "ask.max_new_tokens": 60}, gpt2)


def test_positions_of_other_architectures():
    """OPT has two more rows than positions; rotary and other computed positions have no limit."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 100}
    limits = {}
    with torch.device("meta"):
        for kind, more in (("opt", {"ffn_dim": 16, "word_embed_proj_dim": 16}), ("llama", {}), ("gpt_neox", {})):
            config = AutoConfig.for_model(kind, **small, **more, max_position_embeddings=32)
            limits[kind] = learned_positions(AutoModelForCausalLM.from_config(config))
    assert limits == {"opt": 32, "llama": None, "gpt_neox": None}


def test_a_question_that_the_template_does_not_render(check, make_model):
    folder = make_model()
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0].role != 'system' %}{{ raise_exception('a system prompt first') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    said = check({"ask.questions": ["Hello?"]}, folder)
    assert "run.yaml:8: ask.questions.0: the chat template cannot render it: " in said
    assert "a system prompt first" in said


def test_nothing_of_the_check_remains_in_this_process(check):
    import torch
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    before = torch.get_rng_state()
    check({"method": "lora", "training_args.bf16": True})
    assert not AcceleratorState._shared_state
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_checks_before_it_reads_data(sft):
    sft.config["data"]["train"] = str(sft.folder / "broken.jsonl")
    (sft.folder / "broken.jsonl").write_text("no JSON at all\n")
    done = sft.run_here("training_args.optim=galore_adamw")
    assert done.code == 2
    assert "training_args.optim: You need to install `galore_torch`" in done.said
    assert "broken.jsonl:1" not in done.said
    assert not sft.out.exists()


# ---- ids ----


def add_token(folder: Path, **options: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens(options)
    tokenizer.save_pretrained(folder)


def test_padding_uses_a_token_that_the_model_has(sft, make_model):
    folder = make_model()
    add_token(folder, pad_token="<|filler|>")
    sft.config["model"]["name_or_path"] = str(folder)
    said = sft.train("training_args.max_steps=1")
    assert "the token '<|filler|>' has the id" in said
    assert "'<|im_end|>' is used for padding instead" in said
    assert json.loads((sft.out / "tokenizer_config.json").read_text())["pad_token"] == "<|im_end|>"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_token_that_the_model_does_not_have_is_named_with_its_row(sft, make_model, streaming):
    folder = make_model()
    add_token(folder, additional_special_tokens=["<|mine|>"])
    sft.config["model"]["name_or_path"] = str(folder)
    sft.config["data"]["streaming"] = streaming
    sft.train("training_args.max_steps=1")  # no row has it
    row = {"messages": [{"role": "user", "content": "Hi <|mine|>"}, {"role": "assistant", "content": "Hello."}]}
    data = sft.folder / "more.jsonl"
    data.write_text(json.dumps(row).replace("<|mine|>", "") + "\n" + json.dumps(row) + "\n")
    sft.config["data"]["train"] = str(data)
    done = sft.run_here()
    assert done.code == 2
    assert "more.jsonl:2: the token '<|mine|>' has the id" in done.said
    assert "parameters trained" not in done.said


def test_names_that_match_no_module_of_the_model(check):
    method = {"name": "lora", "target_modules": ["q_proj", "v_porj"], "modules_to_save": ["nrom"]}
    said = check({"method": method, "data.max_length": 64})
    assert said.startswith("run.yaml:")
    assert "method: target_modules: 'v_porj' matches nothing in the model; did you mean 'v_proj'" in said
    assert "modules_to_save: 'nrom' matches nothing in the model; did you mean 'norm'" in said


def test_names_of_the_optimizer_that_match_no_module(tiny):
    from types import SimpleNamespace

    from transformers import AutoModelForCausalLM

    from sftcore.training.arguments import check_optimizer_targets

    model = AutoModelForCausalLM.from_pretrained(tiny)
    for accepted in (None, "all-linear", ["q_proj", "mlp"], r".*attn.*", ["layers.0"]):
        check_optimizer_targets(SimpleNamespace(optim_target_modules=accepted), model)
    for refused in (["q_proj", "v_porj"], "v_porj"):
        with pytest.raises(
            SftError, match=r"'v_porj' in optim_target_modules matches no module .*did you mean 'v_proj'"
        ):
            check_optimizer_targets(SimpleNamespace(optim_target_modules=refused), model)
