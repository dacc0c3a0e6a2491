"""Where the parts of each message stand in a rendering."""

from __future__ import annotations

from typing import Any

import pytest

from sftcore.labelling.layout import Layout
from sftcore.labelling.rendering.provenance import CALL, CALL_NAME, CONTENT, HEADER, REASONING, tag_of
from sftcore.labelling.rendering.renderer import ChatTemplate, Piece

QA: list[dict[str, Any]] = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
CALL_F = {"type": "function", "id": "c1", "function": {"name": "f", "arguments": {"x": "y"}}}
LOOP = "{% for m in messages %}<{{ m.role }}>{{ m.content }};{% endfor %}"


def lay(source: str, messages: list[dict[str, Any]] = QA, **variables: Any) -> Layout:
    return Layout(ChatTemplate(source).trace(messages, **variables), messages)


def own(layout: Layout, message: int) -> list[tuple[str, int]]:
    """Return the texts of a message's pieces, and what field each is of."""
    return [(layout.text[piece.start : piece.end], piece.tag & 7) for piece in layout.own[message]]


def test_pieces_and_blocks_of_a_loop() -> None:
    layout = lay("^" + LOOP + "$")
    assert layout.text == "^<user>q;<assistant>a;$"
    assert [own(layout, 0), own(layout, 1)] == [[("q", CONTENT)], [("a", CONTENT)]]
    assert layout.blocks == [[(1, 9)], [(9, 22)]]
    assert [(owner, layout.text[piece.start : piece.end]) for owner, piece in layout.printed] == [
        *((0, "user"), (0, "q"), (1, "assistant"), (1, "a"))
    ]


def test_without_a_loop_there_is_no_block() -> None:
    layout = lay("{{ messages[0].content }}{{ messages[1].content }}")
    assert layout.blocks == [[], []]
    assert own(layout, 1) == [("a", CONTENT)]
    assert layout.block_of(1) is None
    assert layout.own_from(1, 0) == layout.own[1]


def test_every_field_of_a_message_but_its_header_is_its_own() -> None:
    messages = [
        QA[0],
        {"role": "assistant", "content": "a", "reasoning_content": "r", "name": "n", "tool_calls": [CALL_F]},
    ]
    layout = lay(
        "{% for m in messages %}{{ m.role }}{{ m.name }}{{ m.reasoning_content }}|{{ m.content }}|"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{{ c.id }}"
        "{% endfor %}{% endfor %}",
        messages,
    )
    assert own(layout, 1)[:4] == [("r", REASONING), ("a", CONTENT), ("f", CALL_NAME), ('{"x": "y"}', CALL)]


def test_what_a_tools_result_repeats_of_the_call_is_not_the_calls() -> None:
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [CALL_F]},
        {"role": "tool", "content": "42"},
    ]
    layout = lay(
        "{% for m in messages %}{% for c in m.tool_calls or [] %}[{{ c.function.name }}]{% endfor %}"
        "{% if m.role == 'tool' %}{{ messages[0].tool_calls[0].function.name }}={{ m.content }}{% endif %}{% endfor %}",
        messages,
    )
    assert layout.text == "[f]f=42"
    assert layout.own[0] == [Piece(1, 2, tag_of(0, CALL_NAME))]
    assert own(layout, 1) == [("42", CONTENT)]


def test_a_call_named_again_is_not_another_call() -> None:
    name = "{{ messages[0].tool_calls[0].function.name }}"
    messages = [{"role": "assistant", "content": "", "tool_calls": [CALL_F]}, {"role": "tool", "content": "42"}]
    layout = lay(f"[{name}]{name}={{{{ messages[1].content }}}}", messages)
    assert layout.text == "[f]f=42"
    assert layout.own[0] == [Piece(1, 2, tag_of(0, CALL_NAME))]


def test_a_message_printed_twice_has_two_blocks() -> None:
    layout = lay(LOOP + "-" + "{% for m in messages %}({{ m.role }}){% endfor %}")
    assert layout.blocks[1] == [(8, 21), (28, 39)]
    assert layout.block_of(1) == (8, 21)  # the one with its text
    assert layout.block_of(1, 25) == (28, 39)


def test_the_last_block_with_text_counts() -> None:
    layout = lay(LOOP + LOOP)
    assert layout.block_of(1) == layout.blocks[1][1]
    assert [piece.start for piece in layout.own_from(1, 0)] == [layout.blocks[1][1][1] - 2]
    assert [piece.start for piece in layout.own_from(0, layout.blocks[1][0][1])] == [layout.blocks[0][1][1] - 2]


def test_a_block_within_a_block_is_of_the_outer_message() -> None:
    inner = "{% for n in messages if n.role != m.role %}{{ n.content }}{% endfor %}"
    layout = lay("{% for m in messages %}{{ m.content }}" + inner + ";{% endfor %}")
    assert layout.text == "qa;aq;"
    assert layout.blocks == [[(0, 3)], [(3, 6)]]


def test_a_break_closes_the_block() -> None:
    layout = lay("{% for m in messages %}<{{ m.content }}{% if loop.index == 2 %}{% break %}{% endif %}>{% endfor %}!")
    assert layout.text == "<q><a!"
    assert layout.blocks == [[(0, 3)], [(3, 5)]]


def test_generation_marks() -> None:
    layout = lay("{% for m in messages %}<{% generation %}{{ m.content }}!{% endgeneration %}>{% endfor %}")
    assert [layout.text[start:end] for start, end in layout.marked] == ["q!", "a!"]
    assert lay(LOOP).marked == []


THREE = [*QA, {"role": "user", "content": "r"}]


def test_neighbours() -> None:
    layout = lay(LOOP, THREE)
    text = "<user>q;<assistant>a;<user>r;"
    assert layout.text == text
    q, a, r = text.index("q"), text.rindex("a"), text.index("r;")
    assert layout.next_other(1, a + 1) == text.index("user", 8)
    assert layout.next_other(0, q) == text.index("assistant")
    assert layout.next_other(2, r) == len(text)
    assert layout.others_between(1, 0, len(text)) == [layout.own[0][0], layout.own[2][0]]  # headers do not count
    assert layout.others_between(1, q + 1, r) == []
    assert layout.others_between(1, q, r) == [layout.own[0][0]]
    assert layout.last_before(a) == (0, layout.own[0][0])
    assert layout.last_before(a + 1) == (1, layout.own[1][0])
    assert layout.last_before(q) is None
    longer = lay("{% for m in messages %}{{ m.content }}{% endfor %}", [QA[0], {"role": "user", "content": "long"}])
    assert longer.last_before(3) == (0, longer.own[0][0])


def test_text_of_several_messages_is_of_others() -> None:
    layout = lay("{{ (messages[0].content ~ messages[1].content).center(2) }}-{{ messages[1].content }}")
    assert layout.text == "qa-a"
    assert [owner for owner, _ in layout.printed] == [-1, 1]
    assert layout.own == [[], [Piece(3, 4, tag_of(1, CONTENT))]]
    assert [(piece.start, piece.end) for piece in layout.others_between(1, 0, 4)] == [(0, 2)]
    assert layout.last_before(3) == (-1, layout.printed[0][1])


@pytest.mark.parametrize("content", ["", " "])
def test_what_is_printed_empty_has_no_piece(content: str) -> None:
    layout = lay(
        "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}", [{"role": "assistant", "content": content}]
    )
    assert layout.own == [[]]
    assert layout.blocks == [[(0, 2)]]
    assert layout.block_of(0) == (0, 2)


def test_a_role_is_a_header_wherever_it_stands() -> None:
    layout = lay("{% for m in messages %}{{ m.content }}{{ m.role }}{% endfor %}")
    assert [piece.tag & 7 for _, piece in layout.printed] == [CONTENT, HEADER] * 2
