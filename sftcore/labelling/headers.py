"""The header of an assistant turn, where it is not the generation prompt: it is not trained either."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sftcore.core.errors import RowError
from sftcore.labelling.layout import Layout
from sftcore.labelling.rendering.provenance import HEADER
from sftcore.labelling.template_profile import OPEN_TAG, TemplateProfile

_REASONING = re.compile(r"\s*[<\[][^\s<\[]*(?:think|thought|reason)", re.IGNORECASE)
"""A marker that opens or closes reasoning."""


def end_of_usual(layout: Layout, block: tuple[int, int] | None, here: int, profile: TemplateProfile) -> int:
    """End of the header of the profile, if the turn begins with it; otherwise *here*, where its own text begins."""
    after = block[0] + len(profile.header) if block else here
    return after if block and layout.text.startswith(profile.header, block[0]) and after <= here else here


def end_of_other(
    layout: Layout, message: int, base: int, prompt: str, fields: Mapping[str, Any], profile: TemplateProfile
) -> int | None:
    """End of a header that is printed from *base* on, and is not quite the *prompt*.

    None if it is not the header of the profile either.
    """
    text, own, block = layout.text, layout.own[message], layout.block_of(message)
    here = own[0].start if own else block[0] if block else len(text)
    start, missing = _align(prompt, text, base, own[0].start if own else block[1] if block else len(text))
    if start is not None and (not missing or not own):
        return start
    if start is not None and (_REASONING.match(missing) or _REASONING.match(text, start, here)):
        return start  # the prompt opens reasoning that the turn does not have, or the other way round
    is_known = bool(profile.header.strip())
    after = end_of_usual(layout, block, here, profile) if is_known else here
    begin = block[0] if start is None and block else here if start is None else start
    if not own or after < here or (is_known and text[:here].endswith(profile.header)) or not text[begin:here].strip():
        return after
    if not missing.strip() and set("<[") & set(text[begin:here].lstrip()[0]):
        return begin
    return None if _end_of_name(layout, message, begin, here, fields) is None else begin


def end_of_repeated(layout: Layout, message: int, start: int, here: int, profile: TemplateProfile) -> int:
    """The *start* of a turn whose own text begins at *here*, or the end of a header that repeats that of the prompt."""
    header, text = profile.prompt_header, layout.text
    if not header or not text[start:here].lstrip().startswith(header) or not text[:start].rstrip().endswith(header):
        return start
    return max(start, end_of_usual(layout, layout.block_of(message), here, profile))


def end_of_named(
    layout: Layout, message: int, start: int, here: int, fields: Mapping[str, Any], profile: TemplateProfile
) -> int:
    """The *start* of a turn whose own text begins at *here*, or the end of a header with the assistant's name.

    Raises:
        RowError: that end is unknown.
    """
    end = _end_of_name(layout, message, start, here, fields) if fields.get("name") else None
    if end is None:
        return start
    text, header = layout.text, profile.header
    if profile.written and (at := text.find(profile.written, end, here)) >= 0:
        return at
    for first in range(len(header)):
        if (at := text.find(header[first:], end, here)) >= 0:
            return at + len(header) - first
    if set("<[") & set(text[end:here]):
        raise RowError(f"message {message + 1}: its header has a name, and the template does not show where it ends")
    return here


def after_space(prompt: str, text: str, at: int, limit: int) -> int:
    """The position *at* which *prompt* ends in *text*; after the white space there, if the prompt ends with some."""
    while prompt[-1:].isspace() and at < limit and text[at].isspace():
        at += 1
    return at


def _end_of_name(layout: Layout, message: int, start: int, here: int, fields: Mapping[str, Any]) -> int | None:
    """End of the assistant's name between *start* and *here*; None if it is not printed there."""
    ends = [
        piece.end
        for owner, piece in layout.printed
        if owner == message and piece.tag & 7 == HEADER and start <= piece.start and piece.end <= here
        if layout.text[piece.start : piece.end] == fields.get("name")
    ]
    return ends[-1] if ends else None


def _align(tail: str, text: str, base: int, limit: int) -> tuple[int | None, str]:
    """Position where the text from *base* departs from *tail*, white space aside, and the rest of *tail*.

    It is at most *limit*, where the turn's own text begins; None if the text departs at once.
    """
    at, good = base, base
    seen: list[tuple[int, int]] = []
    index = 0
    while index < len(tail) and at < limit:
        if tail[index] == text[at]:
            seen.append((at, index))
            index, at = index + 1, at + 1
            good = at
        elif tail[index].isspace():
            index += 1
        elif text[at].isspace():
            at += 1
        else:
            break
    rest = tail[index:]
    if not rest.strip():
        good = after_space(tail, text, good, limit)
        return good, "" if good == limit or not tail or text[good - 1] == tail[-1] else tail[-1]
    if at < limit and (tag := OPEN_TAG.search(text, base, good)):  # never cut a marker such as </think> in two
        good, index = max(((place + 1, number + 1) for place, number in seen if place < tag.start()), default=(base, 0))
    rest = text[good:limit]
    if not rest.strip():
        return limit, ""
    for size in range(min(len(rest), len(tail)), 0, -1):  # the prompt may say more first, and end with the same header
        header = rest[:size]
        if header.rstrip()[-1:] in (*">]|}:",) and (tail if header[-1].isspace() else tail.rstrip()).endswith(header):
            return good + size, ""
    return good if text[base:good].strip() else None, tail[index:]
