"""Packed documents do not see each other, or packing is rejected: on small random models of many architectures."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version

from sftcore import ConfigError
from sftcore.data import Collator, PackedSet
from sftcore.data.row_types import Example, Origin
from sftcore.training.loss import TokenMeanLoss
from sftcore.training.packing_check import PackingCheck

BAR = 1e-5
"""The largest difference of a logit, and of the loss of a document, in float32."""

LENGTHS = (23, 1, 9, 14, 30, 2, 5, 17, 1, 11)
"""Tokens of the documents: single ones, and some longer than the windows of the models."""

WINDOW = 4
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
LATENT = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
}
OLD_NAMES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}


def modern(**further: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        **further,
    }


KEPT_APART: dict[str, dict[str, Any]] = {
    "Llama": modern(),
    "Qwen2": modern(),
    "Qwen3": modern(head_dim=8),
    "Mistral": modern(sliding_window=WINDOW),
    "Mixtral": modern(**EXPERTS),
    "Gemma": modern(head_dim=8),
    "Gemma2": modern(head_dim=8, **SLIDING),
    "Gemma3Text": modern(head_dim=8, **SLIDING),
    "Cohere2": modern(**SLIDING),
    "Phi3": modern(),
    "Olmo2": modern(),
    "Granite": modern(),
    "Qwen3Moe": modern(head_dim=8, **EXPERTS),
    "DeepseekV3": modern(**LATENT),
    "Llama4Text": modern(head_dim=8, intermediate_size_mlp=64, num_local_experts=2, attention_chunk_size=WINDOW),
    "GPTNeoX": modern(),
    "GPT2": {**OLD_NAMES, "initializer_range": 0.2},
}
ONLY_EAGER = {"Gemma2"}
"""For which transformers has no other attention on this machine."""

REFUSED: dict[str, dict[str, Any]] = {
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2},
    "Falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2},
    "OPT": {**modern(ffn_dim=64, init_std=0.2, word_embed_proj_dim=32)},
    "GptOss": modern(head_dim=8, num_local_experts=4, num_experts_per_tok=2, **SLIDING),
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "Mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "Jamba": modern(attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_d_state=8, use_mamba_kernels=False),
    "Bamba": modern(attn_layer_indices=[1], **MAMBA),
    "Rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2},
    "RecurrentGemma": modern(num_hidden_layers=3, attention_window_size=8, lru_width=32),
    "Qwen3Next": modern(head_dim=8, shared_expert_intermediate_size=32, **EXPERTS, **LINEAR),
    "Lfm2": modern(layer_types=["conv", "full_attention"]),
}


FIXED_IN = {"Falcon": "5.24"}
"""Models that transformers packs right from this version on."""


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and this machine has none"),
            ],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    """Where a model is."""
    return str(request.param)


def make(name: str, attention: str = "eager", dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """A model in training mode, as the Trainer has it."""
    options = {**KEPT_APART, **REFUSED}[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=200, pad_token_id=0, bos_token_id=1, eos_token_id=2, use_cache=False, **options
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    assert model.config._attn_implementation == attention
    return model.to(device, dtype).train()


def documents(lengths: tuple[int, ...] = LENGTHS) -> list[Example]:
    chance = random.Random(5)
    made = []
    for number, length in enumerate(lengths):
        ids = chance.choices(range(3, 190), k=length)
        made.append(Example(ids, ids, (length,), (Origin("f", number),)))
    return made


def check(model: Any, given: list[Example] | None = None, flat: bool = False) -> None:
    """Run the check as a run does."""
    args = SimpleNamespace(bf16=False, fp16=False)
    made = PackingCheck(PackedSet(documents() if given is None else given, 64), Collator(0, packed=True, flat=flat))
    made.on_train_begin(args, None, None, model=model)


def compare(model: Any, given: list[Example], flat: bool = False) -> tuple[float, float]:
    """The largest differences of a logit and of the loss of a document, packed and alone."""
    packed = PackedSet(given, 32)
    assert 1 < len(packed) < len(given)
    batch = {name: values.to(model.device) for name, values in Collator(0, packed=True, flat=flat)([*packed]).items()}
    labels = batch.pop("labels").flatten()
    model.eval()
    with torch.no_grad():
        logits = model(**batch).logits.flatten(0, 1)
    starts = (batch["position_ids"].flatten() == 0).nonzero().flatten().tolist()
    errors, losses, found = [0.0], [0.0], 0
    for document in (given[number] for row in packed.bins.fixed() for number in row):
        ids = torch.tensor([document.input_ids]).to(model.device)
        at = next(start for start in starts if batch["input_ids"].flatten()[start : start + ids.numel()].equal(ids[0]))
        with torch.no_grad():
            alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            part = slice(at, at + ids.numel())
            errors.append(float((logits[part] - alone[0]).abs().max()))
            one, other = (TokenMeanLoss()({"logits": each}, labels[None, part]) for each in (alone, logits[None, part]))
        losses.append(float((one - other).abs()))
        found += 1
    assert found == len(given)
    return max(errors), max(losses)


ATTENTIONS = [
    (name, attention)
    for name in KEPT_APART
    for attention in ("eager", "sdpa")
    if (name, attention) != ("Gemma2", "sdpa")
]


@pytest.mark.parametrize("flat", [False, True], ids=["rows", "flat"])
@pytest.mark.parametrize(("name", "attention"), ATTENTIONS)
def test_packing_keeps_the_logits_and_the_loss_that_documents_have_alone(name, attention, flat, device):
    model = make(name, attention, device=device)
    check(model, flat=flat)
    assert model.training
    error, loss = compare(model, documents(), flat)
    print(error, loss)
    assert error <= BAR
    assert loss <= BAR


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_mix_packed_documents_are_rejected(name, device):
    model = make(name, device=device)
    if name in FIXED_IN and Version(transformers.__version__) >= Version(FIXED_IN[name]):
        check(model)
        assert compare(model, documents())[0] < BAR
        return
    with pytest.raises(ConfigError) as refused:
        check(model)
    assert str(refused.value).startswith(
        f"data.packing: {type(model).__name__} with the attention 'eager' does not isolate packed conversations: "
        "changing one changes the logits of another, by "
    )
    assert str(refused.value).endswith("set data.packing to false, or try another model.attn_implementation")
    error, _ = compare(model, documents())
    assert error > 100 * BAR


def leaking(model: Any, source: int, target: int, share: float, only_in: Callable[[Any], bool] = lambda _: True) -> Any:
    """*model* with a leak from the token at *source* to the one at *target*, after the first layer.

    Both count over the rows of a batch, laid end to end.
    """

    def leak(layer: Any, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[0] > 2 or not only_in(layer):  # documents alone have a row each
            return None
        flat = hidden.clone().flatten(0, 1)
        flat[target] += share * flat[source]
        changed = flat.view_as(hidden)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    model.get_decoder().layers[0].register_forward_hook(leak)
    return model


FIVES = (5,) * 4


@pytest.mark.parametrize(
    ("dtype", "share", "flat"),
    [
        pytest.param(torch.float32, 1e-3, False, id="fp32-rows"),
        pytest.param(torch.bfloat16, 0.05, True, id="bf16-flat"),
        pytest.param(torch.float32, 1e-3, True, id="fp32-flat", marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, 0.05, False, id="bf16-rows", marks=pytest.mark.slow),
    ],
)
def test_the_packing_check_finds_a_leak_between_any_two_documents(dtype, share, flat, device):
    """In both directions, between neighbours and others, within a row and from row to row."""
    given = documents(FIVES)
    check(make("Llama", "sdpa", dtype, device), given, flat)
    for one in range(8):
        for other in range(8):
            if one != other:
                model = leaking(make("Llama", "sdpa", dtype, device), one * 5 + 4, other * 5, share)
                with pytest.raises(ConfigError, match="changing one changes the logits of another"):
                    check(model, given, flat)


def test_the_packing_check_finds_a_leak_in_training_mode_only(device):
    model = leaking(make("Llama", "sdpa", device=device), 4, 5, 1e-3, lambda layer: layer.training)
    with pytest.raises(ConfigError, match="changing one changes the logits of another"):
        check(model, documents(FIVES))
    model.eval()
    with pytest.raises(ConfigError, match="changing one changes the logits of another"):
        check(model, documents(FIVES))
    assert not model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_packing_check_finds_positions_that_do_not_restart(dtype, device):
    model = make("GPT2", "sdpa", dtype, device)
    check(model)

    def run_on(table: Any, args: Any) -> Any:
        positions = args[0]
        return (
            (torch.arange(positions.shape[-1], device=device).expand_as(positions),)
            if positions.shape[0] == 2
            else None
        )

    model.transformer.wpe.register_forward_pre_hook(run_on)
    with pytest.raises(ConfigError, match="the logits of one differ from those that it has alone, by"):
        check(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_packing_check_finds_other_attention_windows(dtype, device):
    """Only tokens further than a window from their beginning are computed wrong, and no one leaks."""
    given = documents((7, 40, 9, 12))
    model = make("Mistral", "sdpa", dtype, device)
    model.config.sliding_window = 20  # the mask is made of this
    check(model, given)

    def wrong(layer: Any, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[0] == 2:
            hidden[:, 7 + 20 : 7 + 36] *= torch.linspace(-2, 2, hidden.shape[-1]).to(hidden)
        return output

    model.model.layers[1].register_forward_hook(wrong)
    with pytest.raises(ConfigError, match="the logits of one differ from those that it has alone"):
        check(model, given)


def round_by_company(layer: torch.nn.Module, share: float = 0.004, only_packed: bool = False) -> None:
    """Let everything depend a little on all that is in the batch, and one token much, as with experts on a GPU."""

    def rounded(layer: Any, args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        if only_packed and len(hidden) > 2:
            return None
        company = hidden.std() * hidden.sum(dim=(0, 1)).sin()
        hidden += share * company
        if len(hidden) > 1:
            hidden[0, 1] += company
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    layer.register_forward_hook(rounded)


def test_the_packing_check_allows_noise_that_separate_rows_have_too(device):
    model = make("Llama", "sdpa", torch.bfloat16, device)
    round_by_company(model.model.layers[0])
    check(model)


@pytest.mark.parametrize("name", ["Qwen3Moe", "Mixtral", "DeepseekV3"])
def test_the_packing_check_allows_rounding_of_experts_in_packed_rows_only(name, device):
    """Only some rows show it, depending on the number of tokens of an expert, which is not a leak."""
    model = make(name, "sdpa", torch.bfloat16, device)
    round_by_company(model.model.layers[0], 0.002, only_packed=True)
    check(model)


@pytest.mark.parametrize(
    ("name", "dtype", "share"),
    [("Llama", torch.bfloat16, 0.002), ("Qwen3Moe", torch.bfloat16, 0.1), ("Qwen3Moe", torch.float32, 0.002)],
    ids=["no experts", "more than rounding", "float32"],
)
def test_the_packing_check_allows_no_other_noise_in_packed_rows_only(name, dtype, share, device):
    if device == "cuda" and dtype is torch.float32:
        pytest.skip("there float32 may be rounded to less")
    model = make(name, "sdpa", dtype, device)
    round_by_company(model.model.layers[0], share, only_packed=True)
    with pytest.raises(ConfigError, match="changing one changes the logits of another"):
        check(model)


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe", "DeepseekV3"])
def test_the_packing_check_finds_a_leak_to_a_single_token_of_a_model_with_experts(name, device):
    model = leaking(make(name, "sdpa", torch.bfloat16, device), 4, 5, 0.05)
    with pytest.raises(ConfigError, match="changing one changes the logits of another"):
        check(model, documents(FIVES))


@pytest.mark.parametrize("name", ["Mamba", "Rwkv", "Jamba", "GptOss", "RecurrentGemma", "Qwen3Next"])
def test_the_packing_check_finds_a_leak_beside_rounding_of_experts(name, device):
    model = make(name, dtype=torch.bfloat16, device=device)
    round_by_company(next(module for module in model.modules() if isinstance(module, torch.nn.Embedding)))
    with pytest.raises(ConfigError, match="changing one changes the logits of another"):
        check(model)


def test_the_packing_check_finds_a_cache(device):
    """With one, transformers takes a packed row for one long document."""
    model = make("Llama", "sdpa", device=device)
    model.config.use_cache = True
    with pytest.raises(ConfigError, match="changing one changes the logits of another"):
        check(model)


def test_packing_rejects_a_model_without_position_ids():
    model = make("Llama", "sdpa")
    forward = model.forward
    model.forward = lambda input_ids, attention_mask=None: forward(input_ids, attention_mask)
    with pytest.raises(ConfigError, match=r"it cannot take packed rows \(TypeError: .*position_ids"):
        check(model)


def test_the_packing_check_passes_on_an_error_of_the_model():
    model = make("Llama", "sdpa")
    model.lm_head.register_forward_hook(lambda *_: (_ for _ in ()).throw(OverflowError("broken")))
    with pytest.raises(OverflowError, match="broken"):
        check(model)


def test_the_packing_check_rejects_non_finite_logits(device):
    model = make("Llama", "sdpa", device=device)
    model.lm_head.weight.data[7] = float("nan")
    with pytest.raises(ConfigError, match="does not isolate packed conversations"):
        check(model)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_packing_check_uses_dropout_and_activation_checkpointing_as_in_training(checkpointing):
    model = make("GPT2", "sdpa")
    assert model.config.resid_pdrop == model.config.attn_pdrop == 0.1
    if checkpointing:
        model.gradient_checkpointing_enable()
    torch.manual_seed(9)
    before = torch.get_rng_state()
    check(model)
    assert torch.get_rng_state().equal(before)
    assert all(module.training for module in model.modules())


def test_the_packing_check_does_not_depend_on_the_random_state():
    said = []
    for seed in (1, 2):
        model = make("Mamba")
        torch.manual_seed(seed)
        with pytest.raises(ConfigError) as refused:
            check(model)
        said.append(str(refused.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("lengths", [(1,), (40,), (1, 1, 1), (3, 1)])
def test_few_and_short_documents_are_enough_for_the_packing_check(lengths, device):
    check(make("Llama", "sdpa", device=device), documents(lengths))
    with pytest.raises(ConfigError):
        check(make("Mamba", device=device), documents(lengths))


def test_equal_documents_are_enough_for_the_packing_check():
    given = [Example([5, 5, 5], [5, 5, 5], (3,), (Origin("f", number),)) for number in range(4)]
    check(make("Llama", "sdpa"), given)
    with pytest.raises(ConfigError):
        check(make("Mamba"), given)


@pytest.mark.parametrize("name", ["Llama", "Mamba"])
def test_the_packing_check_names_the_model_below_an_adapter(name):
    import peft

    model = peft.get_peft_model(
        make(name), peft.LoraConfig(target_modules=["q_proj", "in_proj"], task_type="CAUSAL_LM")
    )
    if name == "Llama":
        check(model)
    else:
        with pytest.raises(ConfigError, match="MambaForCausalLM with the attention"):
            check(model)


@pytest.mark.parametrize(
    ("attention", "flat"),
    [
        ("eager", False),
        ("sdpa", False),
        ("flex_attention", False),
        ("flash_attention_2", True),
        ("flash_attention_3", True),
        ("kernels-community/flash-attn2", True),
    ],
)
def test_packed_rows_are_flattened_for_flash_attention_only(attention, flat):
    """The kernels are not run here: tests/test_gpu.py does."""
    import peft

    from sftcore.training.build import needs_flat_rows

    model = make("Llama")
    model.config._attn_implementation = attention
    assert needs_flat_rows(model) == flat
    assert needs_flat_rows(peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))) == flat
