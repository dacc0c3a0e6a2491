"""The formats: the same conversation in each, each malformed row reported by place, and ``format: auto``."""

from __future__ import annotations

import json
import pickle
import re
from copy import copy
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
from sftcore_plugins.formats.alpaca import Alpaca
from sftcore_plugins.formats.instruction import Instruction
from sftcore_plugins.formats.messages import Messages
from sftcore_plugins.formats.qa import QA, PromptCompletion, PromptResponse, QueryResponse, QuestionAnswer
from sftcore_plugins.formats.sharegpt import ShareGPT
from transformers import AutoTokenizer

from sftcore import Message, RowError
from sftcore.cli.main import main
from sftcore.config.document import Document
from sftcore.config.loader import load_config
from sftcore.core.errors import DataError
from sftcore.core.registry import Registry
from sftcore.data import prepare, sample_sources
from sftcore.data.sources.row_fields import read_conversation
from sftcore.labelling import Labeller

REGISTRY = Registry.discover()
TASK, ABOUT, ANSWER = "Translate to English:", "今天天气很好 ☀️", "The weather is fine today."
ASKED = f"{TASK}\n{ABOUT}"
SYSTEM = "You translate."


def chat(user="user", assistant="assistant", system=None):
    turns = [(user, ASKED), (assistant, ANSWER)]
    return {
        "messages": [{"role": role, "content": text} for role, text in ([("system", system)] if system else []) + turns]
    }


def shared(human="human", gpt="gpt", system=None):
    turns = [(human, ASKED), (gpt, ANSWER)]
    return {
        "conversations": [
            {"from": role, "value": text} for role, text in ([("system", system)] if system else []) + turns
        ]
    }


SAME = {
    "messages": [
        chat(),
        chat("human", "gpt"),
        chat("User", "MODEL"),
        {"messages": shared()["conversations"]},
        {"messages": json.dumps(chat()["messages"])},
    ],
    "sharegpt": [shared(), shared("user", "assistant"), {"conversations": chat()["messages"]}],
    "qa": [{"input": ASKED, "output": ANSWER}],
    "prompt_completion": [
        {"prompt": ASKED, "completion": ANSWER},
        {"prompt": chat()["messages"][:1], "completion": chat()["messages"][1:]},
        {"prompt": shared()["conversations"][:1], "completion": ANSWER},
        {"prompt": ASKED, "completion": json.dumps(chat()["messages"][1:])},
    ],
    "prompt_response": [{"prompt": ASKED, "response": ANSWER}],
    "question_answer": [{"question": ASKED, "answer": ANSWER}],
    "query_response": [{"query": ASKED, "response": ANSWER}],
    "instruction": [
        {"instruction": TASK, "input": ABOUT, "output": ANSWER},
        {"instruction": ASKED, "output": ANSWER},
        {"instruction": ASKED, "input": "", "output": ANSWER},
        {"instruction": ASKED, "input": None, "output": ANSWER},
    ],
    "alpaca": [
        {"instruction": TASK, "input": ABOUT, "response": ANSWER},
        {"instruction": ASKED, "response": ANSWER},
    ],
}


def write(folder, rows, name="rows.jsonl"):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return str(folder / name)


def configured(path, form="auto"):
    data = {"train": [{"path": path, "format": form}]}
    return load_config(Document({"model": {"name_or_path": "x"}, "method": "full", "data": data}), REGISTRY, {})


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="module")
def read(tokenizer):
    """Return the prepared rows of a file, by its path and format."""
    labeller = Labeller(tokenizer, ["<|im_end|>"])
    return lambda path, form="auto": prepare(configured(path, form), REGISTRY, labeller)


def conversations(folder, rows, form="auto"):
    made = configured(write(folder, rows), form)
    [source] = sample_sources(made.config.data.train, ("data", "train"), made, REGISTRY)
    assert source.rejected == []
    return [row.conversation for row in source.rows]


@pytest.mark.parametrize("form", SAME)
@pytest.mark.parametrize("system", [None, SYSTEM])
def test_the_same_conversation_gives_the_same_tokens_in_every_format(tmp_path, tokenizer, read, form, system):
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWER}]
    messages = [{"role": "system", "content": system}, *turns] if system else turns
    rows = [{**row, "system": system} if system else row for row in SAME[form]]
    if system:
        rows += {"messages": [chat(system=system)], "sharegpt": [shared(system=system)]}.get(form, [])
    for chosen in (form, "auto"):
        examples = read(write(tmp_path, rows), chosen).train
        assert len(examples) == len(rows)
        for example in examples:
            assert example.input_ids.tolist() == tokenizer.apply_chat_template(messages, return_dict=False)
            trained = [token for token in example.labels if token != -100]
            assert tokenizer.decode(trained) == ANSWER + "<|im_end|>"


@pytest.mark.parametrize("spelling", ["tool", "function", "observation", "ipython", "tool_response", "ToolResult"])
@pytest.mark.parametrize("form", ["messages", "sharegpt"])
def test_a_tools_result_may_be_spelled_in_many_ways(tmp_path, form, spelling):
    turns = [("user", "q"), ("assistant", "a"), (spelling, "r"), ("assistant", "b")]
    keys = {"messages": ("role", "content"), "sharegpt": ("from", "value")}[form]
    key = {"messages": "messages", "sharegpt": "conversations"}[form]
    [found] = conversations(tmp_path, [{key: [dict(zip(keys, turn, strict=True)) for turn in turns]}])
    assert [message.role for message in found.messages] == ["user", "assistant", "tool", "assistant"]


BAD = {
    "not JSON": [
        (form, '{"messages": [', r"not valid JSON: .+")
        for form in ("messages", "sharegpt", "qa", "instruction", "alpaca")
    ],
    "no object": [("messages", "[1]", "expected one JSON object, not a list"), ("qa", "null", "not null")],
    "missing key": [
        ("messages", {"text": "x"}, r"the key 'messages' is missing \(found: text\)"),
        ("messages", {"messages": [{"role": "user"}]}, r"message 1: the key 'content' is missing \(found: role\)"),
        ("messages", {"messages": [{"content": "x"}]}, "message 1: the key 'role' is missing"),
        (
            "messages",
            {"messages": [{"role": "user", "text": "x"}]},
            r"message 1: the key 'content' is missing \(found: role, text\); .* message_keys: \{text: content\}",
        ),
        (
            "sharegpt",
            {"conversations": [{"who": "user", "said": "x"}]},
            r"message 1: the key 'from' is missing .* message_keys: \{who: from, said: value\}",
        ),
        ("sharegpt", {"text": "x"}, "the key 'conversations' is missing"),
        ("sharegpt", {"conversations": [{"from": "human"}]}, "message 1: the key 'value' is missing"),
        ("sharegpt", {"conversations": [{"value": "x"}]}, "message 1: the key 'from' is missing"),
        ("qa", {"input": "x"}, "the key 'output' is missing"),
        ("qa", {"output": "x"}, "the key 'input' is missing"),
        ("instruction", {"instruction": "x", "input": ""}, "the key 'output' is missing"),
        ("instruction", {"output": "x"}, "the key 'instruction' is missing"),
        ("alpaca", {"instruction": "x", "output": "y"}, "the key 'response' is missing"),
    ],
    "wrong type": [
        ("messages", {"messages": "x"}, "'messages' must be a list, not a string"),
        ("messages", {"messages": "[{"}, "'messages' is not valid JSON: "),
        (
            "messages",
            {"messages": "[{'role': 'user'}]"},
            "'messages' is not valid JSON: .*printed by Python",
        ),
        ("messages", {"messages": ["x"]}, "message 1 of 'messages' must be an object, not a string"),
        ("messages", chat(user=3), "message 1: 'role' must be a string, not a number"),
        ("messages", chat(user=["user"]), "message 1: 'role' must be a string, not a list"),
        (
            "messages",
            {"messages": [{"role": "user", "content": None}]},
            "message 1: 'content' must be a string, not null",
        ),
        ("sharegpt", {"conversations": {"a": 1}}, "'conversations' must be a list, not an object"),
        ("sharegpt", {"conversations": [{"from": "human", "value": 3}]}, "message 1: 'value' must be a string"),
        ("qa", {"input": 3, "output": "x"}, "'input' must be a string, not a number"),
        ("qa", {"input": "x", "output": None}, "'output' must be a string, not null"),
        ("instruction", {"instruction": "x", "input": 3, "output": "y"}, "'input' must be a string, not a number"),
        ("alpaca", {"instruction": ["x"], "response": "y"}, "'instruction' must be a string, not a list"),
        *((form, {**rows[0], "system": 3}, "'system' must be a string, not a number") for form, rows in SAME.items()),
        *((form, {**rows[0], "tools": 3}, "'tools' must be a list of objects") for form, rows in SAME.items()),
        *((form, {**rows[0], "tools": "{"}, "'tools' is not valid JSON") for form, rows in SAME.items()),
        *(
            (form, {**rows[0], "chat_template_kwargs": 3}, "'chat_template_kwargs' must be")
            for form, rows in SAME.items()
        ),
    ],
    "unknown role": [
        ("messages", chat(assistant="asistant"), "message 2: unknown role 'asistant'; did you mean 'assistant'?"),
        (
            "sharegpt",
            shared(human="visitor"),
            r"message 1: unknown role 'visitor' \(known: system, developer, user",
        ),
    ],
    "empty conversation": [
        ("messages", {"messages": []}, "'messages' is empty"),
        ("sharegpt", {"conversations": []}, "'conversations' is empty"),
        ("qa", {"input": " ", "output": "x"}, "the conversation is empty: the user's message has no text"),
        ("instruction", {"instruction": "", "input": "", "output": "x"}, "the conversation is empty"),
        ("alpaca", {"instruction": "", "response": "x"}, "the conversation is empty"),
    ],
}


@pytest.mark.parametrize(
    ("form", "row", "reason"),
    [pytest.param(*case, id=f"{kind}-{case[0]}-{case[2][:30]}") for kind, cases in BAD.items() for case in cases],
)
def test_each_of_five_malformed_rows_is_reported_with_line_and_reason(tmp_path, read, form, row, reason):
    path = write(tmp_path, [SAME[form][0], *[row] * 5, SAME[form][0]])
    with pytest.raises(DataError) as raised:
        read(path, form)
    head, *told = str(raised.value).splitlines()
    assert head == "5 rows cannot be used; fix or remove:"
    for number, line in enumerate(told, start=2):
        assert re.match(rf"  {re.escape(path)}:{number}: .*{reason}", line), line
    assert len(told) == 5


def test_the_command_line_reports_every_malformed_row_and_exits_with_2(tmp_path, smollm2, capsys):
    bad = ["{", {"messages": [{"role": "user"}]}, {"messages": "x"}, chat("visitor"), {"messages": []}]
    path = write(tmp_path, [chat(), *bad])
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"model": {"name_or_path": str(smollm2)}, "method": "full", "data": {"train": path}}))
    assert main(["run", "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    reasons = ["not valid JSON", "'content' is missing", "must be a list", "unknown role 'visitor'", "is empty"]
    for number, reason in enumerate(reasons, start=2):
        assert re.search(rf"{re.escape(path)}:{number}: .*{reason}", said), said


def test_many_malformed_rows_are_counted_by_reason(tmp_path, read):
    with pytest.raises(
        DataError, match=r"(?s)^25 rows cannot be used.*rows.jsonl:11: .*\n  \.\.\. and 15 more\n"
    ) as raised:
        read(write(tmp_path, [chat(), *["{"] * 24, {"messages": []}]))
    assert str(raised.value).splitlines()[-3:] == [
        "      24 x not valid JSON: Expecting property name enclosed in double quotes",
        "       1 x 'messages' is empty: a conversation needs at least one message",
        "  data.max_bad_rows lets a run continue without malformed rows",
    ]


@pytest.mark.parametrize("form", SAME)
def test_format_auto_goes_by_the_keys_and_reports_its_choice(tmp_path, read, form):
    found = read(write(tmp_path, SAME[form]))
    assert [item.source.format_name for item in found.sources] == [f"{form} (auto)"]
    assert read(write(tmp_path, SAME[form]), form).sources[0].source.format_name == form


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (
            [{"sound": "a"}, {"sound": "b"}],
            r"(?s):1: no format fits its keys \(sound\).*:2: no.*known formats need agent_trace: .*'columns' of",
        ),
        ([{}], r":1: no format fits its keys \(no keys\)"),
        (["{,", "7"], r"(?s):1: not valid JSON.*:2: expected one JSON object, not a number"),
        ([], "has no rows"),
        (
            [chat(), shared()],
            r"several formats fit its rows: messages \(row .*:1\), sharegpt \(row .*:2\); name one with 'format'",
        ),
        (
            [{"instruction": "a", "output": "b", "response": "c"}],
            r"several formats fit its rows: alpaca \(row .*:1\), instruction \(row .*:1\)",
        ),
    ],
)
def test_format_auto_is_an_error_where_no_format_or_several_fit(tmp_path, read, rows, reason):
    with pytest.raises(DataError, match=reason):
        read(write(tmp_path, rows))


def test_format_auto_decides_per_source(tmp_path, tokenizer):
    paths = [write(tmp_path, rows, f"{form}.jsonl") for form, rows in SAME.items()]
    loaded = load_config(
        Document({"model": {"name_or_path": "x"}, "method": "full", "data": {"train": paths}}), REGISTRY, {}
    )
    sources = prepare(loaded, REGISTRY, Labeller(tokenizer, ["<|im_end|>"])).sources
    assert [item.source.format_name for item in sources] == [f"{form} (auto)" for form in SAME]
    assert [loaded.selected[f"data.train.{index}.format"].name for index in range(len(SAME))] == list(SAME)


KEYS = {"messages": ("messages", "role", "content"), "sharegpt": ("conversations", "from", "value")}
READERS = {
    "messages": Messages,
    "sharegpt": ShareGPT,
    "qa": QA,
    "prompt_completion": PromptCompletion,
    "prompt_response": PromptResponse,
    "question_answer": QuestionAnswer,
    "query_response": QueryResponse,
    "instruction": Instruction,
    "alpaca": Alpaca,
}


def marked(form, *turns):
    """Return a row of *turns*: the role, the text, and further fields."""
    key, role, content = KEYS[form]
    return {key: [{role: who, content: text, **fields} for who, text, fields in turns]}


@pytest.mark.parametrize("form", KEYS)
@pytest.mark.parametrize(
    ("fields", "train", "weight"),
    [
        ({}, None, 1.0),
        ({"train": None, "weight": None, "loss_weight": None}, None, 1.0),
        ({"train": True}, True, 1.0),
        ({"train": False}, False, 1.0),
        ({"weight": 0.3}, None, 0.3),
        ({"weight": 0}, None, 0.0),
        ({"weight": 2}, None, 2.0),
        ({"loss_weight": 0.3}, None, 0.3),
        ({"loss_weight": 0.0}, None, 0.0),
        ({"weight": 1, "loss_weight": 1.0, "train": False}, False, 1.0),
        ({"weight": None, "loss_weight": 0.5}, None, 0.5),
        ({"loss": False}, False, 1.0),
        ({"loss_mask": 0}, False, 1.0),
        ({"trainable": True}, True, 1.0),
        ({"training": False, "loss_scale": 0.5}, False, 0.5),
    ],
)
def test_train_and_weight_of_a_turn(form, fields, train, weight):
    question, answer = Messages().read(marked("messages", ("user", "q", {}), ("assistant", "a", {}))).messages
    row = marked(form, ("user", "q", fields), ("assistant", "a", {}), ("user", "q", {}), ("assistant", "a", fields))
    told = {"train": train, "weight": weight}
    found = READERS[form]().read(row).messages
    assert found == (replace(question, **told), answer, question, replace(answer, **told))
    assert all(type(message.weight) is float for message in found)


def test_a_plain_message_is_like_any_other():
    (found, *_), (other, *_) = (
        Messages().parse({"messages": [{"role": "human", "content": "a"}]}),
        ShareGPT().parse({"conversations": [{"from": "human", "value": "a"}]}),
    )
    made = Message("user", "a")
    for message in (found, other, pickle.loads(pickle.dumps(found)), copy(found)):
        assert (message, hash(message), repr(message)) == (made, hash(made), repr(made))
        assert (asdict(message), message.to_dict()) == (asdict(made), made.to_dict())
        assert replace(message, weight=2) == replace(made, weight=2) != message
        with pytest.raises(FrozenInstanceError):
            message.train = True


def test_train_and_weight_of_a_sharegpt_call():
    turn = ("function_call", json.dumps(CALL["function"]), {"train": False, "loss_weight": 0.5})
    [message] = ShareGPT().parse(marked("sharegpt", turn))
    assert message == Message("assistant", "", tool_calls=(CALL,), train=False, weight=0.5)


@pytest.mark.parametrize("form", KEYS)
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"train": "true"}, "'train' must be true or false, not a string"),
        ({"train": 2}, "'train' must be true or false, not a number"),
        ({"weight": True}, "'weight' must be a finite number of at least 0, not a boolean"),
        ({"weight": "0.3"}, "'weight' must be a finite number of at least 0, not a string"),
        ({"weight": -0.1}, "'weight' must be a finite number of at least 0, not -0.1"),
        ({"weight": float("nan")}, "'weight' must be a finite number of at least 0, not nan"),
        ({"weight": float("inf")}, "'weight' must be a finite number of at least 0, not inf"),
        ({"weight": 10**400}, "'weight' must be a finite number of at least 0, not 1000"),
        ({"loss_weight": -1}, "'loss_weight' must be a finite number of at least 0, not -1"),
        ({"weight": 1, "loss_weight": []}, "'loss_weight' must be a finite number of at least 0, not a list"),
        ({"weight": 0.3, "loss_weight": 1}, "'weight' is 0.3 and 'loss_weight' is 1.0; keep one of them"),
    ],
)
def test_an_invalid_train_or_weight_of_a_turn_is_an_error(form, fields, reason):
    with pytest.raises(RowError, match=f"^message 2: {re.escape(reason)}"):
        READERS[form]().read(marked(form, ("user", "q", {}), ("assistant", "a", fields)))


@pytest.mark.parametrize("form", KEYS)
def test_a_conversation_needs_no_assistant_turn(form):
    assert READERS[form]().read(marked(form, ("user", "x", {}))).messages == (Message("user", "x"),)


@pytest.mark.parametrize("form", SAME)
@pytest.mark.parametrize("given", [{"enable_thinking": False}, '{"enable_thinking": false}'])
def test_template_variables_may_be_an_object_or_its_json_text(tmp_path, form, given):
    [found] = conversations(tmp_path, [{**SAME[form][0], "chat_template_kwargs": given}])
    assert found.template_kwargs == {"enable_thinking": False}


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
TOOL = {"name": "weather", "parameters": {}}


@pytest.mark.parametrize("form", SAME)
@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), [{"type": "function", "function": TOOL}]])
def test_tools_may_be_a_list_or_its_json_text(form, tools):
    found = read_conversation(READERS[form](), {**SAME[form][0], "tools": tools})
    assert found.tools == ({"type": "function", "function": TOOL},)


@pytest.mark.parametrize("tools", [None, "", [], "[]", " "])
def test_no_tools(tools):
    assert read_conversation(QA(), {"input": "a", "output": "b", "tools": tools}).tools == ()


def test_a_system_field_and_the_same_system_message_are_one():
    assert read_conversation(Messages(), {**chat(system=SYSTEM), "system": SYSTEM}) == Messages().read(
        chat(system=SYSTEM)
    )
    assert read_conversation(Messages(), {**chat(), "system": ""}) == Messages().read(chat())
    with pytest.raises(RowError, match="'system' field and a different system message"):
        read_conversation(Messages(), {**chat(system=SYSTEM), "system": "another"})


@pytest.mark.parametrize(
    "turn",
    [
        {"content": "", "tool_calls": [CALL]},
        {"tool_calls": [CALL]},
        {"content": None, "tool_calls": [CALL]},
        {"content": "", "tool_calls": [CALL["function"]]},
        {"tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
        {"content": [{"type": "tool_call", "value": json.dumps(CALL["function"])}]},
    ],
)
def test_tool_calls_in_messages(turn):
    messages = Messages().parse({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", **turn}]})
    assert messages[1] == Message("assistant", "", tool_calls=(CALL,))


@pytest.mark.parametrize(
    ("value", "calls"),
    [
        (json.dumps(CALL["function"]), (CALL,)),
        (json.dumps([CALL["function"]] * 2), (CALL, CALL)),
        (json.dumps({"name": "weather", "arguments": '{"city": "Oslo"}'}), (CALL,)),
    ],
)
def test_sharegpt_calls_and_observations(value, calls):
    turns = [("human", "q"), ("function_call", value), ("observation", "7"), ("gpt", "b")]
    found = ShareGPT().read({"conversations": [{"from": role, "value": text} for role, text in turns]}).messages
    assert found[1] == Message("assistant", "", tool_calls=calls)
    assert found[2] == Message("tool", "7")


def test_content_parts_and_reasoning():
    parts = [{"type": "text", "text": "Hello "}, {"type": "text", "value": "there"}]
    thought = [{"type": "reasoning", "value": "Hm."}, {"type": "text", "text": "4"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": thought}]
    expected = [Message("user", "Hello there"), Message("assistant", "4", reasoning_content="Hm.")]
    assert Messages().parse({"messages": turns}) == expected
    turns[1] = {"role": "assistant", "content": "4", "reasoning_content": "Hm."}
    assert Messages().parse({"messages": turns}) == expected


def assistant(**fields):
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", **fields}]}


@pytest.mark.parametrize(
    ("reader", "row", "reason"),
    [
        (
            Messages,
            assistant(content=[{"type": "image", "url": "x"}]),
            "message 2: 'content' has a part that is not text",
        ),
        (Messages, assistant(content=["x"]), "a part that is not text"),
        (Messages, assistant(content=[{"type": "tool_call", "value": "{"}]), "message 2: .*tool call.*not valid JSON"),
        (
            Messages,
            assistant(content=[{"type": "tool_call", "value": "3"}]),
            "message 2: a tool call must be an object",
        ),
        (Messages, assistant(tool_calls={}), None),
        (Messages, assistant(tool_calls={"a": 1}), "'tool_calls' must be a list, not an object"),
        (Messages, assistant(tool_calls=["x"]), "message 2: a tool call must be an object, not a string"),
        (Messages, assistant(tool_calls=[{}]), "message 2: the key 'name' is missing"),
        (
            Messages,
            assistant(tool_calls=[{"name": "f", "arguments": "{"}]),
            "arguments of the call of 'f' are not valid",
        ),
        (
            Messages,
            assistant(tool_calls=[{"name": "f", "arguments": "3"}]),
            "arguments of the call of 'f' must be an obj",
        ),
        (Messages, assistant(reasoning_content=3), "message 2: 'reasoning_content' must be a string"),
        (ShareGPT, {"conversations": [{"from": "function_call", "value": "x"}]}, "function_call is not valid JSON"),
        (ShareGPT, {"conversations": [{"from": "function_call", "value": "[]"}]}, "function_call must be an object"),
    ],
)
def test_malformed_calls_and_parts(reader, row, reason):
    if reason is None:
        assert reader().read(row)
    else:
        with pytest.raises(RowError, match=reason):
            reader().read(row)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_has_three_names(tmp_path, name):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", name: "hm"}]
    [found] = conversations(tmp_path, [{"messages": turns}])
    assert found.messages[1].reasoning_content == "hm"


def test_reasoning_under_two_names_must_be_the_same(tmp_path, read):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning": "x", "thinking": "y"}]
    with pytest.raises(DataError, match="message 2: 'reasoning' and 'thinking' are different"):
        read(write(tmp_path, [{"messages": turns}]))


def test_the_answers_in_a_prompt_are_not_trained():
    prompt = [*chat()["messages"], {"role": "user", "content": "more"}]
    row = {"prompt": prompt, "completion": [{"role": "assistant", "content": "b"}]}
    assert [message.train for message in PromptCompletion().read(row).messages] == [None, False, None, None]
    row["prompt"][1]["train"] = True
    assert PromptCompletion().read(row).messages[1].train is True


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": [{"role": "x", "content": ""}], "completion": "b"}, "message 1 of 'prompt': unknown role 'x'"),
        ({"prompt": [], "completion": "b"}, "'prompt' is empty"),
        ({"prompt": "[{", "completion": 3}, "'completion' must be a string, not a number"),
        ({"prompt": " ", "completion": "b"}, "the conversation is empty"),
        ({"prompt": "a", "completion": None}, "'completion' must be a string, not null"),
    ],
)
def test_malformed_prompts(row, reason):
    with pytest.raises(RowError, match=reason):
        PromptCompletion().read(row)


@pytest.mark.parametrize("text", ["[{", '[{"a": 1}]', "[1]"])
def test_text_that_is_not_messages_stays_text(text):
    assert PromptCompletion().read({"prompt": "q", "completion": text}).messages[1].content == text


@pytest.mark.parametrize("calls", ["tool_call", "tool_calls", "function_call", "ToolCall", "tool_use"])
@pytest.mark.parametrize("form", KEYS)
def test_a_turn_that_is_a_call(form, calls):
    for value in (CALL["function"], json.dumps(CALL["function"]), [CALL], json.dumps([CALL])):
        found = READERS[form]().read(marked(form, ("user", "q", {}), (calls, value, {}), ("tool", "7", {}))).messages
        assert found[1:] == (Message("assistant", "", tool_calls=(CALL,)), Message("tool", "7"))


@pytest.mark.parametrize(
    ("form", "row"),
    [
        (QA(), {"input": "q", "output": "a"}),
        (Instruction(), {"instruction": "q", "output": "a"}),
        (Alpaca(), {"instruction": "q", "response": "a"}),
    ],
)
def test_history_and_reasoning_of_a_single_turn(form, row):
    found = form.read({**row, "history": [["q1", "a1"], ["q2", "a2"]], "reasoning_content": "r"}).messages
    assert [(message.role, message.content) for message in found] == [
        *(("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2"), ("user", "q"), ("assistant", "a"))
    ]
    assert [message.reasoning_content for message in found] == [None] * 5 + ["r"]
    assert form.read({**row, "history": []}) == form.read(row)
    assert form.read({**row, "history": '[["q1", "a1"]]'}) == form.read({**row, "history": [["q1", "a1"]]})
    for history in ("q", [["q"]], [["q", 1]], [{"q": "a"}], {"q": "a"}):
        with pytest.raises(RowError, match=r"pair 1 of 'history' must be a list of two strings"):
            form.read({**row, "history": history})


def test_the_legacy_function_call():
    turn = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    [message] = Messages().read({"messages": [turn]}).messages
    assert message == Message("assistant", "", tool_calls=(CALL,))
    with pytest.raises(RowError, match="message 1: has 'tool_calls' and 'function_call'"):
        Messages().read({"messages": [{**turn, "tool_calls": [CALL]}]})


MORE = ({"train": False}, {"weight": 0.5}, {"role": "user"}, {"tool_calls": [CALL]}, {"thinking": "t"})


def test_what_the_model_wrote_into_the_channel_analysis_is_reasoning():
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "channel": "analysis", "content": "think"},
        {"role": "assistant", "channel": "commentary", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "channel": "analysis", "content": "more"},
        {"role": "assistant", "channel": "final", "content": "a"},
    ]
    found = Messages().read({"messages": turns}).messages
    assert [(message.role, message.content, message.reasoning_content) for message in found] == [
        *(("user", "q", None), ("assistant", "", "think"), ("tool", "3", None), ("assistant", "a", "more"))
    ]
    for bad, problem in (
        ([turns[1], turns[0]], "message 2: follows the channel 'analysis', and is not of the assistant"),
        ([turns[0], {**turns[5], "channel": "commentary"}], "message 2: the channel 'commentary' cannot be trained"),
        ([turns[0], turns[1]], "message 2: the channel 'analysis' cannot be trained here"),
        *(
            ([*turns[:1], {**turns[1], **more}, turns[5]], "message 3: the channel 'analysis' before it")
            for more in MORE
        ),
    ):
        with pytest.raises(RowError, match=problem):
            Messages().read({"messages": bad})


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f", "name": "g"}',
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f", "arguments": {"x": 1e999}}',
    ],
)
def test_json_in_a_text_is_as_strict_as_that_of_rows(text):
    turn = {"from": "function_call", "value": text}
    with pytest.raises(RowError, match="message 1: 'value' of a function_call is not valid JSON"):
        ShareGPT().read({"conversations": [turn]})
    arguments = {"name": "f", "arguments": '{"x": 1, "x": 2}'}
    with pytest.raises(
        RowError, match="the arguments of the call of 'f' are not valid JSON: the key 'x' appears twice"
    ):
        Messages().read({"messages": [{"role": "assistant", "content": "", "tool_calls": [arguments]}]})
    with pytest.raises(RowError, match="'messages' is not valid JSON: the key 'role' appears twice"):
        Messages().read({"messages": '[{"role": "user", "role": "user", "content": "a"}]'})


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"tool_calls": [{"name": "f", "parameters": {"x": 1}}]}, r"'f' has no 'arguments' \(found: parameters\)"),
        ({"tool_calls": [{"function": {"name": "f"}, "arguments": {"x": 1}}]}, "stand beside its 'function'"),
        ({"role": "tool_call", "content": '{"name": "f", "input": {"x": 1}}'}, r"no 'arguments' \(found: input\)"),
        ({"role": "tool_call", "content": '{"name": "f"}', "tool_calls": [CALL]}, "and has further ones"),
        ({"value": "another"}, "has 'content' and another 'value'"),
    ],
)
def test_what_would_be_lost_within_a_message_is_an_error(answer, problem):
    turn = {"role": "assistant", "content": "a", **answer}
    with pytest.raises(RowError, match=f"message 1: .*{problem}"):
        Messages().read({"messages": [turn]})


def test_a_call_by_its_role_keeps_its_reasoning():
    turn = {"role": "tool_call", "content": json.dumps(CALL["function"]), "reasoning_content": "why"}
    [message] = Messages().read({"messages": [turn]}).messages
    assert (message.reasoning_content, message.tool_calls) == ("why", (CALL,))


@pytest.mark.parametrize("key", ["history", "reasoning_content"])
def test_fields_of_a_single_turn_have_no_place_beside_lists_of_messages(key):
    row = {"prompt": chat()["messages"][:1], "completion": "a", key: [["q", "a"]]}
    with pytest.raises(RowError, match=f"'{key}' has no place beside a list of messages"):
        PromptCompletion().read(row)
