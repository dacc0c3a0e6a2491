"""A conversation that is outlined by a plan is outlined as by its own renderings."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sftcore import Conversation, Message, RowError
from sftcore.labelling import Labeller, Outline, Policy, Sketch
from sftcore.labelling.fast_path import planner

from ..templates import TEMPLATES
from ..test_labeller import tokenizer
from .test_observed_template import INDEPENDENT, INSPECTS, WORDS

ROLES = ["user", "assistant"]
TEXTS = [
    "a",
    " a",
    "\n\nb \n",
    "你好 👋🏽",
    "</s>",
    "[assistant]",
    "<x>",
    "!",
    "stop",
    "#",
    "<think>a</think>b",
    "\u27e60\u27e7",
    "{x}",
]
POLICIES = [
    Policy(),
    Policy(train_on="all", weight=0.5),
    Policy(train_on=["user", "assistant"], train_on_stop=False),
    Policy(train_on="last_turn", context="whole"),
    Policy(context="strict"),
]
CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
SPLITS = CHATML.replace("{{ m.content }}", "{{ '<think>' if loop.last and m.role == 'assistant' }}{{ m.content }}")
SPLITS = SPLITS.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")
"""The generation prompt, and so the last turn, has what is not printed of earlier ones."""


def labeller(source: str, stops: tuple[str, ...] = ("</s>", "<|im_end|>"), **variables: Any) -> Labeller:
    return Labeller(tokenizer(source), stops, variables)


def talk(chance: random.Random, choosy: bool) -> Conversation:
    """Return a conversation, some messages of which say whether and how they are trained if it is *choosy*."""
    roles = (["system"] if chance.random() < 0.4 else []) + ROLES * chance.randint(1, 3)
    messages = []
    for role in roles:
        train = chance.choice([None, None, None, True, False]) if choosy else None
        weight = chance.choice([1.0, 1.0, 0.5]) if choosy else 1.0
        messages.append(
            Message(role, "".join(chance.choices(TEXTS, k=chance.randint(1, 3))), train=train, weight=weight)
        )
    return Conversation(tuple(messages))


def attempt(outline: Any, *given: Any) -> Outline | str | None:
    try:
        found: Outline | None = outline(*given)
        return found
    except RowError as error:
        return str(error)


def compare(made: Labeller, name: str, number: int = 150) -> int:
    """Outline random conversations both ways; return for how many there was a plan."""
    chance, planned = random.Random(name), 0
    for _ in range(number):
        conversation, policy = talk(chance, chance.random() < 0.3), chance.choice(POLICIES)
        found = attempt(made.plans.outline, conversation, policy)
        if found is not None:
            planned += 1
            assert found == attempt(made.outline, conversation, policy)
    return planned


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the plans compare nothing themselves."""
    if "compared" not in request.node.name:
        monkeypatch.setattr(planner.Plans, "_compared", lambda self, found, *of: found)


@pytest.mark.parametrize("name", [*INDEPENDENT, *WORDS])
def test_blind_templates(name: str) -> None:
    source = INDEPENDENT.get(name) or WORDS[name][0]
    compare(labeller(source), name)


OPENS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")
"""The generation prompt has what is printed of no turn, unless it says so itself."""


@pytest.mark.parametrize("source", [CHATML, SPLITS, OPENS], ids=["plain", "split", "opens"])
def test_awkward_texts(source: str) -> None:
    compare(labeller(source), source, 1000)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_with_trouble(name: str) -> None:
    template = TEMPLATES[name]
    compare(Labeller(tokenizer(template.source), template.stops, dict(template.kwargs)), name)


@pytest.mark.parametrize("source", [CHATML, WORDS["split"][0]], ids=["plain", "words"])
def test_most_conversations_have_a_plan(source: str) -> None:
    assert compare(labeller(source), "most", 400) > 100


@pytest.mark.parametrize("name", INSPECTS)
def test_templates_that_look_have_none(name: str) -> None:
    try:
        made = labeller(INSPECTS[name])
    except ValueError:
        return
    assert compare(made, name, 20) == 0


def test_turns_in_examples_of_their_own_have_none() -> None:
    """Whether they need one depends on what they say: here the second begins like the prompt."""
    made = labeller(SPLITS)
    for second in ("b", "<think>b") * 3:
        texts = ("a", second, "c", "d")
        messages = tuple(Message(role, text) for role, text in zip(ROLES * 2, texts, strict=True))
        assert len(made.outline_by_plan(Conversation(messages), Policy()).drafts) == 2 - second.startswith("<think>")


@pytest.mark.parametrize(
    "odd",
    [
        Message("tool", "a"),
        Message("assistant", ""),
        Message("assistant", " \n"),
        Message("assistant", "a", reasoning_content="b"),
        Message("assistant", "a", name="b"),
        Message("assistant", "", tool_calls=({"type": "function", "function": {"name": "f", "arguments": {}}},)),
    ],
    ids=str,
)
def test_rows_with_more_than_texts_have_none(odd: Message) -> None:
    made = labeller(CHATML)
    for _ in range(3):
        conversation = Conversation((Message("user", "q"), Message("assistant", "a"), Message("user", "r"), odd))
        assert made.plans.outline(conversation, Policy()) is None


def test_nor_have_tools_variables_of_a_row_and_masked_reasoning() -> None:
    made, messages = labeller(CHATML), (Message("user", "q"), Message("assistant", "a"))
    for _ in range(3):
        assert made.plans.outline(Conversation(messages, ({"type": "function", "function": {}},)), Policy()) is None
        assert made.plans.outline(Conversation(messages, template_kwargs={"x": 1}), Policy()) is None
        assert made.plans.outline(Conversation(messages), Policy(reasoning="mask")) is None


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all plans be wrong."""
    draft = Sketch.draft.fget
    assert draft is not None
    monkeypatch.setattr(Sketch, "draft", property(lambda self: draft(self)._replace(spans=[])))


def test_a_plan_that_is_wrong_is_found_when_it_is_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, conversation = labeller(CHATML), Conversation((Message("user", "q"), Message("assistant", "a")))
    right = made.outline(conversation, Policy())
    monkeypatch.setattr(planner, "SHARE", 3)
    sound = [made.outline_by_plan(conversation, Policy()) for _ in range(3)]  # the first has no plan
    spoil(monkeypatch)
    outlines = [made.outline_by_plan(conversation, Policy()) for _ in range(9)]
    assert sound == [right] * 3
    assert outlines[-6:] == [right] * 6
    assert outlines[0] == right
    assert capsys.readouterr().err.count("otherwise by its plan") == 1


def test_the_first_of_each_plan_is_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, conversation = labeller(CHATML), Conversation((Message("user", "q"), Message("assistant", "a")))
    right = made.outline(conversation, Policy())
    spoil(monkeypatch)
    assert [made.outline_by_plan(conversation, Policy()) for _ in range(2)] == [right] * 2
    assert capsys.readouterr().err.count("otherwise by its plan") == 1
