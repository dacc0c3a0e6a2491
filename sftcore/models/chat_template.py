"""The chat template of a run: which one, why, and what ends a turn in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sftcore.config.loader import LoadedConfig, load_template
from sftcore.core.components import Template
from sftcore.core.errors import ConfigError, nearest
from sftcore.labelling import Labeller
from sftcore.models.base_model import BaseModel, find


@dataclass(frozen=True)
class ChosenTemplate:
    """The chat template of a run: set on the tokenizer, with the reason for the choice."""

    reason: str
    stops: tuple[str, ...]
    fingerprint: str


class Serving(NamedTuple):
    """A base model with its tokenizer and chat template, and what labels conversations as these serve them."""

    base: BaseModel
    tokenizer: Any
    template: ChosenTemplate
    labeller: Labeller


def serving(loaded: LoadedConfig) -> Serving:
    """Return how the model of the configuration is served; no weights are loaded.

    Raises:
        ConfigError: there is no such model, no chat template, or no valid one.
    """
    base = find(loaded.config.model, loaded.document)
    tokenizer = base.tokenizer()
    template = choose_template(loaded, tokenizer, base)
    return Serving(base, tokenizer, template, labeller(loaded, tokenizer, template))


def choose_template(loaded: LoadedConfig, tokenizer: Any, base: BaseModel) -> ChosenTemplate:
    """Set the chat template of the run on *tokenizer* and tell which it is, and why.

    A named ``template`` wins; then the tokenizer's own; then the file at ``template_path``.

    Raises:
        ConfigError: there is none of the three.
    """
    config, document = loaded.config, loaded.document
    template: Template | None = config.template
    if template is not None:
        reason = f"'{loaded.selected['template'].qualified}', because the configuration names it"
    elif tokenizer.chat_template:
        if isinstance(tokenizer.chat_template, dict):
            raise ConfigError(
                f"the tokenizer of {base.name} has several chat templates ({', '.join(tokenizer.chat_template)}); "
                "name the one to train with 'template'"
            )
        reason = "the tokenizer's own"
        if config.template_path:
            reason += f" (template_path {config.template_path} is for tokenizers without one)"
    elif config.template_path is not None:
        template = load_template(config.template_path, document)
        reason = f"{config.template_path}, because the tokenizer has none of its own"
    else:
        raise ConfigError(
            f"{document.name}: the tokenizer of {base.name} has no chat template; name one with 'template' "
            "(see `sft list-plugins`) or give a file with 'template_path'"
        )
    if template is not None:
        tokenizer.chat_template = template.jinja()
    own_stops = tuple(template.stop()) if template else ()
    stops = tuple(dict.fromkeys([*own_stops, *_stop_tokens(tokenizer, base)]))
    digest = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    return ChosenTemplate(reason, stops, f"sha256:{digest}")


def labeller(loaded: LoadedConfig, tokenizer: Any, template: ChosenTemplate) -> Labeller:
    """Return what labels conversations under the chosen template.

    Raises:
        ConfigError: the template is not valid.
    """
    given = loaded.config.template_kwargs
    try:
        made = Labeller(tokenizer, template.stops, given)
        for name in given.keys() - made.template.variables - set(tokenizer.special_tokens_map):
            hint = nearest(name, made.template.variables)
            raise loaded.document.error(("template_kwargs", name), f"the chat template reads no such variable{hint}")
        return made
    except ValueError as error:
        raise ConfigError(f"the chat template ({template.reason}) is not valid: {error}") from None


def _stop_tokens(tokenizer: Any, base: BaseModel) -> list[str]:
    """Return the texts of the tokens that end generation, as tokenizer and generation config say."""
    from transformers import GenerationConfig

    ids: Sequence[int] = []
    try:
        eos = GenerationConfig.from_pretrained(base.location, **base.options()).eos_token_id
        ids = [eos] if isinstance(eos, int) else list(eos or ())
    except (OSError, json.JSONDecodeError):  # many models come without one
        pass
    texts = [tokenizer.eos_token] if tokenizer.eos_token else []
    return [*texts, *(text for text in tokenizer.convert_ids_to_tokens(list(ids)) if text)]


def stop_token_ids(tokenizer: Any, stops: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the ids of those *stops* that are a token of their own, and the rest, which are text to the model."""
    ids: list[int] = []
    texts: list[str] = []
    vocabulary = tokenizer.get_vocab()
    markers = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    for stop in stops:
        if vocabulary.get(stop) in markers:  # an ordinary token may also be part of a text
            ids.append(vocabulary[stop])
        else:
            texts.append(stop)
    return list(dict.fromkeys(ids)), texts
