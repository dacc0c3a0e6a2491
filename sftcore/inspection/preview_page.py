"""The page of ``sft preview --html``: one file, made of the ``preview_page.*`` files beside this module."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from string import Template
from typing import TYPE_CHECKING, Any

from sftcore.inspection import preview

if TYPE_CHECKING:
    from sftcore.labelling import LabelledExample


def render_page(
    examples: preview.SourcedExamples, tokenizer: Any, title: str, summary_lines: Sequence[str] = ()
) -> str:
    """The examples as an HTML page that needs no other file, and no network."""
    style, script = (f"\n{_resource(name)}" for name in ("preview_page.css", "preview_page.js"))
    headers = zip(examples, preview.example_headers(examples), strict=True)
    articles = (_article(example, header, tokenizer) for (example, _), header in headers)
    return Template(_resource("preview_page.html")).substitute(
        title=_escape_line(title),
        style=style,
        style_hash=_csp_hash(style),
        script=script,
        script_hash=_csp_hash(script),
        summary="".join(f"<p>{_escape_line(line)}</p>\n" for line in summary_lines),
        totals=preview.count_all(examples),
        articles="".join(articles),
    )


def _resource(name: str) -> str:
    return files("sftcore.inspection").joinpath(name).read_text(encoding="utf-8")


def _article(example: LabelledExample, header: Sequence[str], tokenizer: Any) -> str:
    source, *facts = map(_escape_line, header)
    pieces: list[str] = []
    for (kind, weight), piece in groupby(preview.to_cells(example, tokenizer), key=lambda cell: cell.kind):
        label = "" if weight == 1 else f' data-w="{weight:g}"'
        pieces.append(f'<span class="{kind}"{label}>{"".join(map(_cell, piece))}</span>')
    return f"""<article>
<h2>{source}</h2>
<p>{"".join(f"<span>{fact}</span>" for fact in facts)}</p>
<div class="text" tabindex="0" role="group" aria-label="{source}">{"".join(pieces)}</div>
</article>
"""


def _cell(cell: preview.Cell) -> str:
    text = escape(preview.escape_unprintable(cell.text)).replace("\n", "<i></i>\n")
    if not cell.ids:
        return text
    ids, names = " ".join(map(str, cell.ids)), escape("\n".join(cell.names))
    data = f'data-p="{cell.position}" data-i="{ids}" data-k="{names}"'
    if cell.state == preview.STOP:
        data += f' class="{preview.STOP}"'
    if cell.state == preview.PARTLY:
        data += f' data-m="{"".join("-+"[trained] for trained in cell.trained)}"'
    return f"<b {data}{'' if text else ' data-empty'}>{text}</b>"


def _escape_line(text: str) -> str:
    return escape(preview.escape_line(text))


def _csp_hash(code: str) -> str:
    """The source expression that lets a browser run just this *code* by the page's Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
