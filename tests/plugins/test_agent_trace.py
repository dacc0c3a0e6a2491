"""Sessions of coding agents: each as its agent writes it, and the messages that it has."""

from __future__ import annotations

import json

import pytest
from sftcore_plugins.formats.agent_trace import AgentTrace

from sftcore import Message, RowError
from sftcore.config.document import Document
from sftcore.config.loader import load_config
from sftcore.core.registry import Registry
from sftcore.data import sample_sources


def call(name, arguments, call_id):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, "id": call_id}


WANTED = (
    Message("user", "How many tests are there?"),
    Message(
        "assistant",
        "Let me look.",
        reasoning_content="I count them.",
        tool_calls=(call("bash", {"command": "ls tests"}, "c1"),),
    ),
    Message("tool", "a.py\nb.py", name="bash", tool_call_id="c1"),
    Message("assistant", "Two."),
)


def claude(kind, content, number, parent=None, **more):
    message = {"role": kind, "content": content, **({"id": "m1"} if number in (2, 3, 4) else {})}
    place = {"uuid": f"u{number}", "parentUuid": f"u{number - 1}" if parent is None and number > 1 else parent}
    return {**place, "sessionId": "s", "type": kind, "isSidechain": False, "message": message, **more}


CLAUDE = [
    {"type": "file-history-snapshot", "messageId": "u1", "snapshot": {}},
    claude("user", "How many tests are there?", 1),
    claude("assistant", [{"type": "thinking", "thinking": "I count them.", "signature": "x"}], 2),
    claude("assistant", [{"type": "text", "text": "Let me look."}], 3),
    claude("assistant", [{"type": "tool_use", "id": "c1", "name": "bash", "input": {"command": "ls tests"}}], 4),
    claude("user", [{"type": "tool_result", "tool_use_id": "c1", "content": "a.py\nb.py"}], 5),
    {"type": "system", "uuid": "u6", "parentUuid": "u5", "content": "a note", "sessionId": "s"},
    claude("assistant", [{"type": "text", "text": "Two."}], 7),
    {"type": "summary", "summary": "Counting", "leafUuid": "u7"},
]
PI = [
    {"type": "session", "version": 3, "id": "s", "cwd": "/x"},
    {"type": "model_change", "id": "0", "parentId": None, "modelId": "m"},
    {"type": "message", "id": "1", "parentId": "0", "message": {"role": "user", "content": WANTED[0].content}},
    {
        "type": "message",
        "id": "2",
        "parentId": "1",
        "message": {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I count them."},
                {"type": "text", "text": "Let me look."},
                {"type": "toolCall", "id": "c1", "name": "bash", "arguments": {"command": "ls tests"}},
            ],
            "stopReason": "toolUse",
        },
    },
    {
        "type": "message",
        "id": "3",
        "parentId": "2",
        "message": {
            "role": "toolResult",
            "toolCallId": "c1",
            "toolName": "bash",
            "content": [{"type": "text", "text": "a.py\nb.py"}],
        },
    },
    {
        "type": "message",
        "id": "x",
        "parentId": "3",
        "message": {"role": "assistant", "content": [], "stopReason": "error"},
    },
    {
        "type": "message",
        "id": "4",
        "parentId": "3",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "Two."}], "stopReason": "stop"},
    },
]


def codex(**payload):
    return {"timestamp": "t", "type": "response_item", "payload": payload}


CODEX = [
    {"timestamp": "t", "type": "session_meta", "payload": {"id": "s", "cwd": "/x", "instructions": None}},
    codex(type="message", role="user", content=[{"type": "input_text", "text": WANTED[0].content}]),
    {"timestamp": "t", "type": "event_msg", "payload": {"type": "user_message", "message": WANTED[0].content}},
    codex(type="reasoning", summary=[{"type": "summary_text", "text": "I count them."}], encrypted_content="x"),
    codex(type="message", role="assistant", content=[{"type": "output_text", "text": "Let me look."}]),
    codex(type="function_call", name="bash", arguments='{"command": "ls tests"}', call_id="c1"),
    codex(type="function_call_output", call_id="c1", output="a.py\nb.py"),
    codex(type="message", role="assistant", content=[{"type": "output_text", "text": "Two."}]),
]
SIMPLE = [
    {"type": "session", "harness": "own", "id": "s", "name": "Counting"},
    {"type": "message", "message": {"role": "user", "content": WANTED[0].content}},
    {
        "type": "message",
        "message": {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning_content": "I count them.",
            "tool_calls": [{"id": "c1", "function": {"name": "bash", "arguments": '{"command": "ls tests"}'}}],
        },
    },
    {"type": "message", "message": {"role": "tool", "tool_call_id": "c1", "content": "a.py\nb.py"}},
    {"type": "message", "message": {"role": "assistant", "content": "Two."}},
]
SESSIONS = {"claude": CLAUDE, "pi": PI, "codex": CODEX, "simple": SIMPLE}


@pytest.mark.parametrize("agent", SESSIONS)
def test_a_file_of_a_session_is_a_conversation(tmp_path, agent):
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, SESSIONS[agent])))
    (tmp_path / "t.jsonl").write_text(json.dumps({"traces": list(map(json.dumps, SESSIONS[agent])), "harness": agent}))
    data = {"model": {"name_or_path": "x"}, "method": "full", "data": {"train": str(tmp_path)}}
    made = load_config(Document(data), registry := Registry.discover(), {})
    [source] = sample_sources(made.config.data.train, ("data", "train"), made, registry)
    assert source.rejected == []
    assert source.source.format_name == "agent_trace (auto)"
    assert [row.conversation.messages for row in source.rows] == [WANTED, WANTED]


def read(*events):
    return AgentTrace().read({"traces": list(events)}).messages


def test_what_the_user_took_back_and_what_subagents_say_is_not_read():
    other = [claude("user", "No!", 8, parent="u1"), claude("assistant", [{"type": "text", "text": "Sorry."}], 9)]
    side = {**claude("assistant", "inner", 20, parent="u5"), "isSidechain": True}
    assert read(*CLAUDE[:-1], *other, side) == (
        Message("user", "How many tests are there?\n\nNo!"),
        Message("assistant", "Sorry."),
    )


def test_parallel_calls_keep_their_results():
    def use(number):
        return [{"type": "tool_use", "id": f"c{number}", "name": "bash", "input": {"command": str(number)}}]

    def result(number):
        return [{"type": "tool_result", "tool_use_id": f"c{number}", "content": f"r{number}"}]

    events = [
        claude("user", "q", 1),
        claude("assistant", use(2), 2),
        claude("assistant", use(3), 3),
        claude("user", result(2), 5, parent="u2"),
        claude("user", result(3), 6, parent="u3"),
        claude("assistant", [{"type": "text", "text": "done"}], 7),
    ]
    roles = [(message.role, len(message.tool_calls), message.content) for message in read(*events)]
    assert roles == [
        ("user", 0, "q"),
        ("assistant", 2, ""),
        ("tool", 0, "r2"),
        ("tool", 0, "r3"),
        ("assistant", 0, "done"),
    ]


def test_other_events_of_codex():
    patch = "*** Begin Patch"
    found = read(
        {"type": "session_meta", "payload": {"base_instructions": {"text": "You code."}}},
        codex(type="message", role="developer", content=[{"type": "input_text", "text": "No network."}]),
        CODEX[1],
        codex(type="custom_tool_call", name="apply_patch", input=patch, call_id="p"),
        codex(type="custom_tool_call_output", call_id="p", output=[{"type": "input_text", "text": "Done"}]),
        codex(type="local_shell_call", call_id="l", action={"type": "exec", "command": ["ls"]}),
    )
    assert found[0] == Message("system", "You code.\n\nNo network.")
    assert found[2].tool_calls == (call("apply_patch", {"input": patch}, "p"),)
    assert found[3] == Message("tool", "Done", name="apply_patch", tool_call_id="p")
    assert found[4].tool_calls[0]["function"]["name"] == "local_shell"


def test_other_events_of_pi():
    shell = {"role": "bashExecution", "command": "ls", "output": "a", "exitCode": 0}
    found = read(
        PI[0],
        {"type": "message", "message": shell},
        {"type": "message", "message": {**shell, "excludeFromContext": True}},
        {"type": "custom_message", "content": "from an extension"},
        {"type": "branch_summary", "summary": "what was tried"},
        {"type": "message", "message": {"role": "custom", "content": [{"type": "text", "text": "x"}]}},
        {"type": "label", "label": "here"},
    )
    assert found == (Message("user", "Ran `ls`\n```\na\n```\n\nfrom an extension\n\nwhat was tried\n\nx"),)


def test_answers_that_no_model_wrote_are_not_read():
    synthetic = claude("assistant", [{"type": "text", "text": "API Error"}], 2)
    synthetic["message"]["model"] = "<synthetic>"
    assert read(claude("user", "q", 1), synthetic) == (Message("user", "q"),)


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([*PI, {"type": "compaction", "summary": "x"}], "event 8: the session was compacted here; divide it into"),
        ([claude("user", "x", 1, isCompactSummary=True)], "event 1: the session was compacted here"),
        ([{"type": "compacted", "payload": {}}], "event 1: the session was compacted here"),
        ([claude("user", [{"type": "image", "source": {}}], 1)], r"event 1: has a part that is not text \(image\)"),
        ([{"type": "message", "message": {"role": "critic", "content": "x"}}], "event 1: unknown role 'critic'"),
        ([codex(type="function_call", name="f", arguments="{", call_id="1")], "event 1: the arguments of .* not valid"),
        (["{"], "an event of 'traces' is not valid JSON"),
        ([{"type": "session", "id": "s"}], "the conversation is empty"),
        ([], "'traces' is empty"),
    ],
)
def test_sessions_that_cannot_be_read(events, reason):
    with pytest.raises(RowError, match=reason):
        read(*events)
