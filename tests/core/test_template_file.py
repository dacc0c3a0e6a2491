"""Template files: the JSON form, what is invalid, and what it compiles to."""

from __future__ import annotations

import json

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from sftcore import ConfigError
from sftcore.core.template_file import FileTemplate

SOUND = {
    "user": "U:{content}\n",
    "assistant": "A:{content}{eos}\n",
    "generation_prompt": "A:",
}
CONVERSATION = [{"role": "user", "content": " q "}, {"role": "assistant", "content": " a\n"}]


def write(folder, form, name="t.json"):
    path = folder / name
    path.write_text(form if isinstance(form, str) else json.dumps(form), encoding="utf-8")
    return FileTemplate(path)


def rendered(template, messages, generation=False, **variables):
    variables = {"bos_token": "<s>", "eos_token": "</s>"} | variables
    [text], _ = render_jinja_template(
        [messages], chat_template=template.jinja(), add_generation_prompt=generation, **variables
    )
    return text


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("{", "not valid JSON"),
        ([], "must be one JSON object"),
        ({**SOUND, "asistant": "{content}"}, "unknown key 'asistant'; did you mean 'assistant'?"),
        ({**SOUND, "xyz": 1}, "unknown key 'xyz'$"),
        *(
            ({key: value for key, value in SOUND.items() if key != missing}, f"'{missing}' is missing")
            for missing in SOUND
        ),
        ({**SOUND, "user": 3}, "'user' must be a string"),
        ({**SOUND, "begin": None}, "'begin' must be a string"),
        ({**SOUND, "user": "U:"}, r"'user' must have \{content\} in it"),
        ({**SOUND, "system": "S"}, r"'system' must have \{content\} in it"),
        ({**SOUND, "generation_prompt": "A:{content}"}, r"'generation_prompt' must not contain \{content\}"),
        ({**SOUND, "begin": "{content}"}, r"'begin' must not contain \{content\}"),
        ({**SOUND, "trim": "yes"}, "'trim' must be true or false"),
        ({**SOUND, "stop": "</s>"}, "'stop' must be a list of strings"),
        ({**SOUND, "stop": [""]}, "'stop' must be a list of strings"),
        ({**SOUND, "stop": [3]}, "'stop' must be a list of strings"),
        ({**SOUND, "default_system": "x"}, "'default_system' needs 'system'"),
    ],
)
def test_an_invalid_json_template_is_an_error(tmp_path, form, reason):
    with pytest.raises(ConfigError, match=reason) as raised:
        write(tmp_path, form).jinja()
    assert str(tmp_path / "t.json") in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.txt", b"", "must end in .json or .jinja"),
        ("t.json", b"\xff", "cannot be read"),
        ("t.json", None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        FileTemplate(tmp_path / name).jinja()


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, "U: q \nA: a\n</s>\n"),
        ({"trim": True}, "U:q\nA:a</s>\n"),
        ({"begin": "{bos}!"}, "<s>!U: q \nA: a\n</s>\n"),
        ({"end": "{eos}{eos}"}, "U: q \nA: a\n</s>\n</s></s>"),
        ({"system": "S:{content};", "default_system": "{bos} {content}"}, "S:{bos} {content};U: q \nA: a\n</s>\n"),
        ({"assistant": "{content}{content}|"}, "U: q \n a\n a\n|"),
        ({"user": "{eos}{content}{unknown}", "assistant": "{content}"}, "</s> q {unknown} a\n"),
    ],
)
def test_a_json_template_renders_as_expected(tmp_path, extra, expected):
    template = write(tmp_path, {**SOUND, **extra})
    assert rendered(template, CONVERSATION) == expected
    question = rendered(template, CONVERSATION[:1])
    assert rendered(template, CONVERSATION[:1], generation=True) == question + "A:"


def test_a_given_system_message_replaces_the_default(tmp_path):
    template = write(tmp_path, {**SOUND, "system": "S:{content};", "default_system": "default"})
    system = {"role": "system", "content": "given"}
    assert rendered(template, [system, *CONVERSATION]).startswith("S:given;U:")


@pytest.mark.parametrize(
    "awkward",
    [
        "\"'",
        "\\",
        "\\n\\u0041",
        "{{ 1 + 1 }}",
        "{% raw %}",
        "{# note #}",
        "-%}-}}",
        "%}%d%s%",
        "{}{bos",
        "\r\n\t\x0b",
        "\u2028\x85\xa0",
        "é漢字🙂",
        "  \n ",
    ],
)
def test_texts_are_quoted(tmp_path, awkward):
    form = {key: awkward + value + awkward for key, value in SOUND.items()}
    form |= {"begin": awkward, "end": awkward, "system": awkward + "{content}", "default_system": awkward}
    expected = awkward * 3
    expected += f"{awkward}U: q \n{awkward}{awkward}A: a\n</s>\n{awkward}" + awkward
    assert rendered(write(tmp_path, form), CONVERSATION) == expected
    assert rendered(write(tmp_path, SOUND), [{"role": "user", "content": awkward}]) == f"U:{awkward}\n"


@pytest.mark.parametrize(
    ("messages", "variables", "reason"),
    [
        ([{"role": "tool", "content": "x"}], {}, "does not support the role tool"),
        ([{"role": "system", "content": "x"}], {}, "does not support the role system"),
        (CONVERSATION, {"tools": [{"type": "function"}]}, "does not support tools"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], {}, "does not support tool calls"),
    ],
)
def test_what_a_json_template_does_not_support_is_an_error_and_never_dropped(tmp_path, messages, variables, reason):
    with pytest.raises(Exception, match=reason):
        rendered(write(tmp_path, SOUND), messages, **variables)


def test_a_jinja_file_is_used_unchanged(tmp_path):
    source = "{% for m in messages %}{{ m.content }}{% endfor %}\n"
    template = write(tmp_path, source, "t.jinja")
    assert template.jinja() == source
    assert template.stop() == []


def test_stops(tmp_path):
    assert write(tmp_path, SOUND).stop() == []
    assert write(tmp_path, {**SOUND, "stop": ["</s>", "\n\n"]}).stop() == ["</s>", "\n\n"]


def test_description(tmp_path):
    form = {"description": "Said so.", "user": "{content}", "assistant": "{content}", "generation_prompt": ""}
    (tmp_path / "a.json").write_text(json.dumps(form))
    (tmp_path / "a.jinja").write_text("{{ messages }}")
    assert FileTemplate(tmp_path / "a.json").description() == "Said so."
    assert FileTemplate(tmp_path / "a.jinja").description() == ""
