"""The chat template of a run: which one, why, and what ends a turn in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sftcore.config.loader import LoadedConfig, load_template
from sftcore.core.components import Template
from sftcore.core.errors import ConfigError, SftError, nearest
from sftcore.core.template_file import FileTemplate
from sftcore.data.known_ids import KnownIds, fit_to_embedding
from sftcore.labelling import Labeller
from sftcore.models.base_model import BaseModel, resolve_base_model
from sftcore.models.generation_settings import load_stop_ids


class SelectedTemplate(NamedTuple):
    """The chat template of a run.

    Attributes:
        reason: which one it is, and why.
        stops: the strings that end an assistant turn.
        fingerprint: ``sha256:`` of its Jinja source.
    """

    reason: str
    stops: tuple[str, ...]
    fingerprint: str


class ModelSetup(NamedTuple):
    """The base model of a run without its weights, and what labels conversations for it.

    Attributes:
        known_ids: the token ids that the model knows; None where these are all ids of the tokenizer.
    """

    base: BaseModel
    tokenizer: Any
    template: SelectedTemplate
    labeller: Labeller
    known_ids: KnownIds | None = None

    def question_prompt(self, question: str) -> str:
        """The text with which the model is asked *question*, rendered within the limits of a chat template.

        Raises:
            RowError: the template rejects it, or exceeds a limit.
        """
        messages = [{"role": "user", "content": question}]
        return self.labeller.template.render(messages, add_generation_prompt=True, **self.labeller.variables)


def set_up_model(loaded: LoadedConfig) -> ModelSetup:
    """The model of the configuration; no weights are loaded.

    Raises:
        ConfigError: the model does not exist, or has no chat template or an invalid one.
    """
    base = resolve_base_model(loaded.config.model, loaded.document)
    tokenizer = base.load_tokenizer()
    known_ids = fit_to_embedding(tokenizer, base.embedding_rows())
    template = select_template(loaded, tokenizer, base)
    return ModelSetup(base, tokenizer, template, build_labeller(loaded, tokenizer, template), known_ids)


def select_template(loaded: LoadedConfig, tokenizer: Any, base: BaseModel) -> SelectedTemplate:
    """Set the chat template of the run on *tokenizer*.

    It is the configuration's ``template``; without one the tokenizer's own; without that the file at ``template_path``.

    Raises:
        ConfigError: none of the three exists.
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
        _check_markers(loaded, template, tokenizer)
    own_stops = tuple(template.stop()) if template else ()
    stops = tuple(dict.fromkeys([*own_stops, *_stop_tokens(tokenizer, base)]))
    digest = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    return SelectedTemplate(reason, stops, f"sha256:{digest}")


_MARKER = re.compile(r"<[|｜][^<>|｜\s]+[|｜]>|<reserved_\d+>|<(?:start|end)_of_\w+>")
"""Text of a template that is one token in each model made for it."""


def _missing_markers(template: Template, tokenizer: Any) -> list[str]:
    """The markers of *template*, in its text and its stop strings, that are not tokens of *tokenizer*."""
    source = re.sub(r"\{#.*?#\}", "", template.jinja(), flags=re.DOTALL)
    texts = [*_MARKER.findall(source), *(stop for stop in template.stop() if re.fullmatch(r"<[^<>\s]+>", stop))]
    return [text for text in dict.fromkeys(texts) if text not in tokenizer.get_vocab()]


def _fits(path: Path, tokenizer: Any) -> bool:
    """Whether all markers of the template in the file *path* are tokens of *tokenizer*."""
    try:
        return not _missing_markers(FileTemplate(path), tokenizer)
    except SftError:  # some other file
        return False


def _check_markers(loaded: LoadedConfig, template: Template, tokenizer: Any) -> None:
    """Raise ConfigError if *template* is of another model, naming those beside it that fit *tokenizer*."""
    if not (missing := _missing_markers(template, tokenizer)):
        return
    key = "template" if loaded.config.template is not None else "template_path"
    beside: list[Path] = []
    if isinstance(template, FileTemplate):
        beside = sorted(path for path in template.path.parent.iterdir() if path.suffix in (".json", ".jinja"))
    fitting = [path.stem for path in beside if _fits(path, tokenizer)]
    others = f"; templates beside it whose markers are tokens: {', '.join(fitting)}" if fitting else ""
    own = "; without 'template' the tokenizer's own is used" if key == "template" else ""
    number = f"{', '.join(missing[:5])}{', ...' if missing[5:] else ''}"
    problem = f"its markers {number} are not tokens of this tokenizer, so the model does not know them"
    raise loaded.document.error((key,), f"{problem}{others}{own}")


def build_labeller(loaded: LoadedConfig, tokenizer: Any, template: SelectedTemplate) -> Labeller:
    """A labeller of conversations for the selected template.

    Raises:
        ConfigError: the template is not valid, or does not read one of ``template_kwargs``.
    """
    kwargs = loaded.config.template_kwargs
    try:
        labeller = Labeller(tokenizer, template.stops, kwargs)
        for name in kwargs.keys() - labeller.template.variables - set(tokenizer.special_tokens_map):
            hint = nearest(name, labeller.template.variables)
            problem = f"the chat template does not use this variable{hint}"
            raise loaded.document.error(("template_kwargs", name), problem)
        return labeller
    except ValueError as error:
        raise ConfigError(f"the chat template ({template.reason}) is not valid: {error}") from None


def _stop_tokens(tokenizer: Any, base: BaseModel) -> list[str]:
    """The texts of the tokens that end generation, according to tokenizer and generation config."""
    ids = load_stop_ids(base.name, base.location, base.pretrained_kwargs(), len(tokenizer))
    return [text for text in (tokenizer.eos_token, *tokenizer.convert_ids_to_tokens(list(ids))) if text]


def split_stops(tokenizer: Any, stops: Sequence[str]) -> tuple[list[int], list[str]]:
    """The ids of those *stops* that are a single special token, and the others, which are text to the model."""
    vocabulary = tokenizer.get_vocab()
    markers = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}  # others may also be part of a text
    ids = {stop: vocabulary[stop] for stop in stops if vocabulary.get(stop) in markers}
    return list(dict.fromkeys(ids.values())), [stop for stop in stops if stop not in ids]
