"""Texts on which an accelerated tokenizer has to agree with ``tokenizers`` before it is used."""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

PAIRS = 2000
"""How many joined pairs, and strings of 16, of vocabulary entries are compared."""

_LINES = 64

_MARKERS = 200
"""How many added tokens are compared beside text and white space."""

_BY_CATEGORY = 48

_WRITTEN = [
    "I'm sure they'll say it's what we've done; you'd know they're 'right' 'S 'LL 'tis O'Neill's DON'T I’m l'été",
    "0 12 123 1234 12345 123456 1234567 3.14159 1,000,000 1e-10 0x7f 2024-01-31T23:59:59Z ½ ٣٤٥ १२३ ①② Ⅷ 10²³",
    "def f(x):\n    return [x ** 2 for _ in range(10)]\n\n\n\tif (a&&b)||!c{ d += 1; } // ok\r\n\r\n#!/bin/sh\\n$HOME",
    "https://example.org/a/b?c=d&e=%20f#g user@example.com C:\\temp\\x <a href='b'>c</a> {{ x }} {% if y %} ```py\n```",
    "你好，世界。今天天气怎么样？我很好！「引用」《書》 日本語のテキスト カタカナ ｶﾀｶﾅ 한국어 텍스트 각각",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇯🇵 ❤️ ☺ 1️⃣ 🙂🙂🙂a🙂 b",
    "e\u0301 é a\u0323\u0307 a\u0307\u0323 \u0301 ﬁ ﬀ Å Å K ẞ ß ı İ ǆ \u1100\u1161\u11a8 각 \u0958 \u0344 ﷺ Z͑͗ͫa͂l̷g͜o͞",
    "עברית مرحبا بالعالم हिन्दी ภาษาไทย ไม่มีช่องว่าง Ελληνικά Русский Tiếng Việt Ünïcödé naïve café 𝒳𝔘 𐍈 ក្រ",
    "\x00\x01\x1f\x7f\x80\x9f\xa0\xad\u200b\u200c\u200d\u200e\u2028\u2029\u202e\u2060\ufeff\ufffd\ufffe\uffff\U0010ffff",
    "Ã© â€™ ï¿½ ĠGPT Ċ ▁under <0x0A> ## ##ing </w> \ufffd\ufffd \ufffda\ufffd",
    " a  b   c    d\te\t\tf \t g\n h\n\ni \n \n j\r\nk\u3000l\u00a0m\u2003n ",
    "x.y..z...!!??!?;;--__==~~**//\\\\||@@##$$%%^^&&()[]{}<>«»“”‘’„…–—•·",
]


def hard_texts(backend: Any) -> list[str]:
    """Some hundred texts on which tokenizers tend to differ, the same for the same ``tokenizers.Tokenizer``."""
    texts = ["", *_WRITTEN, "".join(_WRITTEN)]
    for filler in (" ", "\n", "\t", "\r\n", " \n", "\u00a0", "\u3000"):
        texts += [f"a{filler * times}b{filler * times}" for times in (1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 64, 130, 1000)]
    texts += [letter * 3000 for letter in ("a", "A", "é", "你", "🙂", "0", "=", "'", ".", "\u0301")]
    added = [token.content for _, token in sorted(backend.get_added_tokens_decoder().items())]
    for token in _evenly_spaced(added, _MARKERS):
        texts += [f"{token}a {token} b\n{token}\n\n{token}{token} \t{token}é{token}你{token[:-1]} {token[1:]}{token}"]
        texts += [f" {token}", f"{token}  ", f"a{token}", f"{token}a"]
    return texts


def vocabulary_texts(backend: Any) -> list[str]:
    """The text of each entry of the vocabulary on its own line, then joined pairs and strings of 16 entries.

    Bytes that are not a character are U+FFFD in them.
    """
    numbers = sorted(backend.get_vocab(with_added_tokens=True).values())
    words = backend.decode_batch([[number] for number in numbers], skip_special_tokens=False)
    alone = ["\n".join(words[first : first + _LINES]) for first in range(0, len(words), _LINES)]
    rng = random.Random(0)  # noqa: S311  (the same texts each time)
    return alone + ["".join(rng.choices(words, k=length)) for length in (2, 16) for _ in range(PAIRS) if words]


@cache
def character_texts() -> Sequence[str]:
    """Texts with characters of every general category, alone and between others."""
    by_category: dict[str, list[str]] = {}
    for point in [*range(0x20000), *range(0x20000, sys.maxunicode + 1, 251)]:
        by_category.setdefault(unicodedata.category(chr(point)), []).append(chr(point))
    del by_category["Cs"]
    texts: list[str] = []
    for _, members in sorted(by_category.items()):
        some = _evenly_spaced(members, _BY_CATEGORY)
        texts += ["".join(some), *(f"a{one}b {one} 1{one}{one}2\n{one}" for one in some)]
    return tuple(texts)


def evenly_sampled(texts: Sequence[str], room: int) -> list[str]:
    """Some of *texts*, evenly spaced, of about *room* characters in total; at least one, if there is any."""
    chosen: list[str] = []
    for text in _evenly_spaced(texts, 512):
        if room <= 0:
            break
        chosen.append(text)
        room -= len(text)
    return chosen


def _evenly_spaced(items: Sequence[str], number: int) -> Sequence[str]:
    """At most *number* of *items*, evenly spaced."""
    return items[:: -(-len(items) // number) or 1]
