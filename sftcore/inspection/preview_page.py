"""The page of ``sft preview``: examples as HTML, in one file that works anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sftcore.inspection.preview import PARTLY, STOP, Cell, cells, heads, one_line, totals, visible

if TYPE_CHECKING:
    from sftcore.inspection.preview import Shown
    from sftcore.labelling import Labelled


def page(shown: Shown, tokenizer: Any, title: str, summary_lines: Sequence[str] = ()) -> str:
    """Return the examples as a page of HTML that needs no other file, and no network."""
    name = _text(title)
    rights = "; ".join(f"{kind}-src '{_hash(code)}'" for kind, code in (("style", STYLE), ("script", SCRIPT)))
    summary = "".join(f"<p>{_text(line)}</p>\n" for line in summary_lines)
    articles = (_article(example, head, tokenizer) for (example, _), head in zip(shown, heads(shown), strict=True))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; {rights}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{name}</h1>
{summary}<p class="total">{totals(shown)}</p>
{LEGEND}</header>
{BAR}<main>
{"".join(articles)}</main>
<div id="tip" role="status" hidden></div>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _article(example: Labelled, head: Sequence[str], tokenizer: Any) -> str:
    source, *facts = map(_text, head)
    pieces: list[str] = []
    for (kind, weight), piece in groupby(cells(example, tokenizer), key=lambda cell: cell.kind):
        label = "" if weight == 1 else f' data-w="{weight:g}"'
        pieces.append(f'<span class="{kind}"{label}>{"".join(map(_cell, piece))}</span>')
    return f"""<article>
<h2>{source}</h2>
<p>{"".join(f"<span>{fact}</span>" for fact in facts)}</p>
<div class="text" tabindex="0" role="group" aria-label="{source}">{"".join(pieces)}</div>
</article>
"""


def _cell(cell: Cell) -> str:
    """Return one cell; the script reads the data of its tokens."""
    text = escape(visible(cell.text)).replace("\n", "<i></i>\n")
    if not cell.ids:
        return text
    ids, names = " ".join(map(str, cell.ids)), escape("\n".join(cell.names))
    data = f'data-p="{cell.position}" data-i="{ids}" data-k="{names}"'
    if cell.state == STOP:
        data += f' class="{STOP}"'
    if cell.state == PARTLY:
        data += f' data-m="{"".join("-+"[trained] for trained in cell.trained)}"'
    return f"<b {data}{'' if text else ' data-empty'}>{text}</b>"


def _text(text: str) -> str:
    return escape(one_line(text))


def _hash(code: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


STYLE = """
:root {
  color-scheme: light dark;
  --back: #f6f7f9; --card: #fff; --ink: #16191d; --faint: #6b7280; --line: #dfe3e8;
  --trained: #d9f5e1; --trained-ink: #0b5a2a; --trained-line: #1f9d52;
  --stop: #1a7f42; --stop-ink: #fff; --partly: #fff1cc; --partly-line: #b7791f; --weight: #8b2fc9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #0f1216; --card: #171b21; --ink: #e8ebef; --faint: #8d96a3; --line: #2a3038;
    --trained: #12351f; --trained-ink: #a6edbf; --trained-line: #36b866;
    --stop: #43c775; --stop-ink: #04210e; --partly: #3a2e10; --partly-line: #e0a83a; --weight: #d59bff;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
header, main, nav { max-width: 64rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 1.75rem; }
h1 { font-size: 1.4rem; margin: 0 0 .4rem; }
header p { margin: .1rem 0; color: var(--faint); }
header .total { color: var(--ink); font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; padding: 0; margin: .9rem 0 0; list-style: none; }
.legend, nav { font-size: .87rem; }
nav {
  position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .5rem 1.25rem; align-items: center;
  padding-top: .7rem; padding-bottom: .7rem; background: var(--back);
}
nav input[type=search] {
  flex: 1 1 14rem; padding: .45rem .7rem; font: inherit; color: inherit;
  background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
}
nav output { color: var(--faint); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; margin: 0 0 1.25rem; }
article[hidden] { display: none; }
h2 { font: 600 .9rem/1.4 ui-monospace, monospace; margin: 0; padding: .8rem 1.1rem 0; overflow-wrap: anywhere; }
article > p { margin: 0; padding: .1rem 1.1rem .75rem; font-size: .87rem; color: var(--faint); }
article > p span + span::before { content: "\\b7"; margin: 0 .35rem; }
.text {
  margin: 0; padding: .9rem 1.1rem; border-top: 1px solid var(--line); border-radius: 0 0 .75rem .75rem;
  font: .9rem/1.85 ui-monospace, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4;
}
.text b { font-weight: inherit; border-radius: 2px; outline-offset: 1px; scroll-margin: 4.5rem 0; }
.text i::before { content: "\\21b5"; font-style: normal; opacity: .45; }
.masked { color: var(--faint); }
.trained, .partly { padding: .12em 0; -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.trained {
  color: var(--trained-ink); background: var(--trained);
  text-decoration: underline 2px var(--trained-line); text-underline-offset: .28em; text-decoration-skip-ink: none;
}
.partly {
  background: var(--partly);
  text-decoration: underline dashed 2px var(--partly-line); text-underline-offset: .28em;
}
.lost { color: var(--faint); text-decoration: line-through; }
.text b.stop, .legend .stop {
  display: inline-block; line-height: 1.4; text-decoration: none; font-weight: 700; padding: 0 .3em; border-radius: 3px;
  color: var(--stop-ink); background: var(--stop);
}
.stop::after { content: "\\a0\\25a0"; }
[data-w]::before {
  content: "\\d7" attr(data-w); display: inline-block; margin: 0 .25em; padding: 0 .4em; border-radius: 1em;
  line-height: 1.35; font-size: .8em; font-weight: 700; color: var(--card); background: var(--weight);
}
[data-empty]::before { content: "\\27e8" attr(data-k) "\\27e9"; }
.borders .text b { box-shadow: -1px 0 var(--faint); border-radius: 0; }
.text b.on, .text b:focus { outline: 2px solid var(--ink); }
.text:focus-visible, nav input:focus-visible { outline: 2px solid var(--trained-line); }
#tip {
  position: fixed; z-index: 2; max-width: min(34rem, 94vw); padding: .55rem .8rem; border-radius: .5rem;
  pointer-events: none; font: .82rem/1.5 ui-monospace, monospace; color: var(--card); background: var(--ink);
  box-shadow: 0 4px 18px #0005;
}
#tip[hidden] { display: none; }
#tip p { margin: 0 0 .3rem; font-weight: 700; white-space: pre-wrap; overflow-wrap: anywhere; }
#tip table { border-spacing: 0; }
#tip :is(td, th) { padding: 0 1.1rem 0 0; text-align: left; font-weight: 400; overflow-wrap: anywhere; }
#tip th { opacity: .65; }
"""

LEGEND = """<ul class="legend" aria-label="Legend">
<li><span class="trained">trained</span></li>
<li><span class="masked">masked</span>: only read</li>
<li><span class="stop">stop token</span>, trained</li>
<li><span data-w="0.3"></span>weight, where it is not 1</li>
<li><span class="partly">partly</span>: some tokens of the character are trained</li>
<li><span class="lost">lost</span>: text without a token</li>
</ul>
"""

BAR = """<nav>
<input type="search" id="filter" placeholder="Filter: text or file" aria-label="Filter the examples">
<label><input type="checkbox" id="borders"> token borders</label>
<output id="found"></output>
</nav>
"""

SCRIPT = """
const $ = (id) => document.getElementById(id), tip = $("tip"), cells = ".text b";
let on = null;
function row(tag, words) {
  const line = document.createElement("tr");
  for (const word of words) line.append(Object.assign(document.createElement(tag), {textContent: word}));
  return line;
}
function show(cell) {
  on?.classList.remove("on");
  on = cell;
  tip.hidden = !cell;
  if (!cell) return;
  cell.classList.add("on");
  const {p, i, k, m} = cell.dataset, names = k.split("\\n"), piece = cell.parentElement;
  const weight = piece.dataset.w ?? "1";
  const whole = cell.className.includes("stop") ? "trained, stop" : piece.className;
  const state = (n) => (m ? (m[n] == "+" ? "trained" : "masked") : whole);
  const text = document.createElement("p"), table = document.createElement("table");
  text.textContent = JSON.stringify(cell.textContent);
  table.append(row("th", ["position", "id", "token", "", "weight"]));
  i.split(" ").forEach((id, n) =>
    table.append(row("td", [+p + n, id, names[n], state(n), state(n) == "masked" ? "" : weight])));
  tip.replaceChildren(text, table);
  const box = cell.getClientRects()[0], size = tip.getBoundingClientRect();
  const below = box.bottom + 8 + size.height < innerHeight;
  tip.style.left = Math.max(8, Math.min(box.left, innerWidth - size.width - 8)) + "px";
  tip.style.top = Math.max(8, below ? box.bottom + 8 : box.top - size.height - 8) + "px";
}
for (const event of ["mouseover", "focusin"])
  document.addEventListener(event, ({target}) => show(target.closest(cells)));
document.addEventListener("scroll", () => show(on), {passive: true});
document.addEventListener("keydown", (event) => {
  if (event.key == "Escape") return show(null);
  const step = {ArrowLeft: -1, ArrowRight: 1}[event.key], text = event.target.closest(".text");
  if (!step || !text) return;
  const all = [...text.querySelectorAll("b")], next = all[all.indexOf(event.target) + step];
  if (!next) return;
  event.preventDefault();
  next.tabIndex = -1;
  next.focus({preventScroll: true});
  next.scrollIntoView({block: "nearest"});
});
$("borders").addEventListener("change", ({target}) => document.body.classList.toggle("borders", target.checked));
$("filter").addEventListener("input", ({target}) => {
  const all = [...document.querySelectorAll("article")], word = target.value.toLowerCase();
  for (const one of all) one.hidden = !one.textContent.toLowerCase().includes(word);
  $("found").textContent = word && all.filter((one) => !one.hidden).length + " of " + all.length;
});
"""
