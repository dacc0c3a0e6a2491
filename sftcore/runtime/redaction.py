"""Redaction of secrets in everything that is printed or recorded.

A secret is recognised by the name of its key (``hub_token``), its place in a URL (a login, ``?token=``), its shape
(``hf_...``, ``AKIA...``), or its value: what was registered under the name of a secret, from the environment, the YAML
file or the command line, is redacted wherever it appears later.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

REDACTED = "(redacted)"

MIN_LENGTH = 6
"""Characters of the shortest value that is redacted wherever it appears: shorter ones appear by chance."""

LONG_LENGTH = 20
"""Characters from which on a value is redacted wherever it appears, whatever it consists of."""

_KEY_WORDS = (
    r"api_?-?keys?|access_?-?key(?:_?-?id)?|key|token|secrets?|passwords?|passwd|passphrase|passcode|(?<=[_.\-])pwd"
    r"|credentials?|pat"
    r"|authorization|webhook(?:_?-?url)?|dsn|cookie"
)
_SECRET_KEY = re.compile(rf"(^|_|-|\.)({_KEY_WORDS})$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SPECIAL_TOKEN = re.compile(
    r"(^|\.)(bos|eos|eot|eom|pad|unk|sep|cls|mask|stop|image|video|audio|bo[iav]|eo[iav]|decoder_start|forced_bos)"
    r"_token$",
    re.IGNORECASE,
)
_ENVIRONMENT_NAME = re.compile(
    r"(^|_)(API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIALS?)(_|\d*$)", re.IGNORECASE
)
"""In the environment these words may also stand inside a name: ``SECRET_KEY_BASE``, ``API_KEY_2``."""

_DATA_KEYED = ("columns",)
"""Mappings whose keys are column names of the user's data, and so never names of secrets."""

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
"""Values that are redacted wherever they appear."""


def is_secret(key: str) -> bool:
    """Whether *key* names a secret: ``hub_token``, ``apiKey``, ``AWS_SECRET_ACCESS_KEY``; not ``pad_token``."""
    key = _CAMEL.sub("_", key)
    return bool(_SECRET_KEY.search(key)) and not _SPECIAL_TOKEN.search(key)


def register_secrets(values: Mapping[str, Any]) -> None:
    """Have every value in *values* whose key names a secret redacted wherever it appears later."""
    new = {line for text in _iter_secrets(values) for line in _secret_lines(text) if _is_distinctive(line)} - _known
    if new:
        _known.update(new)
        _known_pattern.cache_clear()


def register_argv_secrets(argv: Sequence[str]) -> None:
    """Register the secrets of a command line: ``KEY=VALUE``, ``--key=VALUE``, ``--key VALUE``."""
    for argument, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        key, equals, value = argument.partition("=")
        if equals:
            register_secrets({key: _parse_yaml(value)})
        elif argument.startswith("-") and not following.startswith("-"):
            register_secrets({key: following})


def redact(value: Any, key: str = "") -> Any:
    """*value* without secrets: mappings and lists item by item, texts by :func:`redact_text`."""
    if value not in (None, "") and is_secret(key):
        return value if isinstance(value, bool) else REDACTED
    if isinstance(value, Mapping):
        named_by_us = key not in _DATA_KEYED
        return {
            redact_text(name) if isinstance(name, str) else name: redact(item, str(name) if named_by_us else "")
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value


def redact_argv(argv: Sequence[str]) -> list[str]:
    """The arguments of a command line without secrets."""
    redacted: list[str] = []
    for before, argument in itertools.pairwise(["", *argv]):
        is_flag = before.startswith("-") and "=" not in before
        is_value = is_flag and is_secret(before) and not argument.startswith("-")
        redacted.append(REDACTED if is_value else redact_argument(argument))
    return redacted


def redact_argument(argument: str) -> str:
    """One argument of a command line without secrets; ``KEY=VALUE`` by the name of its key."""
    key, equals, value = argument.partition("=")
    if not equals:
        return redact_text(argument)
    parsed = _parse_yaml(value)
    redacted = redact(parsed, key)
    if redacted == parsed:
        return argument
    return f"{key}={redacted if isinstance(redacted, str) else json.dumps(redacted, default=str)}"


def redact_text(text: str) -> str:
    """*text* without what is secret by its place in a URL, its shape, or its registered value."""
    _register_environment(frozenset(os.environ.items()))
    if pattern := _known_pattern():
        text = pattern.sub(REDACTED, text)
    if "://" in text:
        text = _URL_LOGIN.sub(rf"\1{REDACTED}@", text)
    if "=" in text:
        text = _ASSIGNED.sub(_redact_assignment, _URL_PART.sub(rf"\1{REDACTED}", text))
    if "-----BEGIN" in text:
        text = _PRIVATE_KEY.sub(REDACTED, text)
    return _SHAPES.sub(REDACTED, _HEADER.sub(rf"\1{REDACTED}", text))


def _redact_assignment(match: re.Match[str]) -> str:
    key, quote_mark, value = match.groups()
    return f"{key}={quote_mark}{REDACTED}" if is_secret(key) and _is_distinctive(value) else match[0]


def describe_error(error: BaseException) -> str:
    """Class and message of *error*, without secrets."""
    return redact_text(f"{type(error).__name__}: {error}")


def print_redacted_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an uncaught error without secrets; for ``sys.excepthook``."""
    print(redact_text("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr, flush=True)


def _parse_yaml(text: str) -> Any:
    """*text* as a YAML value; unchanged if it is not valid YAML."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text


def _iter_secrets(value: Any, key: str = "", secret: bool = False) -> Iterator[str]:
    """Yield the values in *value* whose keys name secrets, and the passwords of all URLs in it."""
    secret = secret or is_secret(key)
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _iter_secrets(item, "" if key in _DATA_KEYED else str(name), secret)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _iter_secrets(item, "", secret)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        if secret:
            yield str(value)
        for login in _LOGIN.findall(value) if isinstance(value, str) else ():
            password = login.partition(":")[2] or login
            yield from {password, unquote(password)}


def _secret_lines(text: str) -> list[str]:
    """*text*, or its long lines if it has several, as a private key has."""
    lines = text.splitlines()
    return [text] if len(lines) < 2 else [line for line in lines if len(line) >= LONG_LENGTH]


def _is_distinctive(text: str) -> bool:
    """Whether *text* is unlike a word, a path or a number, so that it can be redacted anywhere."""
    if len(text) < MIN_LENGTH or REDACTED in text or os.path.exists(text):
        return False
    if len(text) >= LONG_LENGTH:
        return True
    digits = sum(letter.isdigit() for letter in text)
    mixed = text != text.lower() and text != text.upper() and text != text.capitalize()
    return (len(text) >= 8 and text.isdigit()) or 0 < digits < len(text) or mixed


@functools.lru_cache(maxsize=1)
def _register_environment(variables: frozenset[tuple[str, str]]) -> None:
    """Register the secrets of the environment whenever it has changed: a library may load a file of secrets into it."""
    register_secrets(dict(variables))
    values = [value for name, value in variables if _ENVIRONMENT_NAME.search(name)]
    register_secrets({"secret": [value for value in values if not value.startswith(("/", "~", "./"))]})


@functools.lru_cache(maxsize=1)
def _known_pattern() -> re.Pattern[str] | None:
    """A pattern of all registered values, the longest first, also as JSON, Python and URLs escape them."""
    forms = {form for text in _known for form in (text, json.dumps(text)[1:-1], repr(text)[1:-1], quote(text, safe=""))}
    return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True)))) if forms else None
