"""What is too long: exchanges are dropped from the oldest on, split or cut; a turn is trained once, and whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftcore import Conversation, Message, RowError
from sftcore.core.labelling_policy import Truncation
from sftcore.labelling import (
    LabelledConversation,
    LabelledExample,
    Labeller,
    LabelWarning,
    Policy,
    TooLongError,
    truncate,
)

from ..sizes import examples
from .test_labeller import FORGETS, PLAIN, labeller, marked, said, talk, trained

WAYS: tuple[Any, ...] = get_args(Truncation)

LONG = talk("q1", "a1", "q2", "a2", "q3", "a3", system="S")
"""The system prompt takes 3 tokens, each exchange 8."""


def fitted(conversation: Conversation, made: Labeller | None = None, **policy: Any) -> LabelledConversation:
    made = made or labeller()
    policy_ = Policy(**policy)
    return truncate(made, conversation, made.label(conversation, policy_), policy_)


def shown(*numbers: int, system: str = "[system]S</s>", trained: bool = True) -> str:
    """Return the text of some exchanges of LONG, marked."""
    left, right = ("⟦", "⟧") if trained else ("", "")
    return system + "".join(f"[user]q{n}</s>[assistant]{left}a{n}</s>{right}" for n in numbers)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [None, 27, 28, 1000])
def test_what_fits_stays_as_it_is(way: Any, limit: int | None) -> None:
    done = fitted(LONG, max_length=limit, truncation=way)
    assert done == labeller().label(LONG)
    assert trained(done) == [shown(1, 2, 3)]
    assert done.longest == 27
    assert said(done) == {}


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(26, (2, 3)), (20, (2, 3)), (19, (2, 3)), (18, (3,)), (11, (3,)), (10, ()), (1, ())],
)
def test_the_oldest_exchanges_are_dropped(limit: int, kept: tuple[int, ...]) -> None:
    done = fitted(LONG, max_length=limit)
    assert trained(done) == ([shown(*kept)] if kept else [])
    assert said(done) == ({LabelWarning.TURNS_DROPPED: 1} if kept else {LabelWarning.TOO_LONG: 1})
    for example in done.examples:
        assert example.turns == tuple(2 * number for number in kept)
        assert example.skipped == 6 - 2 * len(kept)
        assert example.messages == 1 + 2 * len(kept)


@pytest.mark.parametrize("limit", [26, 11, 1])
def test_drop_row(limit: int) -> None:
    done = fitted(LONG, max_length=limit, truncation="drop_row")
    assert (done.examples, said(done)) == ([], {LabelWarning.TOO_LONG: 1})


def test_error() -> None:
    reason = r"^has 27 tokens, more than max_length 26 \(truncation: error\)$"
    with pytest.raises(TooLongError, match=reason):
        fitted(LONG, max_length=26, truncation="error")


@pytest.mark.parametrize(
    ("limit", "parts", "warnings"),
    [
        (26, [(1, 2), (3,)], {LabelWarning.SPLIT_TO_FIT: 1}),
        (19, [(1, 2), (3,)], {LabelWarning.SPLIT_TO_FIT: 1}),
        (18, [(1,), (2,), (3,)], {LabelWarning.SPLIT_TO_FIT: 2}),
        (11, [(1,), (2,), (3,)], {LabelWarning.SPLIT_TO_FIT: 2}),
        (10, [], {LabelWarning.TOO_LONG: 3}),
    ],
)
def test_split(limit: int, parts: list[tuple[int, ...]], warnings: dict[LabelWarning, int]) -> None:
    done = fitted(LONG, max_length=limit, truncation="split")
    assert trained(done) == [shown(*part) for part in parts]
    assert said(done) == warnings
    assert [example.turns for example in done.examples] == [tuple(2 * number for number in part) for part in parts]
    assert [example.skipped for example in done.examples] == [2 * (part[0] - 1) for part in parts]


def test_split_leaves_out_only_the_exchange_that_is_too_long() -> None:
    done = fitted(talk("q1", "a1", "q2", "a2" * 20, "q3", "a3", system="S"), max_length=19, truncation="split")
    assert trained(done) == [shown(1), shown(3)]
    assert said(done) == {LabelWarning.SPLIT_TO_FIT: 1, LabelWarning.TOO_LONG: 1}


@pytest.mark.parametrize(
    ("limit", "left", "end", "messages", "warnings"),
    [
        (26, (1, 2), "[user]q3</s>[assistant]⟦a3⟧", 7, {LabelWarning.TRUNCATED: 1}),
        (25, (1, 2), "[user]q3</s>[assistant]⟦a⟧", 7, {LabelWarning.TRUNCATED: 1}),
        (24, (1, 2), "[user]q3</s>[assistant]", 7, {LabelWarning.AFTER_MAX_LENGTH: 1}),
        (23, (1, 2), "[user]q3</s>", 6, {LabelWarning.AFTER_MAX_LENGTH: 1}),
        (20, (1, 2), "[user]", 6, {LabelWarning.AFTER_MAX_LENGTH: 1}),
        (19, (1, 2), "", 5, {LabelWarning.AFTER_MAX_LENGTH: 1}),
        (18, (1,), "[user]q2</s>[assistant]⟦a2⟧", 5, {LabelWarning.TRUNCATED: 1, LabelWarning.AFTER_MAX_LENGTH: 1}),
        (11, (1,), "", 3, {LabelWarning.AFTER_MAX_LENGTH: 2}),
        (9, (), "[user]q1</s>[assistant]⟦a⟧", 3, {LabelWarning.TRUNCATED: 1, LabelWarning.AFTER_MAX_LENGTH: 2}),
    ],
)
def test_truncate_right(
    limit: int, left: tuple[int, ...], end: str, messages: int, warnings: dict[LabelWarning, int]
) -> None:
    done = fitted(LONG, max_length=limit, truncation="truncate_right")
    [example] = done.examples
    [whole] = labeller().examples(LONG)
    assert marked(example) == shown(*left) + end
    assert example.messages == messages
    assert example.input_ids == whole.input_ids[:limit]
    assert example.labels == whole.labels[:limit]
    assert example.offsets == whole.offsets[:limit]
    assert example.stops == [stop for stop in whole.stops if stop < limit]
    assert said(done) == warnings


def test_a_turn_without_a_trained_stop_is_cut_where_its_text_is() -> None:
    def warnings(limit: int, **policy: Any) -> dict[LabelWarning, int]:
        return said(fitted(LONG, max_length=limit, truncation="truncate_right", **policy))

    assert warnings(25, train_on_stop=False) == {LabelWarning.TRUNCATED: 1}
    assert warnings(26, train_on_stop=False) == {}
    assert warnings(19, train_on="all") == {LabelWarning.AFTER_MAX_LENGTH: 2}
    assert warnings(18, train_on="all") == {LabelWarning.TRUNCATED: 1, LabelWarning.AFTER_MAX_LENGTH: 2}


def test_truncate_right_leaves_nothing_to_train() -> None:
    done = fitted(LONG, max_length=8, truncation="truncate_right")
    assert (done.examples, said(done)) == ([], {LabelWarning.TOO_LONG: 1})


def test_weights_are_cut_too() -> None:
    done = fitted(LONG, max_length=10, truncation="truncate_right", weight=0.5)
    assert [example.weights for example in done.examples] == [[0.0] * 8 + [0.5, 0.5]]


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("drop_turns", [shown(2, trained=False) + shown(3, system="")]),
        ("split", [shown(3)]),
    ],
)
def test_the_last_turn_is_that_of_the_whole(way: Any, expected: list[str]) -> None:
    assert trained(fitted(LONG, max_length=19, truncation=way, train_on="last_turn")) == expected


@pytest.mark.parametrize("way", ["drop_turns", "split"])
def test_what_a_message_says_itself_holds(way: Any) -> None:
    messages = list(LONG.messages)
    messages[4] = Message("assistant", "a2", train=False)
    messages[6] = Message("assistant", "a3", weight=0.5)
    done = fitted(Conversation(tuple(messages)), max_length=19, truncation=way)
    weights = [example.weights for example in done.examples if example.turns == (6,)]
    assert [set(found or ()) for found in weights] == [{0.0, 0.5}]
    assert 4 not in [turn for example in done.examples for turn in example.turns]


def test_nothing_that_is_trained_is_left() -> None:
    messages = [replace(message, train=at == 2) for at, message in enumerate(LONG.messages)]
    done = fitted(Conversation(tuple(messages)), max_length=19)
    assert (done.examples, said(done)) == ([], {LabelWarning.TOO_LONG: 1})


def test_an_exchange_is_kept_with_its_tools() -> None:
    call = {"function": {"name": "f", "arguments": {}}}
    source = PLAIN.replace("m.content", "m.content + (m.tool_calls[0].function.name if m.tool_calls else '')")
    messages = (
        *(Message("system", "S"), Message("user", "q"), Message("assistant", "", tool_calls=(call,))),
        *(Message("tool", "42"), Message("assistant", "a"), Message("user", "r"), Message("assistant", "b")),
    )
    done = fitted(Conversation(messages), labeller(source), max_length=16, truncation="split")
    assert trained(done) == [
        "[system]S</s>[user]q</s>[assistant]⟦f</s>⟧[tool]42</s>[assistant]⟦a</s>⟧",
        "[system]S</s>[user]r</s>[assistant]⟦b</s>⟧",
    ]


def test_users_texts_are_trained_where_they_are_wanted() -> None:
    done = fitted(LONG, max_length=19, truncation="split", train_on=["user", "system"])
    assert trained(done) == [
        "[system]⟦S⟧</s>[user]⟦q1⟧</s>[assistant]a1</s>[user]⟦q2⟧</s>[assistant]a2</s>",
        "[system]⟦S⟧</s>[user]⟦q3⟧</s>[assistant]a3</s>",
    ]


def test_a_template_that_refuses_what_is_left_refuses_the_row() -> None:
    source = "{% if messages[1].content == 'q2' %}{{ raise_exception('begin at the beginning') }}{% endif %}" + PLAIN
    with pytest.raises(RowError, match="begin at the beginning"):
        fitted(LONG, labeller(source), max_length=19)


def test_examples_of_one_row_are_fitted_one_by_one() -> None:
    thinks = talk("q1", "a1", "q2", "a2", "q3", "a3", reasoning_content="hm")
    done = fitted(thinks, labeller(FORGETS), max_length=20)
    assert trained(done) == [
        "[user]q1</s>[assistant]⟦<think>hm</think>a1</s>⟧",
        "[user]q1</s>[assistant]a1</s>[user]q2</s>[assistant]⟦<think>hm</think>a2</s>⟧",
        "[user]q2</s>[assistant]a2</s>[user]q3</s>[assistant]⟦<think>hm</think>a3</s>⟧",
    ]
    assert said(done) == {LabelWarning.OWN_EXAMPLE: 2, LabelWarning.TURNS_DROPPED: 1}


# whatever the conversation

texts = st.text(alphabet="ab", max_size=6)
thoughts = st.none() | st.just("hm")


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages = [Message("system", "S")] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 5))):
        messages.append(Message("user", draw(texts)))
        for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2]))):
            train = draw(st.sampled_from([None, None, None, False, True]))
            messages.append(Message("assistant", draw(texts), reasoning_content=draw(thoughts), train=train))
    return Conversation(tuple(messages))


@pytest.mark.parametrize("source", [PLAIN, FORGETS], ids=["plain", "forgets"])
@pytest.mark.parametrize("way", [way for way in WAYS if way != "error"])
def test_whatever_the_conversation(source: str, way: Any) -> None:
    made = labeller(source)

    @examples(40)
    @given(conversations(), st.integers(1, 60), st.sampled_from(["assistant", "last_turn"]))
    def run(conversation: Conversation, limit: int, train_on: Any) -> None:
        whole = made.label(conversation, Policy(train_on=train_on))
        done = fitted(conversation, made, max_length=limit, truncation=way, train_on=train_on)
        turns = [turn for example in done.examples for turn in example.turns]
        assert len(turns) == len(set(turns)), "each turn is trained at most once"
        assert set(turns) <= {turn for example in whole.examples for turn in example.turns}
        for example in done.examples:
            assert len(example.input_ids) == len(example.labels) <= limit
            assert example.trained
            if way != "truncate_right":
                check(made, conversation, example)
        if way == "split":  # what fits beside the system prompt is not lost
            lost = sum(len(example.turns) for example in whole.examples) - len(turns)
            assert bool(lost) <= bool(said(done).get(LabelWarning.TOO_LONG))

    run()


def check(made: Labeller, conversation: Conversation, example: LabelledExample) -> None:
    """Check that *example* is the beginning and a part of the conversation, and that each turn in it is whole."""
    head = sum(message.role == "system" for message in conversation.messages)
    rest = conversation.messages[head + example.skipped :]
    messages = [message.to_dict() for message in (*conversation.messages[:head], *rest)][: example.messages]
    assert example.text == made.template.render(messages, **made.variables)
    assert not example.skipped or messages[head]["role"] == "user"
    assert len(example.stops) == len(example.turns)
    for turn in example.turns:
        assert f"{conversation.messages[turn].content}</s>⟧" in marked(example)


def test_no_more_is_dropped_than_need_be() -> None:
    made = labeller()

    @examples(40)
    @given(conversations(), st.integers(1, 60))
    def run(conversation: Conversation, limit: int) -> None:
        for example in fitted(conversation, made, max_length=limit).examples:
            if example.skipped:
                head = sum(message.role == "system" for message in conversation.messages)
                users = [at for at, message in enumerate(conversation.messages) if message.role == "user"]
                before = max(at for at in users if at < head + example.skipped)
                kept = (*conversation.messages[:head], *conversation.messages[before:])
                ids = made.tokenizer.apply_chat_template([message.to_dict() for message in kept], return_dict=False)
                assert len(ids) > limit

    run()


def test_a_cut_example_tells_what_is_in_it() -> None:
    [example] = fitted(LONG, max_length=10, truncation="truncate_right").examples
    assert example.turns == (2,)
