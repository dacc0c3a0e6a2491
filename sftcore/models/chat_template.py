"""The chat template of a run: which one, why, and what ends a turn in it."""

from __future__ import annotations

import hashlib
import json
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
from sftcore.runtime.console import warn


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
    labeller = build_labeller(loaded, tokenizer, template)
    if loaded.config.data.header == "prompt":
        template = prompt_with_header(tokenizer, labeller, template)
        labeller = build_labeller(loaded, tokenizer, template)
    return ModelSetup(base, tokenizer, template, labeller, known_ids)


def select_template(loaded: LoadedConfig, tokenizer: Any, base: BaseModel) -> SelectedTemplate:
    """Set the chat template of the run on *tokenizer*.

    It is the configuration's ``template``; without one the tokenizer's own; without that the file at ``template_path``.

    Raises:
        ConfigError: none of the three exists, or not the one of the tokenizer's with this ``template_name``.
    """
    config, document = loaded.config, loaded.document
    template: Template | None = config.template
    if config.template_name and (template is not None or not isinstance(tokenizer.chat_template, dict)):
        problem = (
            "'template' is used" if template is not None else f"the tokenizer of {base.name} has none of that name"
        )
        raise document.error(("template_name",), f"it chooses between several chat templates of a tokenizer; {problem}")
    if template is not None:
        entry = loaded.selected.get("template")
        name = f"'{entry.qualified}'" if entry else document.data["template"]
        reason = f"{name}, because the configuration names it"
    elif tokenizer.chat_template:
        reason = "the tokenizer's own" + _choose_named(loaded, tokenizer, base)
        if config.template_path:
            reason += f" (template_path {config.template_path} is for tokenizers without one)"
    elif config.template_path is not None:
        template = load_template("template_path", document)
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
    return SelectedTemplate(reason, stops, _fingerprint(tokenizer))


def _fingerprint(tokenizer: Any) -> str:
    return f"sha256:{hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()}"


def _choose_named(loaded: LoadedConfig, tokenizer: Any, base: BaseModel) -> str:
    """Which of the tokenizer's templates is used, for the reason; '' if it has only one."""
    several, name = tokenizer.chat_template, loaded.config.template_name
    if not isinstance(several, dict):
        return ""
    names = ", ".join(several)
    if name is None:
        if "default" not in several:
            raise ConfigError(
                f"{loaded.document.name}: the tokenizer of {base.name} has several chat templates ({names}), and none "
                "is the 'default'; name one with 'template_name'"
            )
        return ": 'default'" + (", and 'tool_use' for rows with tools" if "tool_use" in several else f" of {names}")
    if name not in several:
        problem = f"the tokenizer of {base.name} has no chat template {name!r}{nearest(name, several)}; it has {names}"
        raise loaded.document.error(("template_name",), problem)
    tokenizer.chat_template = several[name]
    return f": {name!r} of {names}"


def prompt_with_header(tokenizer: Any, labeller: Labeller, template: SelectedTemplate) -> SelectedTemplate:
    """Make the header of an answer the generation prompt of templates that have none, on *tokenizer*."""
    own = tokenizer.chat_template
    names = {"default": labeller, "tool_use": labeller.with_tools}
    headers = {name: of.missing_prompt for name, of in names.items() if of and of.missing_prompt}
    if not headers:
        problem = "has a generation prompt, or no header that is the same before every answer"
        warn(f"data.header: prompt has no effect: the chat template {problem}")
        return template
    made = {name: _with_prompt(own[name] if isinstance(own, dict) else own, header) for name, header in headers.items()}
    tokenizer.chat_template = {**own, **made} if isinstance(own, dict) else made["default"]
    shown = " and ".join(map(repr, dict.fromkeys(headers.values())))
    return template._replace(
        reason=f"{template.reason}; with {shown} as generation prompt (data.header)",
        fingerprint=_fingerprint(tokenizer),
    )


def _with_prompt(source: str, prompt: str) -> str:
    """The template *source* with *prompt* as its generation prompt; what else it prints stays the same."""
    text = source.removesuffix("\n")  # Jinja drops the last line feed
    return f"{text}{{%+ if add_generation_prompt %}}{{{{ {json.dumps(prompt, ensure_ascii=False)} }}}}{{% endif %}}"


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
        for name in kwargs.keys() - labeller.template_variables - set(tokenizer.special_tokens_map):
            hint = nearest(name, labeller.template_variables)
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
