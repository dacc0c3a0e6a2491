"""The generation settings of a base model: what ends a turn, and whether they can be saved again."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

from sftcore.core.errors import ConfigError
from sftcore.runtime.console import first_line

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings that are read only where ``do_sample`` is true."""

FILE = "generation_config.json"


def load_stop_ids(name: str, location: str, kwargs: dict[str, Any], vocabulary: int) -> Sequence[int]:
    """The ids of the tokens that end generation by the settings of the model *name* at *location*; none without them.

    Args:
        kwargs: of ``from_pretrained``.
        vocabulary: number of tokens.

    Raises:
        ConfigError: the file cannot be read, or names a token that does not exist.
    """
    from transformers import GenerationConfig

    try:
        eos = GenerationConfig.from_pretrained(location, **kwargs).eos_token_id
    except OSError as error:
        if "not a valid JSON" in str(error):
            raise ConfigError(f"the {FILE} of {name} cannot be read: {first_line(error)}") from None
        return []  # many models come without one
    except Exception as error:  # transformers builds it, and checks some values with errors of all kinds
        raise ConfigError(f"the {FILE} of {name} cannot be read: {first_line(error)}; fix or remove it") from None
    ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocabulary:
            problem = f"its eos_token_id {token!r} is not a token of the tokenizer, which has {vocabulary:,}"
            raise ConfigError(f"the {FILE} of {name} cannot be used: {problem}; fix or remove it")
    return ids


def repair(settings: Any) -> str:
    """Make *settings*, a ``transformers.GenerationConfig``, such that they can be saved; a message if that was needed.

    Many published models set a temperature without ``do_sample``; transformers reads such a file, and refuses to write
    it.

    Raises:
        ConfigError: they cannot be saved for another reason.
    """
    problem = _problem(settings)
    if not problem:
        return ""
    given = [name for name in _SAMPLING if getattr(settings, name, None) is not None]
    if not settings.do_sample and given:
        settings.do_sample = True
        if not _problem(settings):
            return f"{FILE} of the base model sets {', '.join(given)} without do_sample: saved with do_sample: true"
    raise ConfigError(f"the {FILE} of the base model could not be saved: {problem}; fix or remove it")


def _problem(settings: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            settings.save_pretrained(folder)
        except Exception as error:
            return first_line(error)
    return ""
