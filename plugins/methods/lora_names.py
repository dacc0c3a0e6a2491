"""The names in a LoRA configuration, each looked up in the model: modules, parameters, layers and tokens."""

from __future__ import annotations

import copy
import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from sftcore import ConfigError

_SHOWN = 12
"""Names of the model in a message, where none is near the one that matches nothing."""


def check_names(config: Any, model: Any) -> None:
    """Check each name in *config*, a ``peft.LoraConfig``, by the rules of PEFT; *model* may have no weights.

    Raises:
        ConfigError: with all names that match nothing, and the nearest that *model* has.
    """
    try:
        problems = [f"{option}: {problem}" for option, problem in _Names(config, model).problems()]
    except re.error as error:
        raise ConfigError(f"{error.pattern!r} is not a regular expression: {error}") from None
    if problems:
        raise ConfigError("; ".join(problems))


class _Names:
    """The names of a model, and which of them a configuration targets."""

    def __init__(self, config: Any, model: Any) -> None:
        self.config, self.model = _converted(config, model), model
        self.modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
        self.linear = [name for name, module in model.named_modules() if _is_linear(module)]
        self.parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        self.targeted = self._targeted()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield each option with a problem in it, and the problem."""
        config = self.config
        for option, found, names in (
            ("target_modules", self.targeted, self.modules),
            ("exclude_modules", self.modules, self.modules),
            ("target_parameters", self.parameters, self.parameters),
        ):
            for entry in _unmatched(getattr(config, option), found):
                yield option, self._describe(option, entry, names)
        for entry in config.modules_to_save or ():
            if not any(name.endswith(entry) for name in self.modules):
                yield "modules_to_save", self._describe("modules_to_save", entry, self.modules)
        yield from self._patterns()
        yield from self._layers()
        yield from self._blocks()
        yield from self._tokens()
        yield from self._tied()

    def _targeted(self) -> list[str]:
        """The modules that get adapters."""
        from peft.tuners.tuners_utils import check_target_module_exists

        targets = self.config.target_modules
        if isinstance(targets, str) and targets.lower() == "all-linear":
            head = self.model.get_output_embeddings()
            return [name for name in self.linear if self.model.get_submodule(name) is not head]
        return [name for name in self.modules if targets and check_target_module_exists(self.config, name)]

    def _patterns(self) -> Iterator[tuple[str, str]]:
        """Patterns of ranks and scales that match no target."""
        chosen = self.config.target_parameters or ()
        targets = [*self.targeted, *(name for name in self.parameters if _suffixes([name]) & {*chosen})]
        for option in ("rank_pattern", "alpha_pattern"):
            for pattern in getattr(self.config, option) or ():
                if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in targets):
                    yield option, self._describe(option, pattern, targets)

    def _describe(self, option: str, entry: str, names: Iterable[str]) -> str:
        """Why *entry* matches nothing, with what was meant."""
        matches = entry in _suffixes(names)
        if matches and option == "target_modules" and not isinstance(self.config.target_modules, str):
            others = "exclude_modules, modules_to_save or layers_to_transform"
            return f"'{entry}' matches only modules that {others} excludes"
        parts = [part for part in re.split(r"[\s,;]+", entry) if part]
        if len(parts) > 1 or matches:
            return f"'{entry}' matches no module as it is; a list is meant: [{', '.join(parts)}]"
        if option == "target_modules" and entry.lower() in ("all", "all-linear", "all_linear", "linear"):
            return f"'{entry}' matches no module; all-linear, outside a list, are all but the output layer"
        if any(re.fullmatch(entry, name) for name in names):
            return f"'{entry}' is not a name; a regular expression is one text, not in a list"
        return f"'{entry}' matches nothing in the model{self._nearest(entry, names)}"

    def _nearest(self, entry: str, names: Iterable[str]) -> str:
        """The nearest of *names*, with as many parts as *entry* has; or the names of linear layers."""
        word = re.sub(r"[^\w.]", "", entry).strip(".")  # without the signs of a regular expression
        parts = {name for name in _suffixes(names) if name.count(".") == word.count(".") and not name.isdigit()}
        if close := difflib.get_close_matches(word, sorted(parts), n=3):
            return f"; did you mean {' or '.join(repr(name) for name in close)}?"
        linear = dict.fromkeys(name.rpartition(".")[2] for name in self.linear)
        return f"; its linear layers are {', '.join([*linear][:_SHOWN])}"

    def _layers(self) -> Iterator[tuple[str, str]]:
        """Layers and their patterns that no target has."""
        config = self.config
        wanted = config.layers_to_transform
        wanted = [wanted] if isinstance(wanted, int) else wanted or []
        patterns = config.layers_pattern or []
        patterns = [patterns] if isinstance(patterns, str) else patterns
        for pattern in patterns:
            if not any(re.match(rf"(?:^|.*?\.){pattern}\.\d+\.", name) for name in self.modules):
                lists = [name.rpartition(".")[0] for name in self.modules if name.rpartition(".")[2].isdigit()]
                yield "layers_pattern", f"'{pattern}' matches nothing in the model{self._nearest(pattern, lists)}"
        layer = rf"(?:^|.*?\.)(?:{'|'.join(patterns) or '[^.]*'})\.(\d+)\."
        there = {int(match[1]) for name in self.modules if (match := re.match(layer, f"{name}."))}
        for number in sorted({*wanted} - there):
            yield "layers_to_transform", f"the model has no layer {number}; it has {len(there)}, numbered from 0"
        for start, end in config.layer_replication or ():
            if there and not 0 <= start < end <= max(there) + 1:
                yield "layer_replication", f"the model has no layers {start} to {end}; it has {len(there)}"

    def _blocks(self) -> Iterator[tuple[str, str]]:
        """Names of block-diagonal targets that no target has."""
        for option in ("target_modules_bd_a", "target_modules_bd_b"):
            for entry in getattr(getattr(self.config, "use_bdlora", None), option, None) or ():
                if not any(entry in name for name in self.targeted):
                    yield f"use_bdlora.{option}", self._describe(option, entry, self.targeted)

    def _tokens(self) -> Iterator[tuple[str, str]]:
        """Tokens for which the model has no embedding, and embeddings that it has not."""
        chosen = self.config.trainable_token_indices or {}
        tokens = dict(chosen) if isinstance(chosen, Mapping) else {"": chosen}
        for name in tokens:
            if not any(module.endswith(name) for module in self.modules):
                yield "trainable_token_indices", self._describe("", name, self.modules)
        rows = getattr(self.model.config.get_text_config(), "vocab_size", sys.maxsize)
        numbers = {"trainable_token_indices": [*chain(*tokens.values())]}
        numbers["alora_invocation_tokens"] = [*(self.config.alora_invocation_tokens or ())]
        for option, token in ((option, token) for option, ids in numbers.items() for token in ids):
            if not 0 <= token < rows:
                yield option, f"the model has no token {token}; its {rows:,} are numbered from 0"

    def _tied(self) -> Iterator[tuple[str, str]]:
        """Targets whose weights another module has too, which would not be trained with them."""
        config, model = self.config, self.model
        shared = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
        names = [name for name, module in model.named_modules(remove_duplicate=False) if id(module) in shared]
        if not getattr(model.config.get_text_config(), "tie_word_embeddings", False) or len(names) < 2:
            return
        tokens = config.trainable_token_indices
        entries = {
            "target_modules": self.targeted,
            "modules_to_save": () if config.ensure_weight_tying else config.modules_to_save or (),
            "trainable_token_indices": tokens if isinstance(tokens, Mapping) else (),
        }
        why = f"{' and '.join(names)} share their weights (tie_word_embeddings), so that merging would change both"
        way = f"train them as one with modules_to_save: [{names[0]}] and ensure_weight_tying: true, or leave it out"
        for option, chosen in entries.items():
            found = [name for name in names if name.endswith(tuple(chosen) or "-")]
            if found and not (option == "trainable_token_indices" and names[0] in found):  # PEFT ties these
                yield option, f"'{found[0]}': {why}; {way}"


def _converted(config: Any, model: Any) -> Any:
    """*config* with the names that layers of *model* have now, as PEFT converts it (experts have become parameters)."""
    from peft.utils import transformers_weight_conversion as conversion

    config = copy.deepcopy(config)
    conversions = conversion.get_model_conversion_mapping(model)
    conversion.convert_peft_config_for_transformers(config, model=model, conversions=conversions)
    return config


def _is_linear(module: Any) -> bool:
    """Whether PEFT counts *module* to ``all-linear``."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def _suffixes(names: Iterable[str]) -> set[str]:
    """All that PEFT takes for one of *names*: the name, and what follows a dot in it."""
    return {".".join(parts[at:]) for name in names for parts in [name.split(".")] for at in range(len(parts))}


def _unmatched(chosen: str | Iterable[str] | None, names: Iterable[str]) -> list[str]:
    """The entries of *chosen* that match none of *names*; a single text is a regular expression for whole names."""
    if isinstance(chosen, str):
        whole = chosen.lower() == "all-linear" or any(re.fullmatch(chosen, name) for name in names)
        return [] if whole else [chosen]
    return sorted({*(chosen or ())} - _suffixes(names))
