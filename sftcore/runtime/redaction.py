"""What is secret, and text without it.

Four things tell a secret: the name of its key (``hub_token``), its place in a URL (a login, ``?token=``), its shape
(``hf_...``, ``AKIA...``), and its value: what once stood under the name of a secret, in the environment, in the YAML
file or on the command line, is hidden wherever it turns up later. Everything that is printed or recorded goes through
:func:`hide` or :func:`redact`.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

REDACTED = "(redacted)"

SHORTEST = 6
"""Characters that a value has at least, to be hidden wherever it occurs: shorter ones occur by chance."""

LONG = 20
"""Characters from which on a value is hidden wherever it occurs, whatever it consists of."""

_WORDS = (
    r"api_?-?keys?|access_?-?key(?:_?-?id)?|key|token|secrets?|passwords?|passwd|passphrase|passcode|(?<=[_.\-])pwd"
    r"|credentials?|pat"
    r"|authorization|webhook(?:_?-?url)?|dsn|cookie"
)
_SECRET_KEY = re.compile(rf"(^|_|-|\.)({_WORDS})$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SPECIAL_TOKEN = re.compile(
    r"(^|\.)(bos|eos|eot|eom|pad|unk|sep|cls|mask|stop|image|video|audio|bo[iav]|eo[iav]|decoder_start|forced_bos)"
    r"_token$",
    re.IGNORECASE,
)
_IN_A_NAME = re.compile(
    r"(^|_)(API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIALS?)(_|\d*$)", re.IGNORECASE
)
"""Names of variables of the environment are longer: ``SECRET_KEY_BASE``, ``API_KEY_2``."""

_OF_THE_USER = ("columns",)
"""Mappings whose keys are names of the user's own data, and so no names of secrets."""

_URL_LOGIN = re.compile(r"(\w://)[^/\s'\"]+@")
_LOGIN = re.compile(r"\w://([^/\s'\"@]+)@")
_URL_PART = re.compile(
    r"([?&;#](?:amp;)?[\w.\-\[\]]*(?:token|key|keyid|secret|signature|sig|passw(?:or)?d|pwd|credentials?|auth|code)=)"
    r"(?!\(redacted)[^&;#\s'\"<>)\]}]+",
    re.IGNORECASE,
)
_HEADER = re.compile(r"\b((?:Bearer|Basic)\s+)(?=[\w+/.~=-]*\d)[\w+/.~-]{12,}=*", re.IGNORECASE)
_ASSIGNED = re.compile(r"(?<![\w.\-])([\w.\-]+)=(['\"]?)([^\s'\",;&<>()\[\]{}]+)")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:hf|api_org)_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|sk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic and others
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{22,}|glpat-[\w-]{20,}"  # GitHub, GitLab
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
    r"|AIza[\w-]{35}|ya29\.[\w-]{20,}"  # Google
    r"|xox[abeprs]-[\w-]{10,}"  # Slack
    r"|npm_[A-Za-z0-9]{36}|pypi-[\w-]{40,}"
    r"|[a-z]+_v\d_\w{60,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+"  # a JSON web token
    r")"
)

_known: set[str] = set()
"""Values that were given under the name of a secret."""


def is_secret(key: str) -> bool:
    """Tell whether *key* names a secret: ``hub_token``, ``apiKey``, ``AWS_SECRET_ACCESS_KEY``; not ``pad_token``."""
    key = _CAMEL.sub("_", key)
    return bool(_SECRET_KEY.search(key)) and not _SPECIAL_TOKEN.search(key)


def register_secrets(values: Mapping[str, Any]) -> None:
    """Take note of every value in *values* that stands under the name of a secret, so that :func:`hide` hides it."""
    found = {line for text in _secrets_in(values) for line in _lines(text) if _is_telling(line)} - _known
    if found:
        _known.update(found)
        _known_pattern.cache_clear()


def register_argv_secrets(words: Sequence[str]) -> None:
    """Take note of the secrets in the *words* of a command line: ``KEY=VALUE``, ``--key=VALUE``, ``--key VALUE``."""
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        key, equals, value = word.partition("=")
        if equals:
            register_secrets({key: _yaml(value)})
        elif word.startswith("-") and not following.startswith("-"):
            register_secrets({key: following})


def redact(value: Any, key: str = "") -> Any:
    """Return *value* without secrets: mappings and lists item by item, texts as :func:`hide` has them."""
    if value not in (None, "") and is_secret(key):
        return value if isinstance(value, bool) else REDACTED
    if isinstance(value, Mapping):
        named = key not in _OF_THE_USER
        return {
            redact_text(name) if isinstance(name, str) else name: redact(item, str(name) if named else "")
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value


def redact_argv(words: Sequence[str]) -> list[str]:
    """Return the *words* of a command line without secrets."""
    shown: list[str] = []
    for before, word in itertools.pairwise(["", *words]):
        flag = before.startswith("-") and "=" not in before
        shown.append(REDACTED if flag and is_secret(before) and not word.startswith("-") else redact_argument(word))
    return shown


def redact_argument(word: str) -> str:
    """Return one *word* of a command line without secrets; ``KEY=VALUE`` by the name of its key."""
    key, equals, value = word.partition("=")
    if not equals:
        return redact_text(word)
    given = _yaml(value)
    hidden = redact(given, key)
    return (
        word if hidden == given else f"{key}={hidden if isinstance(hidden, str) else json.dumps(hidden, default=str)}"
    )


def redact_text(text: str) -> str:
    """Return *text* without what is secret by its place in a URL, by its shape, or because its value is known."""
    _learn_environment()
    if pattern := _known_pattern():
        text = pattern.sub(REDACTED, text)
    if "://" in text:
        text = _URL_LOGIN.sub(rf"\1{REDACTED}@", text)
    if "=" in text:
        text = _ASSIGNED.sub(_assigned, _URL_PART.sub(rf"\1{REDACTED}", text))
    if "-----BEGIN" in text:
        text = _PRIVATE_KEY.sub(REDACTED, text)
    return _SHAPES.sub(REDACTED, _HEADER.sub(rf"\1{REDACTED}", text))


def _assigned(found: re.Match[str]) -> str:
    key, mark, value = found.groups()
    return f"{key}={mark}{REDACTED}" if is_secret(key) and _is_telling(value) else found[0]


def describe_error(error: BaseException) -> str:
    """Return kind and message of *error* without secrets."""
    return redact_text(f"{type(error).__name__}: {error}")


def print_redacted_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an error that nobody caught, without secrets; for ``sys.excepthook``."""
    import traceback

    print(redact_text("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr, flush=True)


def _yaml(text: str) -> Any:
    """Return *text* as the YAML value it is, or as it stands."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text


def _secrets_in(value: Any, key: str = "", secret: bool = False) -> Iterator[str]:
    """Yield what stands under the name of a secret in *value*, and the passwords of URLs anywhere in it."""
    secret = secret or is_secret(key)
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _secrets_in(item, "" if key in _OF_THE_USER else str(name), secret)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _secrets_in(item, "", secret)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        if secret:
            yield str(value)
        for login in _LOGIN.findall(value) if isinstance(value, str) else ():
            password = login.partition(":")[2] or login
            yield from {password, unquote(password)}


def _lines(text: str) -> list[str]:
    """Return *text*, or the long lines of it if it has several: a key in a file has."""
    lines = text.splitlines()
    return [text] if len(lines) < 2 else [line for line in lines if len(line) >= LONG]


def _is_telling(text: str) -> bool:
    """Tell whether *text* is so unlike a word of the language, a path or a number that it may be hidden anywhere."""
    if len(text) < SHORTEST or REDACTED in text or os.path.exists(text):
        return False
    if len(text) >= LONG:
        return True
    digits = sum(letter.isdigit() for letter in text)
    mixed = text != text.lower() and text != text.upper() and text != text.capitalize()
    return (len(text) >= 8 and text.isdigit()) or 0 < digits < len(text) or mixed


def _learn_environment() -> None:
    """Learn the environment, again only if it has changed: a library may load a file of secrets into it."""
    global _learned
    if _learned != (state := hash(frozenset(os.environ.items()))):
        _learned = state
        register_secrets(os.environ)
        longer = {name: value for name, value in os.environ.items() if _IN_A_NAME.search(name)}
        register_secrets({"secret": [value for value in longer.values() if not value.startswith(("/", "~", "./"))]})


_learned = 0


@functools.lru_cache(maxsize=1)
def _known_pattern() -> re.Pattern[str] | None:
    """Return what finds every known value, also as JSON and URLs write it; the longest first."""
    written = {way for text in _known for way in (text, json.dumps(text)[1:-1], repr(text)[1:-1], quote(text, safe=""))}
    return re.compile("|".join(map(re.escape, sorted(written, key=len, reverse=True)))) if written else None
