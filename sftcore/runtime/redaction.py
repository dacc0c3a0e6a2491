"""Redaction of secrets in everything that is printed or recorded.

A secret is recognised by the name of its key (``hub_token``), its place in a URL (a login, ``?token=``), its shape
(``hf_...``, ``AKIA...``), or its value: what was registered under the name of a secret, from the environment, the YAML
file or the command line, is redacted wherever it appears later.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import glob
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus, unquote

REDACTED = "(redacted)"

MIN_LENGTH = 6
"""Characters of the shortest value that is redacted wherever it appears: shorter ones appear by chance."""

LONG_LENGTH = 20
"""Characters from which on a value is redacted wherever it appears, whatever it consists of."""

_KEY_WORDS = (
    r"api_?-?keys?|access_?-?key(?:_?-?id)?|key|token|secrets?|passwords?|passwd|passphrase|passcode"
    r"|(?<=[_.\-])(?:pwd|pass|auth)|credentials?|pat|jwt|bearer"
    r"|authorization|webhook(?:_?-?url)?|dsn|connection_?-?string|cookie"
)
_SECRET_KEY = re.compile(rf"(^|_|-|\.)({_KEY_WORDS})$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SPECIAL_TOKEN = re.compile(
    r"(^|\.)(bos|eos|eot|eom|pad|unk|sep|cls|mask|stop|image|video|audio|bo[iav]|eo[iav]|decoder_start|forced_bos)"
    r"_token$",
    re.IGNORECASE,
)
_ENVIRONMENT_NAME = re.compile(
    r"(^|_)(API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIALS?)(_|\d*$)|(PASSWORD|PASSWD)$",
    re.IGNORECASE,
)
"""In the environment these words may also stand inside a name: ``SECRET_KEY_BASE``, ``API_KEY_2``, ``PGPASSWORD``."""

_DATA_KEYED = ("columns",)
"""Mappings whose keys are column names of the user's data, and so never names of secrets."""

_URL_LOGIN = re.compile(r"(\w://)[^/\s'\"]+@")
_LOGIN = re.compile(r"\w://([^/\s'\"@]+)@")
_URL_PART = re.compile(
    r"([?&;#](?:amp;)?[\w.\-\[\]]*(?:token|key|keyid|secret|signature|sig|passw(?:or)?d|pwd|credentials?|auth|code)=)"
    r"(?!\(redacted)([^&;#\s'\"<>)\]}]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(r"\b((?:Bearer|Basic)\s+)(?=[\w+/.~=-]*\d)[\w+/.~-]{12,}=*", re.IGNORECASE)
_ASSIGNED = re.compile(r"(?<![\w.\-])([\w.\-]+)=(['\"]?)([^\s'\",;&<>()\[\]{}]+)")
_QUOTED = re.compile(r"""((['"])([\w.\-]+)\2\s*:\s*(['"]))(?!\(redacted)((?:(?!\4)[^\n\\]|\\.)+)(?=\4)""")
"""An item of a dictionary or of JSON: ``'api_key': 'value'``."""

_WORDS_AFTER = re.compile(r"([\w.\-]+)['\"]?\s*[:=](?=(.*))")
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

_environment: dict[Any, Any] | None = None
"""The environment whose secrets are registered, as the system has it."""


def is_secret(key: str) -> bool:
    """Whether *key* names a secret: ``hub_token``, ``apiKey``, ``AWS_SECRET_ACCESS_KEY``; not ``pad_token``."""
    key = _CAMEL.sub("_", key)
    return bool(_SECRET_KEY.search(key)) and not _SPECIAL_TOKEN.search(key)


def register_secrets(values: Mapping[str, Any]) -> None:
    """Have every value in *values* whose key names a secret redacted wherever it appears later."""
    _register(line for text in _iter_secrets(values) for line in _secret_lines(text) if _is_distinctive(line))


def _register(texts: Iterable[str]) -> None:
    if new := {*texts} - _known:
        _known.update(new)
        _known_forms.cache_clear()


def register_argv_secrets(argv: Sequence[str]) -> None:
    """Register the secrets of a command line: ``KEY=VALUE``, ``--key=VALUE``, ``--key VALUE``, and slips of these."""
    for argument, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        key, equals, value = argument.partition("=")
        parsed = _parse_yaml(value) if equals else None
        if equals or not following.startswith("-"):
            register_secrets({key: parsed if equals else following})
        if not equals or parsed is value:  # it is not valid YAML
            register_secret_words(argument)


def register_secret_words(text: str) -> None:
    """Register the words after the name of a secret in *text* that is not valid YAML, and those indented below it."""
    depth = -1
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip(" -"))
        match = next(filter(lambda found: is_secret(found[1]), _WORDS_AFTER.finditer(line)), None)
        words = match[2] if match else line if depth >= 0 and indent > depth else ""
        depth = indent if match else depth if words or not line.strip() else -1
        words = re.split(r"[\s,:\[\]{}'\"*&!]+", words.partition(" #")[0])
        forms = {form for word in words for form in (word, word.replace("_", ""))}  # as YAML reads a number
        _register(form for text in forms if len(text) >= MIN_LENGTH for form in (text, text.lower()))


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
        is_value = "=" not in before and is_secret(before) and not argument.startswith("-")
        redacted.append(REDACTED if is_value else redact_argument(argument))
    return redacted


def redact_argument(argument: str) -> str:
    """One argument of a command line without secrets; ``KEY=VALUE`` by the name of its key."""
    key, equals, value = argument.partition("=")
    if not equals:
        key, _, value = argument.partition(":")
        return f"{key}:{REDACTED}" if value and is_secret(key) else redact_text(argument)
    parsed = _parse_yaml(value)
    redacted = redact(parsed, key)
    if redacted == parsed:
        return argument
    return f"{key}={redacted if isinstance(redacted, str) else json.dumps(redacted, default=str)}"


def redact_text(text: str) -> str:
    """*text* without what is secret by its place in a URL, its shape, or its registered value."""
    _register_environment()
    for form in _known_forms():
        if form in text:
            text = text.replace(form, REDACTED)
    if "://" in text:
        text = _URL_LOGIN.sub(rf"\1{REDACTED}@", text)
    if "=" in text:
        text = _ASSIGNED.sub(_redact_assignment, _URL_PART.sub(rf"\1{REDACTED}", text))
    if "'" in text or '"' in text:
        text = _QUOTED.sub(_redact_item, text)
    if "-----BEGIN" in text:
        text = _PRIVATE_KEY.sub(REDACTED, text)
    return _SHAPES.sub(REDACTED, _HEADER.sub(rf"\1{REDACTED}", text))


def _redact_assignment(match: re.Match[str]) -> str:
    key, quote_mark, value = match.groups()
    return f"{key}={quote_mark}{REDACTED}" if is_secret(key) and _is_distinctive(value) else match[0]


def _redact_item(match: re.Match[str]) -> str:
    return f"{match[1]}{REDACTED}" if is_secret(match[3]) and _is_distinctive(match[5]) else match[0]


def describe_error(error: BaseException) -> str:
    """Class and message of *error*, without secrets."""
    return redact_text(f"{type(error).__name__}: {error}")


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
            inner, _, rest = str(name).partition(":")
            if is_secret(inner):  # `token:value` has no space after the colon
                yield rest
            if secret:  # it was given where YAML wants a key
                yield str(name)
            yield from _iter_secrets(item, "" if key in _DATA_KEYED else str(name), secret)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _iter_secrets(item, "", secret)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        if secret:
            yield str(value)
        if isinstance(value, str) and ("=" in value or "://" in value):
            yield from _iter_inner_secrets(value)


def _iter_inner_secrets(text: str) -> Iterator[str]:
    """Yield the secrets within *text*: passwords and arguments of URLs, and ``AccountKey=...``."""
    logins = [login.partition(":")[2] or login for login in _LOGIN.findall(text)]
    for part in [*logins, *(value for _, value in _URL_PART.findall(text))]:
        yield from {part, unquote(part)}
    yield from (value for key, _, value in _ASSIGNED.findall(text) if is_secret(key))


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


def _register_environment() -> None:
    """Register the secrets of the environment whenever it has changed: a library may load a file of secrets into it."""
    global _environment
    if _environment == (data := vars(os.environ).get("_data", {})):  # 3 µs; with items() it takes 180
        return
    _environment = dict(data)
    register_secrets(os.environ)
    values = [value for name, value in os.environ.items() if _ENVIRONMENT_NAME.search(name)]
    register_secrets({"secret": [value for value in values if not value.startswith(("/", "~", "./"))]})
    register_secrets({"secret": list(_iter_stored_tokens())})


def _iter_stored_tokens() -> Iterator[str]:
    """Yield the tokens that libraries read from files, where their commands to log in have put them."""
    hub = os.environ.get("HF_HOME", "~/.cache/huggingface")
    logins = [os.path.expanduser("~/.netrc"), *glob.glob(os.path.expanduser("~/.*/.netrc"))]
    for path in (os.environ.get("HF_TOKEN_PATH", f"{hub}/token"), *logins):
        with contextlib.suppress(OSError, ValueError), open(os.path.expanduser(path), encoding="utf-8") as file:
            text = file.read(1 << 16)
            yield from re.findall(r"password\s+(\S+)", text) if path.endswith("netrc") else text.split()


@functools.lru_cache(maxsize=1)
def _known_forms() -> list[str]:
    """All registered values, the longest first, also as JSON, Python, URLs, hexadecimal digits and base64 have them."""
    forms = set()
    for text in _known:
        forms |= {text, json.dumps(text)[1:-1], repr(text)[1:-1], quote(text, safe=""), quote_plus(text)}
        if len(data := text.encode(errors="replace")) >= 8:
            forms |= {data.hex(), *_base64_forms(data)}
    return sorted(forms, key=len, reverse=True)


def _base64_forms(data: bytes) -> Iterator[str]:
    """Yield the characters that encode *data* alone, wherever it begins in a longer text, as in ``user:password``."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        inner = whole[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        yield from (inner, inner.translate({43: "-", 47: "_"}))
