"""The kinds of conversation every template is tried with.

A kind is a function from a template's own stop string to a case: messages as Hugging Face templates read them, and
tools. Only the two kinds with marker text in a message use the stop string. No value inside the arguments of a tool
call needs escaping in JSON, XML or Python, so that the oracle can find it in any notation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Dict = dict[str, Any]


class Case(NamedTuple):
    """One conversation."""

    messages: list[Dict]
    tools: list[Dict]


KINDS: dict[str, Callable[[str], Case]] = {}


def kind(make: Callable[[str], Case]) -> Callable[[str], Case]:
    KINDS[make.__name__] = make
    return make


def system(content: str) -> Dict:
    return {"role": "system", "content": content}


def user(content: str) -> Dict:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> Dict:
    return {"role": "assistant", "content": content, **more}


def call(number: int, name: str, arguments: Mapping[str, Any] | str) -> Dict:
    """Make a tool call; its id has the nine letters or digits that Mistral's templates insist on."""
    return {"id": f"callid{number:03}", "type": "function", "function": {"name": name, "arguments": arguments}}


def result(number: int, name: str, content: str) -> Dict:
    return {"role": "tool", "name": name, "tool_call_id": f"callid{number:03}", "content": content}


def tool(name: str, **properties: str) -> Dict:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Ask for the {name.replace('_', ' ')}.",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": "string", "description": text} for key, text in properties.items()},
                "required": list(properties),
            },
        },
    }


TOOLS = [tool("get_weather", city="The city to look at"), tool("local_time", place="Where to ask", style="12 or 24")]
WEATHER = call(1, "get_weather", {"city": "Lisbon"})
TIME = call(2, "local_time", {"place": "Osaka", "style": "h24"})
FOUND = result(1, "get_weather", '{"sky": "clear", "degrees": 21}')
CLOCK = result(2, "local_time", '{"time": "09:41"}')


@kind
def single(stop: str) -> Case:
    return Case([user("Name a colour."), assistant("Green, like moss.")], [])


@kind
def multi_turn(stop: str) -> Case:
    return Case(
        [
            user("Name a colour."),
            assistant("Green."),
            user("And a fruit?"),
            assistant("A pear.\n\nOr two."),
            user("Thanks"),
            assistant("You are welcome!"),
        ],
        [],
    )


@kind
def with_system(stop: str) -> Case:
    return Case([system("Answer briefly."), *multi_turn(stop).messages[:4]], [])


@kind
def empty_system(stop: str) -> Case:
    return Case([system(""), *multi_turn(stop).messages[:2]], [])


@kind
def tools_unused(stop: str) -> Case:
    return Case(with_system(stop).messages, TOOLS)


@kind
def tool_call_last(stop: str) -> Case:
    return Case([user("Is it sunny in Lisbon?"), assistant("", tool_calls=[WEATHER])], TOOLS)


@kind
def parallel_calls(stop: str) -> Case:
    return Case(
        [
            user("Sun in Lisbon, and the time in Osaka?"),
            assistant("", tool_calls=[WEATHER, TIME]),
            FOUND,
            CLOCK,
            assistant("Clear sky; it is twenty to ten."),
        ],
        TOOLS,
    )


@kind
def tool_results(stop: str) -> Case:
    return Case(
        [
            system("Use the tools."),
            user("Is it sunny in Lisbon?"),
            assistant("", tool_calls=[WEATHER]),
            FOUND,
            assistant("Yes, and warm."),
            user("Which time is it in Osaka?"),
            assistant("", tool_calls=[TIME]),
            CLOCK,
            assistant("Nearly ten."),
        ],
        TOOLS,
    )


@kind
def string_arguments(stop: str) -> Case:
    """Arguments as the JSON text that the OpenAI interface sends."""
    calls = [call(1, "get_weather", json.dumps({"city": "Lisbon"}))]
    return Case([user("Is it sunny?"), assistant("", tool_calls=calls), FOUND, assistant("Yes.")], TOOLS)


@kind
def call_with_content(stop: str) -> Case:
    return Case(
        [user("Is it sunny in Lisbon?"), assistant("Let me look.", tool_calls=[WEATHER]), FOUND, assistant("Yes.")],
        TOOLS,
    )


@kind
def call_with_reasoning(stop: str) -> Case:
    return Case(
        [
            user("Is it sunny in Lisbon?"),
            assistant("", reasoning_content="I need the weather.", tool_calls=[WEATHER]),
            FOUND,
            assistant("Yes, it is.", reasoning_content="The sky is clear."),
            user("Good"),
            assistant("Enjoy!", reasoning_content="Short answer."),
        ],
        TOOLS,
    )


@kind
def reasoning(stop: str) -> Case:
    return Case(
        [
            user("What is 2 + 3?"),
            assistant("Five.", reasoning_content="Two and three make five."),
            user("And 4 + 4?"),
            assistant("Eight.", reasoning_content="Twice four.\nThat is eight."),
        ],
        [],
    )


@kind
def some_reasoning(stop: str) -> Case:
    """Only the first answer was thought about."""
    messages = reasoning(stop).messages
    return Case([*messages[:3], assistant("Eight.")], [])


@kind
def inline_think(stop: str) -> Case:
    return Case(
        [
            user("What is 2 + 3?"),
            assistant("<think>\nTwo and three.\n</think>\n\nFive."),
            user("And 4 + 4?"),
            assistant("<think>\nTwice four.\n</think>\n\nEight."),
        ],
        [],
    )


@kind
def empty_answer(stop: str) -> Case:
    return Case([user("Say nothing."), assistant(""), user("Now talk."), assistant("Gladly.")], [])


@kind
def empty_last_answer(stop: str) -> Case:
    return Case([user("Talk."), assistant("Gladly."), user("Now say nothing."), assistant("")], [])


@kind
def same_text(stop: str) -> Case:
    return Case([user("Yes"), assistant("Yes"), user("Yes"), assistant("Yes")], [])


@kind
def markers_in_user(stop: str) -> Case:
    text = f"What is {stop} and <|im_start|>assistant\nNo<|im_end|>\n[/INST] or <|assistant|>\n</s> for?"
    return Case([user(text), assistant("Markers."), user(f"{stop}"), assistant("Yes.")], [])


@kind
def markers_in_answer(stop: str) -> Case:
    text = f"They write {stop} and then <|im_end|>\n<|im_start|>user\nHi</s>[INST] next."
    return Case([user("Show markers."), assistant(text), user("More"), assistant(f"End it by {stop} always.")], [])


@kind
def white_space(stop: str) -> Case:
    return Case(
        [user("  Two words \n"), assistant(" \n Here they are.  \n\n"), user("\tTab\t"), assistant("\n\nDone. ")], []
    )


@kind
def unicode(stop: str) -> Case:
    return Case(
        [
            user("用一个词描述春天 🌱"),
            assistant("生机勃勃 👩‍👩‍👧🏽 — naïve façade, Ωμέγα"),
            user("🙏"),
            assistant("👋🏿再见"),
        ],
        [],
    )


@kind
def one_character(stop: str) -> Case:
    return Case([user("a"), assistant("b"), user("c"), assistant("d")], [])


@kind
def two_answers(stop: str) -> Case:
    return Case(
        [user("Tell me."), assistant("First part."), assistant("Second part."), user("More"), assistant("Ok.")], []
    )


@kind
def two_last_answers(stop: str) -> Case:
    return Case([user("Tell me."), assistant("First part."), assistant("Second part.")], [])
