from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from sftcore.core.types import IGNORE_INDEX
from sftcore.data.row_types import Origin
from sftcore.inspection.preview import example_to_json, render_examples, to_cells
from sftcore.inspection.preview_page import render_page
from sftcore.labelling import LabelledExample

HERE = Origin("data/chat.jsonl", 3)
OWN = re.compile(r"\x1b\[[0-9;]*m")
HOSTILE = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\x00",
    "\x08\x7f",
    "over\rwritten",
    "\u202etxt.exe",
    "\u2028",
]
MARKS = "⟦⟧⦃⦄⟪⟫⟨⟩↵■"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Byte-level BPE that knows a few words and tags; every other character is as many tokens as it has bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = trainers.BpeTrainer(
        initial_alphabet=alphabet, special_tokens=["<|end|>", "<script>", "</b>"], show_progress=False
    )
    bpe.train_from_iterator(["user: assistant: What is it? It is Paris."] * 9, words)
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def labelled(tokenizer: Any, *parts: tuple[str, float | None]) -> LabelledExample:
    """Return an example of *parts*, each of a text and what it weighs: None where it is masked."""
    text, weight_of = "", []
    for part, weight in parts:
        text += part
        weight_of += [weight] * len(part)
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    weights = [weight_of[start] for start, _ in offsets]
    labels = [IGNORE_INDEX if weight is None else token for token, weight in zip(ids, weights, strict=True)]
    stops = [position for position, label in enumerate(labels) if label == tokenizer.convert_tokens_to_ids("<|end|>")]
    some = [0.0 if weight is None else weight for weight in weights] if {*weights} - {None, 1} else None
    return LabelledExample(text, ids, labels, some, offsets, stops, messages=2, turns=(1,))


@pytest.fixture
def paris(tokenizer: Any) -> LabelledExample:
    return labelled(
        tokenizer, ("user: What is it?<|end|>\nassistant:", None), (" It is\nParis.<|end|>", 1.0), ("\n", None)
    )


def body(example: LabelledExample, tokenizer: Any, colour: bool = False, token_boundaries: bool = False) -> str:
    """The output between the header and the totals."""
    shown = render_examples([(example, HERE)], tokenizer, colour=colour, token_boundaries=token_boundaries)
    return shown.split("\n\n", 1)[1].rpartition("\n\n")[0]


def test_preview_without_colour_puts_brackets_around_trained_text(tokenizer: Any, paris: LabelledExample) -> None:
    tokens, trained = len(paris.input_ids), sum(label != IGNORE_INDEX for label in paris.labels)
    counts = f"{tokens} tokens, {trained} trained ({trained / tokens:.0%}), 1 stop"
    assert render_examples([(paris, HERE)], tokenizer, colour=False) == (
        f"data/chat.jsonl:3  2 messages, trained: 2  {counts}\n"
        "\n"
        "user: What is it?<|end|>\n"
        "assistant:⟦ It is↵\n"
        "Paris.<|end|>■⟧\n"
        "\n"
        "\n"
        f"total  1 example of 1 row, {counts}\n"
    )


def test_preview_with_colour_begins_and_ends_colours_on_each_line(tokenizer: Any, paris: LabelledExample) -> None:
    lines = body(paris, tokenizer, colour=True).split("\n")
    assert lines[:3] == [
        "\x1b[2muser: What is it?<|end|>\x1b[0m",
        "\x1b[2massistant:\x1b[0m\x1b[4;32m It is↵\x1b[0m",
        "\x1b[4;32mParis.\x1b[0m\x1b[1;7;32m<|end|>■\x1b[0m",
    ]


def test_preview_marks_no_stop_token_at_a_masked_end_of_turn(tokenizer: Any) -> None:
    example = labelled(tokenizer, ("user: it<|end|>", None), ("Paris", 1.0), ("<|end|>", None))
    for stops in ([], example.stops, [len(example.input_ids) - 1]):
        assert body(replace(example, stops=stops), tokenizer) == "user: it<|end|>⟦Paris⟧<|end|>"


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
@pytest.mark.parametrize("colour", [False, True])
def test_preview_prints_no_control_characters(tokenizer: Any, hostile: str, colour: bool) -> None:
    example = labelled(tokenizer, (f"user: {hostile}", None), (f"It is {hostile}<|end|>", 1.0))
    said = render_examples([(example, Origin(f"{hostile}.jsonl", 1))], tokenizer, colour=colour, token_boundaries=True)
    assert {*OWN.findall(said)} <= (
        {f"\x1b[{code}m" for code in ("0", "1", "2", "4;32", "1;7;32")} if colour else set()
    )
    assert [char for char in OWN.sub("", said) if char != "\n" and not char.isprintable()] == []
    assert said.count(f"⟨U+{ord(re.sub('[a-z]', '', hostile)[0]):04X}⟩") == 3


def test_preview_escapes_its_own_marks_in_a_text(tokenizer: Any) -> None:
    example = labelled(tokenizer, (MARKS, None), (f"It{MARKS}", 1.0))
    assert [char for char in body(example, tokenizer) if char in MARKS.replace("⟨", "").replace("⟩", "")] == ["⟦", "⟧"]
    assert body(example, tokenizer).count("⟨U+27E6⟩") == 2


def test_preview_marks_token_boundaries(tokenizer: Any, paris: LabelledExample) -> None:
    shown = body(paris, tokenizer, token_boundaries=True)
    assert shown.count("│") == len(paris.input_ids) - 1
    assert "│:│⟦ It│ is│↵\n│Pa│ris│.│<|end|>■⟧│\n" in shown
    assert body(replace(paris, stops=[]), tokenizer, token_boundaries=True).count("■") == 0
    coloured = body(paris, tokenizer, colour=True, token_boundaries=True)
    assert OWN.sub("", coloured) == re.sub("[⟦⟧]", "", shown)
    box = labelled(tokenizer, ("a│b", None))
    assert "│" in body(box, tokenizer)
    assert body(box, tokenizer, token_boundaries=True) == "a│⟨U+2502⟩₃│b"


@pytest.mark.parametrize(
    "offsets", [[(0, 1)] * 4, [(0, 1), (1, 1), (1, 1), (1, 1)], [(0, 0), (0, 0), (0, 0), (0, 1)]], ids=str
)
def test_preview_shows_the_byte_tokens_of_a_character_as_one_cell(
    tokenizer: Any, offsets: list[tuple[int, int]]
) -> None:
    example = labelled(tokenizer, ("😀😀", 1.0))
    assert len(example.input_ids) == 8
    example = replace(example, offsets=[*offsets, *((start + 1, end + 1) for start, end in offsets)])
    first, second = to_cells(example, tokenizer)
    assert (first.text, second.text) == ("😀", "😀")
    assert [*first.ids, *second.ids] == example.input_ids
    assert (first.position, second.position) == (0, 4)
    assert body(example, tokenizer) == "⟦😀😀⟧"
    assert body(example, tokenizer, token_boundaries=True) == "⟦😀₄│😀₄⟧"


@pytest.mark.parametrize("seen", ["👩‍💻", "👍🏽", "❤️", "e\u0301", "हि", "ی\u200c"])
def test_preview_shows_a_grapheme_as_one_cell(tokenizer: Any, seen: str) -> None:
    example = labelled(tokenizer, (f"a{seen}b", None))
    assert [cell.text for cell in to_cells(example, tokenizer)] == ["a", seen, "b"]


def test_preview_of_a_tokenizer_without_offsets() -> None:
    from transformers import ByT5Tokenizer

    slow = ByT5Tokenizer()
    ids = slow("It: 😀é", add_special_tokens=False)["input_ids"] + [slow.eos_token_id]
    example = LabelledExample("It: 😀é</s>", ids, [*[IGNORE_INDEX] * 3, *ids[3:]], None, [], [len(ids) - 1], 1, ())
    assert body(example, slow, token_boundaries=True) == "I│t│:│⟦ │😀₄│é₂│</s>■⟧"
    assert [token for cell in to_cells(example, slow) for token in cell.ids] == ids
    # where a text and its tokens do not fit together, neither is hidden
    assert body(replace(example, text="It= 😀"), slow) == (
        "It⟨:⟩⟦⟨ ⟩⟨ð⟩⟨⟨U+009F⟩⟩⟨⟨U+0098⟩⟩⟨⟨U+0080⟩⟩⟨Ã⟩⟨©⟩⟨</s>⟩■⟧⟪= 😀⟫"
    )
    cut = [*ids[:2], *ids[4:6]]
    assert body(replace(example, text="It", input_ids=cut, labels=cut, stops=[]), slow) == "⟦It⟨ð⟩⟨⟨U+009F⟩⟩⟧"


def test_preview_of_words_that_lost_their_space(tokenizer: Any) -> None:
    class Stripping:
        """Decodes as sentencepiece does: without the space before the first word."""

        convert_ids_to_tokens = tokenizer.convert_ids_to_tokens

        def decode(self, ids: list[int], **options: Any) -> str:
            return str(tokenizer.decode(ids, **options)).lstrip(" ")

    example = labelled(tokenizer, ("It:", None), (" is\n it😀", 1.0))
    for decoder in (tokenizer, Stripping()):
        assert body(replace(example, offsets=[]), decoder, token_boundaries=True) == body(
            example, tokenizer, token_boundaries=True
        )


def test_preview_of_a_character_that_is_partly_trained(tokenizer: Any) -> None:
    example = labelled(tokenizer, ("a😀b", 1.0))
    example = replace(example, labels=[*[IGNORE_INDEX] * 3, *example.labels[3:]])
    assert body(example, tokenizer) == "a⦃😀⦄⟦b⟧"
    assert 'data-m="--++"' in render_page([(example, HERE)], tokenizer, "x")
    example = replace(example, weights=[0, 0, 0, 0.5, 0.5, 1])
    assert body(example, tokenizer) == "a×0.5⦃😀⦄⟦b⟧"


def test_preview_of_tokens_without_text_and_text_without_tokens(tokenizer: Any) -> None:
    example = labelled(tokenizer, ("is it", 1.0))
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    ids = [end, *example.input_ids, end]
    nowhere = (0, 0)
    example = LabelledExample("  is it?", ids, ids, None, [nowhere, (2, 4), (4, 7), nowhere], [3], 1, (0,))
    assert body(example, tokenizer) == "⟦⟨<|end|>⟩⟧⟪  ⟫⟦is it⟨<|end|>⟩■⟧⟪?⟫"
    assert "".join(cell.text for cell in to_cells(example, tokenizer)) == example.text
    assert render_page([(example, HERE)], tokenizer, "x").count(" data-empty>") == 2
    assert body(replace(example, input_ids=ids[1:3], labels=ids[1:3], offsets=[(2, 4), (4, 7)]), tokenizer) == (
        "⟪  ⟫⟦is it⟧⟪?⟫"
    )
    example = LabelledExample("a b\u0301", [5, 6], [5, 6], None, [(0, 1), (3, 4)], [], 1, (0,))
    assert body(example, tokenizer) == "⟦a⟧⟪ b⟫⟦\u0301⟧"


def test_preview_of_an_eos_token_after_a_broken_character(tokenizer: Any) -> None:
    example = labelled(tokenizer, ("\ufffd<|end|>", 1.0))
    example = replace(example, text="\ufffd", offsets=[*example.offsets[:-1], (0, 0)])
    assert body(example, tokenizer) == "⟦\ufffd⟨<|end|>⟩■⟧"


def test_preview_shows_weights_where_they_begin(tokenizer: Any) -> None:
    example = labelled(tokenizer, ("user:", None), (" It is<|end|>", 0.3), (" It", 1.0), (" is", 0.0))
    assert body(example, tokenizer) == "user:×0.3⟦ It is<|end|>■⟧⟦ It⟧×0⟦ is⟧"
    assert "\x1b[1;35m×0.3\x1b[0m\x1b[4;32m It is" in body(example, tokenizer, colour=True)


def test_preview_headers_count_the_examples_of_a_row(tokenizer: Any, paris: LabelledExample) -> None:
    other = replace(paris, messages=4, skipped=2, turns=(3, 5))
    shown = [(paris, HERE), (other, Origin(*HERE)), (paris, Origin("data/chat.jsonl", 4))]
    lines = render_examples(shown, tokenizer, colour=False).splitlines()
    heads = [re.sub(r"  \d+ tokens.*", "", line) for line in lines if line.startswith("data/")]
    assert heads == [
        "data/chat.jsonl:3  example 1 of 2  2 messages, trained: 2",
        "data/chat.jsonl:3  example 2 of 2  4 messages (2 skipped), trained: 4, 6",
        "data/chat.jsonl:4  2 messages, trained: 2",
    ]
    assert lines[-1].startswith(f"total  3 examples of 2 rows, {3 * len(paris.input_ids)} tokens, ")
    assert lines[-1].endswith(" 3 stops")
    (head, *_) = render_examples([(paris, Origin("a\nb", 1))], tokenizer, colour=False).splitlines()
    assert head.startswith("a⟨U+000A⟩b:1  2 messages")


def test_preview_of_no_examples(tokenizer: Any) -> None:
    assert "0 examples of 0 rows, 0 tokens, 0 trained (0%), 0 stops" in render_examples([], tokenizer, colour=False)
    nothing = LabelledExample("", [], [], None, [], [], 0, ())
    assert "0 messages  0 tokens" in render_examples([(nothing, HERE)], tokenizer, colour=True)


def test_preview_json_has_all_that_is_trained_on(tokenizer: Any, paris: LabelledExample) -> None:
    hostile = labelled(tokenizer, ("user: \x1b[31m\n😀", None), (" It", 0.3))
    for example in (paris, hostile):
        line = json.dumps(example_to_json(example, HERE))
        assert "\n" not in line
        read = json.loads(line)
        assert read.pop("source") == "data/chat.jsonl:3"
        assert read == {
            **{key: getattr(example, key) for key in ("messages", "text", "input_ids", "labels")},
            "turns": [1],
            "skipped": 0,
            **({"weights": example.weights} if example is hostile else {}),
        }
    assert example_to_json(replace(paris, input_ids=tuple(paris.input_ids)), HERE)["input_ids"] == list(paris.input_ids)


class Reader(HTMLParser):
    """Reads a page: its elements, and text and tokens of each example."""

    VOID = ("meta", "input", "i")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.code: dict[str, str] = {}
        self.words: list[str] = []
        self.examples: list[str] = []
        self.tokens: list[tuple[int, int, str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        here = dict(attrs)
        self.elements.append((tag, here))
        if here.get("class") == "text":
            self.examples.append("")
        if tag == "b":
            ids, names = str(here["data-i"]).split(" "), str(here["data-k"]).split("\n")
            first = int(str(here["data-p"]))
            state = self.open[-1][1]["class"] if "class" not in here else here["class"]
            for position, (number, name) in enumerate(zip(ids, names, strict=True), first):
                self.tokens.append((position, int(number), name, state))
        if tag not in self.VOID:
            self.open.append((tag, here))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][0] in ("script", "style"):
            self.code[self.open[-1][0]] = data
        elif any(here.get("class") == "text" for _, here in self.open):
            self.examples[-1] += data
        else:
            self.words.append(data)


def test_preview_page_has_every_token_and_its_label(tokenizer: Any, paris: LabelledExample) -> None:
    emoji = labelled(tokenizer, ("a😀", None), (" 👩‍💻", 0.3))
    for example in (paris, emoji):
        read = Reader(render_page([(example, HERE)], tokenizer, "x"))
        names = tokenizer.convert_ids_to_tokens(example.input_ids)
        states = ["masked" if label == IGNORE_INDEX else "trained" for label in example.labels]
        for stop in example.stops:
            states[stop] = "stop"
        assert read.tokens == list(zip(range(len(names)), example.input_ids, names, states, strict=True))
        assert read.examples == [example.text]
    assert [here["data-w"] for _, here in read.elements if "data-w" in here] == ["0.3", "0.3"]  # one is the legend's


def test_preview_page_has_the_headers(tokenizer: Any, paris: LabelledExample) -> None:
    read = Reader(render_page([(paris, HERE), (paris, HERE)], tokenizer, "the title", ["first", "second"]))
    assert len(read.examples) == 2
    assert read.words.count("the title") == 2
    for text in ("first", "second", "data/chat.jsonl:3", "example 2 of 2", "2 messages, trained: 2"):
        assert text in read.words
    assert any(word.startswith("2 examples of 1 row, ") for word in read.words)


def test_preview_page_escapes_html_in_texts(tokenizer: Any, paris: LabelledExample) -> None:
    evil = "</div></script><script>alert(1)</script><img src=x onerror='alert(2)'>\" &amp; \"</b>"
    example = labelled(tokenizer, (evil, None), (evil, 1.0))
    plain = Reader(render_page([(paris, HERE)], tokenizer, "x", ["y"]))
    read = Reader(render_page([(example, Origin(evil, 1))], tokenizer, evil, [evil]))
    kinds = [tag for tag, _ in read.elements if tag not in ("b", "i", "span")]
    assert kinds == [tag for tag, _ in plain.elements if tag not in ("b", "i", "span")]
    assert {key for _, here in read.elements for key in here} == {key for _, here in plain.elements for key in here}
    assert read.examples == [evil * 2]
    assert {evil, f"{evil}:1"} <= set(read.words)
    assert read.code == plain.code


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_preview_page_escapes_control_characters(tokenizer: Any, hostile: str) -> None:
    example = labelled(tokenizer, (f"user: {hostile}", None))
    text = render_page([(example, Origin(hostile, 1))], tokenizer, hostile, [hostile])
    assert [char for char in text if char != "\n" and not char.isprintable()] == []


def test_preview_page_needs_no_network_and_runs_only_its_own_code(tokenizer: Any, paris: LabelledExample) -> None:
    text = render_page([(paris, HERE)], tokenizer, "x")
    read = Reader(text)
    (policy,) = (here["content"] for _, here in read.elements if here.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rights = dict(part.split(" ", 1) for part in policy.split("; "))
    assert rights.pop("default-src") == rights.pop("base-uri") == rights.pop("form-action") == "'none'"
    assert rights == {
        f"{tag}-src": f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
        for tag, code in read.code.items()
    }
    assert set(rights) == {"script-src", "style-src"}
    assert [
        key for _, here in read.elements for key in here if key in ("src", "href", "style") or key[:2] == "on"
    ] == []
    assert not re.search(r"https?:|//|@import|url\(", text)
