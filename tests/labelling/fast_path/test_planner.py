"""A conversation that is rendered from a plan is labelled as by its own rendering."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sftcore import Conversation, Message, RowError
from sftcore.labelling import Labeller, Policy, RenderedConversation
from sftcore.labelling.fast_path import planner
from sftcore.labelling.fast_path.observed_template import ObservedTemplate
from sftcore.labelling.rendered import Boundaries, RenderedExample

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


def attempt(render: Any, *given: Any) -> RenderedConversation | str | None:
    try:
        rendered: RenderedConversation | None = render(*given)
        return rendered
    except RowError as error:
        return str(error)


def compare(made: Labeller, name: str, number: int = 150) -> int:
    """Render random conversations both ways; return for how many there was a plan."""
    chance, planned = random.Random(name), 0
    for _ in range(number):
        conversation, policy = talk(chance, chance.random() < 0.3), chance.choice(POLICIES)
        by_plan = attempt(made.planner.render, conversation, policy)
        if by_plan is not None:
            planned += 1
            assert by_plan == attempt(made.render, conversation, policy)
    return planned


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the planner verify nothing itself."""
    if "verified" not in request.node.name:
        monkeypatch.setattr(planner.Planner, "_verified", lambda self, by_plan, *given: by_plan)


@pytest.mark.parametrize("name", [*INDEPENDENT, *WORDS])
def test_content_independent_templates(name: str) -> None:
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
def test_templates_that_inspect_contents_have_no_plan(name: str) -> None:
    try:
        made = labeller(INSPECTS[name])
    except ValueError:
        return
    assert compare(made, name, 20) == 0


def test_turns_in_examples_of_their_own_have_no_plan() -> None:
    """Whether they need one depends on what they say: here the second begins like the prompt."""
    made = labeller(SPLITS)
    for second in ("b", "<think>b") * 3:
        texts = ("a", second, "c", "d")
        messages = tuple(Message(role, text) for role, text in zip(ROLES * 2, texts, strict=True))
        assert len(made.render_with_plan(Conversation(messages), Policy()).examples) == 2 - second.startswith("<think>")


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
def test_rows_with_more_than_texts_have_no_plan(odd: Message) -> None:
    made = labeller(CHATML)
    for _ in range(3):
        conversation = Conversation((Message("user", "q"), Message("assistant", "a"), Message("user", "r"), odd))
        assert made.planner.render(conversation, Policy()) is None


def test_tools_and_variables_of_a_row_and_masked_reasoning_have_no_plan() -> None:
    made, messages = labeller(CHATML), (Message("user", "q"), Message("assistant", "a"))
    for _ in range(3):
        assert made.planner.render(Conversation(messages, ({"type": "function", "function": {}},)), Policy()) is None
        assert made.planner.render(Conversation(messages, template_kwargs={"x": 1}), Policy()) is None
        assert made.planner.render(Conversation(messages), Policy(reasoning="mask")) is None


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all plans be wrong."""
    render = planner.Plan.render

    def without_spans(plan: planner.Plan, contents: Any) -> RenderedConversation | None:
        rendered = render(plan, contents)
        if rendered is None:
            return None
        (example,) = rendered.examples
        return RenderedConversation([RenderedExample(example.text, example.messages, Boundaries([], [], [], []))])

    monkeypatch.setattr(planner.Plan, "render", without_spans)


def test_a_wrong_plan_is_found_when_it_is_verified(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, conversation = labeller(CHATML), Conversation((Message("user", "q"), Message("assistant", "a")))
    right = made.render(conversation, Policy())
    monkeypatch.setattr(planner, "VERIFY_EVERY", 3)
    sound = [made.render_with_plan(conversation, Policy()) for _ in range(3)]  # the first has no plan
    spoil(monkeypatch)
    rendered = [made.render_with_plan(conversation, Policy()) for _ in range(9)]
    assert sound == [right] * 3
    assert rendered[-6:] == [right] * 6
    assert rendered[0] == right
    assert capsys.readouterr().err.count("a plan labelled a conversation differently") == 1


def test_the_first_of_each_plan_is_verified(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, conversation = labeller(CHATML), Conversation((Message("user", "q"), Message("assistant", "a")))
    right = made.render(conversation, Policy())
    spoil(monkeypatch)
    assert [made.render_with_plan(conversation, Policy()) for _ in range(2)] == [right] * 2
    assert capsys.readouterr().err.count("a plan labelled a conversation differently") == 1


def test_a_plan_whose_first_conversation_has_words_of_the_template_is_verified_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = labeller(WORDS["in"][0])
    spoil(monkeypatch)
    for text in ("a", "<x>", "b"):
        conversation = Conversation((Message("user", "q"), Message("assistant", text)))
        assert made.render_with_plan(conversation, Policy()) == made.render(conversation, Policy())
    assert capsys.readouterr().err.count("a plan labelled a conversation differently") == 1


def test_no_more_plans_are_made_after_many_shapes_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = labeller(INSPECTS["the length"])
    observed: list[str] = []
    monkeypatch.setattr(planner, "FAILURES", 3)
    trace = ObservedTemplate.trace
    monkeypatch.setattr(ObservedTemplate, "trace", lambda *given, **more: observed.append("") or trace(*given, **more))
    counts = []
    for turns in range(1, 6):
        for _ in range(2):
            conversation = Conversation(tuple(Message(role, "a") for role in ROLES * turns))
            assert made.planner.render(conversation, Policy()) is None
        counts.append(len(observed))
    assert counts[0] < counts[1] < counts[2] == counts[3] == counts[4]


LOOKS = {
    "a newline that the template prints where a content is trimmed": (
        "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{{ m.content }}</s>"
        "{%- elif loop.last and add_generation_prompt %}{{ m.content.rstrip('\\n') + '\\n' }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
        "user assistant",
        ("q \n", "a"),
        ("q", "a"),
        Policy(context="strict"),
    ),
    "a tag in a turn without a stop token": (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
        "{{ '</s>' if messages | length == 2 and loop.last }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}",
        "user assistant user assistant",
        ("q", "a", "r", "b"),
        ("q", "<a", "r", "b"),
        Policy(),
    ),
    "the prompt at the beginning of an answer without one": (
        SPLITS,
        "assistant user",
        ("a", "q"),
        ("<think>a", "q"),
        Policy(train_on="all"),
    ),
    "a text that is marked as safe": (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{{ '!' if ('stop' | safe) == m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}",
        "user assistant",
        ("q", "a b"),
        ("stop", "stop"),
        Policy(),
    ),
}
"""A template, roles, contents of which a plan may be made, others, and a policy."""


@pytest.mark.parametrize("name", LOOKS)
def test_a_plan_is_not_applied_to_contents_that_are_labelled_differently(name, monkeypatch):
    source, roles, first, other, policy = LOOKS[name]
    monkeypatch.setattr(planner, "VERIFY_EVERY", 10**9)
    made = labeller(source)

    def row(contents: tuple[str, ...]) -> Conversation:
        return Conversation(tuple(map(Message, roles.split(), contents)))  # type: ignore[arg-type]

    for _ in range(3):
        attempt(made.render_with_plan, row(first), policy)
    assert attempt(made.render_with_plan, row(other), policy) == attempt(made.render, row(other), policy)
