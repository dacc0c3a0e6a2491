"""Tracked strings: the text that ``str`` gives, and for every character of it where it came from."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftcore.labelling.rendering.provenance import (
    CALL,
    CONTENT,
    ENTER,
    EXIT,
    GENERATION,
    LITERAL,
    MIXED,
    REASONING,
    Tracked,
    join,
    mark,
    runs_of,
    split_tag,
    tag_of,
    tracked,
    whole,
)

from ...sizes import examples

PROFILE = examples(60)
TEXTS = st.text(alphabet=st.sampled_from("aaaaabbb  \n\t,,AßİŉςΣ%s{}0é\u2028🙂"), max_size=8)
ENDS = st.text(alphabet="ab", max_size=2)
NUMBERS = st.integers(-10, 10)
CHARS = st.none() | TEXTS
NONE = st.tuples()

OTHERS = 100
"""Messages from this number on are those of arguments, not of the text that a method belongs to."""


def numbered(text: str, first: int = 0) -> Tracked:
    """Return *text* with each character tagged as that of a message of its own, and marks in between."""
    marks = ((0, tag_of(first, ENTER)),)
    return tracked(text, marks + tuple((1, tag_of(first + at, CONTENT)) for at in range(len(text))) + marks)


tags = st.sampled_from([LITERAL, tag_of(0, CONTENT), tag_of(0, REASONING), tag_of(1, CONTENT), tag_of(0, EXIT)])


@st.composite
def in_runs(draw: st.DrawFn) -> Tracked:
    """Draw a string whose runs are of any length, also none."""
    runs = tuple(draw(st.lists(st.tuples(st.integers(0, 3), tags), max_size=4)))
    length = sum(length for length, _ in runs)
    return tracked(draw(st.text(alphabet="ab \n,", min_size=length, max_size=length)), runs)


def strings_in(value: Any) -> Iterator[str]:
    """Yield every string in what a method returned."""
    if isinstance(value, str):
        yield value
    else:
        for item in value:
            yield from strings_in(item)


def per_character(text: str) -> list[int]:
    return [tag for length, tag in runs_of(text) for _ in range(length)]


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """The outcome of a call: its result, as plain strings, or its error."""
    try:
        result = function(*args)
    except Exception as error:
        return type(error), str(error)
    return plain(result)


def plain(value: Any) -> Any:
    if isinstance(value, str):
        return "".join(map(str.__str__, str.__iter__(value)))
    return type(value)(plain(item) for item in value) if isinstance(value, (list, tuple)) else value


SEPARATORS = st.sampled_from([" ", ",", "a", "\n", "ab", "🙂"])

FOLLOWED: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    "strip": NONE | st.tuples(CHARS),
    "lstrip": NONE | st.tuples(CHARS),
    "rstrip": NONE | st.tuples(CHARS),
    "removeprefix": st.tuples(ENDS),
    "removesuffix": st.tuples(ENDS),
    "split": NONE | st.tuples(st.none() | SEPARATORS) | st.tuples(st.none() | SEPARATORS, NUMBERS),
    "rsplit": NONE | st.tuples(st.none() | SEPARATORS) | st.tuples(st.none() | SEPARATORS, NUMBERS),
    "splitlines": NONE | st.tuples(st.booleans()),
    "partition": st.tuples(SEPARATORS),
    "rpartition": st.tuples(SEPARATORS),
    "__getitem__": st.tuples(NUMBERS | st.builds(slice, st.none() | NUMBERS, st.none() | NUMBERS, st.just(1))),
    "__mul__": st.tuples(st.integers(-1, 3)),
    "__rmul__": st.tuples(st.integers(-1, 3)),
    "__str__": NONE,
}
"""What only cuts, keeps and repeats: each character is still that of its message."""

IN_PLACE = dict.fromkeys(("upper", "lower", "title", "capitalize", "swapcase", "casefold"), NONE)
"""What changes characters where they stand."""

WITH_OTHERS: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    "__add__": st.tuples(TEXTS),
    "replace": st.tuples(TEXTS, TEXTS) | st.tuples(TEXTS, TEXTS, NUMBERS),
    "join": st.tuples(st.lists(TEXTS, max_size=4)),
}
"""What puts texts together."""

AS_A_WHOLE: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    "__getitem__": st.tuples(st.builds(slice, st.none() | NUMBERS, st.none() | NUMBERS, NUMBERS)),
    "__mod__": st.tuples(TEXTS | NUMBERS | st.tuples(TEXTS, TEXTS)),
    "expandtabs": NONE | st.tuples(st.integers(0, 9)),
    "translate": st.tuples(st.just({97: "xy", 32: None, 10: 98})),
    "ljust": st.tuples(NUMBERS) | st.tuples(NUMBERS, st.sampled_from("*é")),
    "rjust": st.tuples(NUMBERS) | st.tuples(NUMBERS, st.sampled_from("*é")),
    "center": st.tuples(NUMBERS) | st.tuples(NUMBERS, st.sampled_from("*é")),
    "zfill": st.tuples(NUMBERS),
}
"""What cannot be followed character by character."""

NOT_HERE = {
    *("format", "format_map"),  # the sandbox does that itself, see test_sandbox_render.py
    *("count", "encode", "endswith", "find", "index", "maketrans", "rfind", "rindex", "startswith"),
    *("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric"),
    *("isprintable", "isspace", "istitle", "isupper"),
}


def test_every_method_of_str_is_here() -> None:
    tested = {*FOLLOWED, *IN_PLACE, *WITH_OTHERS, *AS_A_WHOLE}
    assert {name for name in dir(str) if not name.startswith("_")} == {n for n in tested if n[0] != "_"} | NOT_HERE
    assert {name for name in vars(Tracked) if name in tested} == tested


def all_of_them() -> list[tuple[str, st.SearchStrategy[tuple[Any, ...]]]]:
    return [item for table in (FOLLOWED, IN_PLACE, WITH_OTHERS, AS_A_WHOLE) for item in table.items()]


@pytest.mark.parametrize(("name", "arguments"), all_of_them(), ids=[name for name, _ in all_of_them()])
def test_the_text_is_that_of_str_and_the_runs_cover_it(
    name: str, arguments: st.SearchStrategy[tuple[Any, ...]]
) -> None:
    @PROFILE
    @given(TEXTS.map(numbered) | in_runs(), arguments, st.booleans())
    def run(text: Tracked, args: tuple[Any, ...], tracked_args: bool) -> None:
        given_ = tuple(follow(arg) for arg in args) if tracked_args else args
        expected = outcome(getattr(plain(text), name), *args)
        assert outcome(getattr(text, name), *given_) == expected
        if not (isinstance(expected, tuple) and isinstance(expected[0], type)):
            for string in strings_in(getattr(text, name)(*given_)):
                assert sum(length for length, _ in runs_of(string)) == len(string)
                assert all(length >= 0 for length, _ in runs_of(string))

    run()


def follow(arg: Any) -> Any:
    """Return *arg* with its strings tracked, as those of other messages."""
    if isinstance(arg, str):
        return numbered(arg, OTHERS)
    if isinstance(arg, (list, tuple)):
        return type(arg)(follow(item) for item in arg)
    return {key: follow(item) for key, item in arg.items()} if isinstance(arg, dict) else arg


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_is_cut_keeps_the_tags_of_its_characters(name: str) -> None:
    @PROFILE
    @given(TEXTS, FOLLOWED[name])
    def run(text: str, args: tuple[Any, ...]) -> None:
        try:
            result = getattr(numbered(text), name)(*args)
        except IndexError:
            return
        for string in strings_in(result):
            places = [split_tag(tag)[0] for tag in per_character(string)]
            assert [text[place] for place in places] == list(string)

    run()


@pytest.mark.parametrize(
    ("cut", "text", "kept"),
    [
        (lambda text: text.removeprefix("ab"), "abca", [2, 3]),
        (lambda text: text.removesuffix("ca"), "abca", [0, 1]),
        (lambda text: text.strip("a"), "abca", [1, 2]),
        (lambda text: text.split("b")[1], "abca", [2, 3]),
        (lambda text: text.rpartition("a")[1], "abca", [3]),
        (lambda text: text.splitlines()[1], "a\r\nb", [3]),
        (lambda text: text.split()[1], " a  a ", [4]),
    ],
)
def test_what_is_left_is_from_where_it_was(cut: Callable[[str], str], text: str, kept: list[int]) -> None:
    assert [split_tag(tag)[0] for tag in per_character(cut(numbered(text)))] == kept


@pytest.mark.parametrize("name", IN_PLACE)
def test_other_letters_stand_where_the_letters_stood(name: str) -> None:
    @PROFILE
    @given(TEXTS)
    def run(text: str) -> None:
        string = getattr(numbered(text), name)()
        if len(string) == len(text):
            assert runs_of(string) == numbered(text)._runs
        else:
            assert set(per_character(string)) == {MIXED if len(text) > 1 else tag_of(0, CONTENT)}

    run()


@pytest.mark.parametrize("name", AS_A_WHOLE)
def test_what_cannot_be_followed_is_tagged_as_a_whole(name: str) -> None:
    @PROFILE
    @given(TEXTS.filter(bool), AS_A_WHOLE[name], st.booleans())
    def run(text: str, args: tuple[Any, ...], same: bool) -> None:
        source = tracked(text, ((len(text), tag_of(0, CONTENT)),)) if same else numbered(text)
        try:
            string = getattr(source, name)(*args)
        except (ValueError, TypeError, KeyError, IndexError):
            return
        found = set(per_character(string))
        assert found <= ({tag_of(0, CONTENT)} if same or len(text) == 1 else {MIXED}) | set(source_tags(source, name))

    run()


def source_tags(source: Tracked, name: str) -> list[int]:
    return per_character(source) if name == "__getitem__" else []  # a step of 1 can be followed


@PROFILE
@given(TEXTS, TEXTS)
def test_texts_put_together(left: str, right: str) -> None:
    one, other = numbered(left), numbered(right, OTHERS)
    mine, theirs = list(range(len(left))), list(range(OTHERS, OTHERS + len(right)))

    def origins(text: str) -> list[int]:
        return [tag if tag < 0 else split_tag(tag)[0] for tag in per_character(text)]

    assert origins(one + other) == mine + theirs
    assert origins(one + right) == mine + [LITERAL] * len(right)
    assert origins(right + one) == [LITERAL] * len(right) + mine
    assert origins(join([one, right, other], "-")) == [*mine, LITERAL, *[LITERAL] * len(right), LITERAL, *theirs]
    assert origins(one.join([right, other])) == [*[LITERAL] * len(right), *mine, *theirs]
    assert origins(join([right, left], one)) == [LITERAL] * len(right) + mine + [LITERAL] * len(left)
    assert origins(one * 2) == origins(2 * one) == mine * 2
    assert str.__add__(right, left) == join([right, left])
    assert type(join([right, left])) is str


@PROFILE
@given(st.text(alphabet="abc", max_size=8), st.sampled_from(["a", "b", "ab"]), st.text(alphabet="xy", max_size=3))
def test_what_replaces_a_piece_belongs_to_where_the_piece_was(text: str, old: str, new: str) -> None:
    starts, at = [], text.find(old)
    while at >= 0:
        starts.append(at)
        at = text.find(old, at + len(old))
    expected: list[tuple[str, int]] = []
    theirs: list[tuple[str, int]] = []
    for place in range(len(text)):
        if place in starts:
            expected += [(letter, place) for letter in new]
            theirs += [(letter, OTHERS + number) for number, letter in enumerate(new)]
        elif not any(start < place < start + len(old) for start in starts):
            expected.append((text[place], place))
            theirs.append((text[place], place))
    for put, wanted in ((new, expected), (numbered(new, OTHERS), theirs)):
        result = numbered(text).replace(old, put)
        places = [split_tag(tag)[0] for tag in per_character(result)]
        assert list(zip(result, places, strict=True)) == wanted


@PROFILE
@given(TEXTS)
def test_a_loop_over_the_characters_keeps_their_tags(text: str) -> None:
    assert [split_tag(per_character(letter)[0])[0] for letter in numbered(text)] == list(range(len(text)))
    assert [split_tag(per_character(letter)[0])[0] for letter in reversed(numbered(text))] == [*range(len(text))][::-1]
    assert "".join(numbered(text)) == text


@PROFILE
@given(TEXTS)
def test_it_is_equal_to_the_plain_string(text: str) -> None:
    made = numbered(text)
    assert made == text
    assert hash(made) == hash(text)
    assert len(made) == len(text)
    assert str(made) is made
    assert {made: 1} == {text: 1}


@pytest.mark.parametrize("operation", [operator.add, operator.mul])
@pytest.mark.parametrize("other", [None, [], 1.5])
def test_what_str_refuses_is_refused(operation: Callable[..., Any], other: Any) -> None:
    for left, right in ((numbered("a"), other), (other, numbered("a"))):
        with pytest.raises(TypeError):
            operation(left, right)


@pytest.mark.parametrize("name", ["partition", "rpartition"])
def test_an_empty_separator_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="empty separator"):
        getattr(numbered("ab"), name)("")


def content(text: str, message: int = 0, field: int = CONTENT) -> Tracked:
    return tracked(text, ((len(text), tag_of(message, field)),))


@pytest.mark.parametrize(
    ("sources", "tag"),
    [
        ([content("a")], tag_of(0, CONTENT)),
        ([content("a", field=CALL)], tag_of(0, CALL)),
        ([content("a"), content("b", field=REASONING)], tag_of(0, CONTENT)),
        ([content("a"), content("b", 1)], MIXED),
        ([["x", {"k": (content("a", 3),)}], 5, None], tag_of(3, CONTENT)),
        ([{content("key", 2): "v"}], tag_of(2, CONTENT)),
        ([content("a") + " plain"], tag_of(0, CONTENT)),
        ([tracked("ab", ((2, MIXED),)), content("a")], MIXED),
        ([mark(tag_of(4, ENTER)), content("a")], tag_of(0, CONTENT)),
    ],
)
def test_a_whole_is_of_the_one_message_it_was_made_of(sources: list[Any], tag: int) -> None:
    assert runs_of(whole("abc", *sources)) == ((3, tag),)


@pytest.mark.parametrize("sources", [[], ["text"], [mark(GENERATION)], [1, None, {"a": "b"}]])
def test_a_whole_of_the_templates_own_is_plain(sources: list[Any]) -> None:
    assert type(whole("abc", *sources)) is str


def test_formatting() -> None:
    a, b = content("a"), content("b", 1)
    assert runs_of("%s!" % a) == ((2, tag_of(0, CONTENT)),)  # noqa: UP031 - it is what is tested
    assert runs_of(content("%s-%s") % ("x", "y")) == ((3, tag_of(0, CONTENT)),)
    assert runs_of(content("%s") % b) == ((1, MIXED),)
    assert runs_of(a.ljust(3, "-")) == ((3, tag_of(0, CONTENT)),)


@pytest.mark.parametrize("message", [0, 1, 7, 1000])
@pytest.mark.parametrize("field", range(8))
def test_tags_hold_message_and_field(message: int, field: int) -> None:
    assert split_tag(tag_of(message, field)) == (message, field)
    assert tag_of(message, field) >= 0


def test_marks_stay_where_they_are() -> None:
    text = "ab" + mark(GENERATION) + content("cd") + mark(tag_of(0, EXIT))
    assert runs_of(text)[1] == (0, GENERATION)
    assert runs_of(text[1:3]) == ((1, LITERAL), (0, GENERATION), (1, tag_of(0, CONTENT)))
    assert runs_of(text[3:]) == ((1, tag_of(0, CONTENT)), (0, tag_of(0, EXIT)))
    assert [tag for _, tag in runs_of(text.upper())] == [LITERAL, GENERATION, tag_of(0, CONTENT), tag_of(0, EXIT)]
