"""Small chat templates, each with one known trouble, and beside each a plain Python function that says what is trained.

The function writes the same text as the template, without Jinja, and knows of every piece of it
whose turn it is. It is the oracle of ``test_properties.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None
Kind = Literal["fixed", "said", "thought", "stop"]


class Piece(NamedTuple):
    """Some text, and the assistant turn that has to produce it (None: nobody has)."""

    text: str
    turn: int | None
    kind: Kind


class Text:
    """A rendering in pieces."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def __str__(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def fixed(self, *texts: str) -> None:
        """Add what is never trained: headers, other roles, white space after a stop token."""
        self.pieces += [Piece(text, None, "fixed") for text in texts]

    def said(self, turn: int, *texts: str) -> None:
        """Add what *turn* has to produce."""
        self.pieces += [Piece(text, turn, "said") for text in texts]

    def thought(self, turn: int, text: str) -> None:
        """Add the reasoning of *turn*, which it has to produce too."""
        self.pieces.append(Piece(text, turn, "thought"))

    def stop(self, turn: int, text: str) -> None:
        """Add the stop token that ends *turn*."""
        self.pieces.append(Piece(text, turn, "stop"))

    def end_with(self, turn: int, stop: str) -> None:
        """End with *turn*, and the stop token that the template does not print."""
        last = max(index for index, piece in enumerate(self.pieces) if piece.turn == turn)
        self.pieces[last + 1 :] = [Piece(stop, turn, "stop")]

    def of(self, turn: int, *kinds: Kind) -> str:
        """The text that *turn* produces, or the pieces of some kinds."""
        return "".join(p.text for p in self.pieces if p.turn == turn and (not kinds or p.kind in kinds))

    def places(self) -> Iterator[tuple[int, int, Piece]]:
        """Yield where each piece begins and ends, and the piece."""
        end = 0
        for piece in self.pieces:
            start, end = end, end + len(piece.text)
            yield start, end, piece


@dataclass(frozen=True)
class Template:
    """A chat template, its oracle, and the conversations it is meant for."""

    name: str
    source: str
    stops: tuple[str, ...]
    pieces: Callable[[Messages, Tools, bool], Text]
    """``pieces(messages, tools, add_generation_prompt)``"""
    rewrites: bool = False
    """Whether some turn is printed differently once other messages follow."""
    system: bool = True
    reasoning: bool = False
    tools: bool = False
    loose: bool = False
    """Whether messages of one role may follow each other."""
    calls: int = 2
    """How many calls a turn may make."""
    says_with_calls: bool = True
    """Whether content is printed beside tool calls."""
    may_refuse: bool = False
    """Whether it does what no tool can follow for certain: a row is labelled exactly, or refused."""
    closing: tuple[str, str] | None = None
    """What the model stops with where nothing is printed, after an answer and after a call; the first stop if None."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)


TEMPLATES: dict[str, Template] = {}

Pieces = Callable[[Text, Messages, Tools], None]


def template(
    source: str, stops: Sequence[str], prompt: str = "", *, ending: str = "", **shape: Any
) -> Callable[[Pieces], Pieces]:
    """Register a template; *prompt* is what it prints last for ``add_generation_prompt``, *ending* otherwise."""

    def register(write: Pieces) -> Pieces:
        def pieces(messages: Messages, tools: Tools, add_generation_prompt: bool) -> Text:
            text = Text()
            write(text, messages, tools)
            text.fixed(prompt if add_generation_prompt else ending)
            return text

        name = write.__name__
        TEMPLATES[name] = Template(name, source.strip(), tuple(stops), pieces, **shape)
        return write

    return register


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def parse_role(messages: Messages, index: int) -> str:
    """Return the role of a message, or an empty string where there is none."""
    return str(messages[index]["role"]) if 0 <= index < len(messages) else ""


def last_user(messages: Messages) -> int:
    return max((index for index, message in enumerate(messages) if message["role"] == "user"), default=-1)


# ChatML and what is written around it -------------------------------------------------------------------------------

CHATML_PROMPT = "<|im_start|>assistant\n"


def chatml_turn(text: Text, index: int, role: str, content: str) -> None:
    text.fixed(f"<|im_start|>{role}\n")
    if role == "assistant":
        text.said(index, content)
        text.stop(index, "<|im_end|>")
        text.fixed("\n")
    else:
        text.fixed(content, "<|im_end|>\n")


@template(
    r"""
{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
""",
    ["<|im_end|>"],
    CHATML_PROMPT,
    loose=True,
)
def chatml(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        chatml_turn(text, index, message["role"], message["content"])


@template(
    r"""
{%- macro words(content) -%}
  {%- if content is string -%}{{- content -}}
  {%- else -%}{%- for part in content -%}{{- part.text -}}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- macro header(role) -%}{{- '<|im_start|>' ~ role ~ '\n' -}}{%- endmacro -%}
{%- macro block(role) -%}{{- header(role) ~ caller() -}}<|im_end|>{{- '\n' -}}{%- endmacro -%}
{%- for m in messages -%}
  {%- call block(m.role) -%}{{- words(m.content) -}}{%- endcall -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- header('assistant') -}}{%- endif -%}
""",
    ["<|im_end|>"],
    CHATML_PROMPT,
    loose=True,
)
def macros(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        chatml_turn(text, index, message["role"], message["content"])


@template(
    r"""
{%- set ns = namespace(out='') -%}
{%- for m in messages -%}
  {%- set ns.out = ns.out ~ '<|im_start|>' ~ m.role ~ '\n' -%}
  {%- set ns.out = ns.out + m.content + '<|im_end|>' -%}
  {%- set ns.out -%}{{- ns.out }}{{ '\n' -}}{%- endset -%}
{%- endfor -%}
{{- ns.out -}}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
""",
    ["<|im_end|>"],
    CHATML_PROMPT,
    loose=True,
)
def collected_in_a_namespace(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        chatml_turn(text, index, message["role"], message["content"])


@template(
    r"""
{%- for m in messages -%}
  {%- if m.role == 'assistant' -%}
    {%- generation -%}{{- '<|im_start|>assistant\n' ~ m.content ~ '<|im_end|>\n' -}}{%- endgeneration -%}
  {%- else -%}{{- '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
""",
    ["<|im_end|>"],
    CHATML_PROMPT,
    loose=True,
)
def generation_markers_around_too_much(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        chatml_turn(text, index, message["role"], message["content"])


@template(
    r"""
{%- set systems = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | list -%}
{%- set turns = messages | rejectattr('role', 'equalto', 'system') | list -%}
{%- if not systems -%}{{- '<|im_start|>system\nYou help.<|im_end|>\n' -}}
{%- else -%}{{- ['<|im_start|>system', systems | join(' / ') ~ '<|im_end|>', ''] | join('\n') -}}{%- endif -%}
{%- for m in turns if m.role != 'nobody' -%}
  {%- if m.role not in ('user', 'assistant') -%}{%- continue -%}{%- endif -%}
  {{- '<|im_start|>' ~ turns[loop.index0]['role'] ~ '\n' ~ turns[loop.index0].get('content') ~ '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
""",
    ["<|im_end|>"],
    CHATML_PROMPT,
    loose=True,
)
def systems_to_the_front(text: Text, messages: Messages, tools: Tools) -> None:
    systems = [message["content"] for message in messages if message["role"] == "system"]
    text.fixed("<|im_start|>system\n", " / ".join(systems) if systems else "You help.", "<|im_end|>\n")
    for index, message in enumerate(messages):
        if message["role"] != "system":
            chatml_turn(text, index, message["role"], message["content"])


@template(
    r"""
{%- for m in messages -%}
  {{- '<|im_start|>' ~ m.role ~ '\n' -}}
  {%- for line in m.content.split('\n') -%}{{- '> ' ~ line ~ '\n' -}}{%- endfor -%}
  {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
""",
    ["<|im_end|>"],
    CHATML_PROMPT,
)
def quoted_line_by_line(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        quoted = "".join(f"> {line}\n" for line in message["content"].split("\n"))
        chatml_turn(text, index, message["role"], quoted)


@template(
    r"""
{%- for m in messages -%}
  {%- set body = m.content | lower | replace('a', 'aa') -%}
  {{- '<|im_start|>' ~ m.role ~ '\n' ~ body[:1] ~ body[1:] ~ '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
""",
    ["<|im_end|>"],
    CHATML_PROMPT,
)
def text_changed_and_sliced(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        chatml_turn(text, index, message["role"], message["content"].lower().replace("a", "aa"))


@template(
    r"""
{%- for m in messages -%}{{- '<|im_start|>%s\n%s<|im_end|>\n' | format(m.role, m.content) -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
""",
    ["<|im_end|>"],
    CHATML_PROMPT,
    may_refuse=True,
)
def whole_turn_by_format(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        chatml_turn(text, index, message["role"], message["content"])


# Other shapes of a turn ---------------------------------------------------------------------------------------------


@template(
    r"""
{%- set names = {'system': 'Rules', 'user': 'Human', 'assistant': 'Machine'} -%}
{%- for m in messages -%}
  {%- set body -%}{{- m.content | replace('\r\n', '\n') -}}{%- endset -%}
  {{- ['### ', names[m.role] | upper, ' (', m.role | title, '):\n', body, '</s>', '\n\n'] | join -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '### ' ~ 'machine' | upper ~ ' (Assistant):\n' -}}{%- endif -%}
""",
    ["</s>"],
    "### MACHINE (Assistant):\n",
    loose=True,
)
def filters_and_set_blocks(text: Text, messages: Messages, tools: Tools) -> None:
    names = {"system": "RULES (System)", "user": "HUMAN (User)", "assistant": "MACHINE (Assistant)"}
    for index, message in enumerate(messages):
        body = message["content"].replace("\r\n", "\n")
        text.fixed(f"### {names[message['role']]}:\n")
        if message["role"] == "assistant":
            text.said(index, body)
            text.stop(index, "</s>")
        else:
            text.fixed(body, "</s>")
        text.fixed("\n\n")


@template(
    r"""
{%- if messages[0].role == 'system' -%}
  {%- set system = '<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set rest = messages -%}{%- endif -%}
{%- for m in rest -%}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}{{- raise_exception('roles must alternate') -}}{%- endif -%}
  {%- if m.role == 'user' -%}
    {{- bos_token ~ '[INST] ' ~ (system ~ m.content if loop.first else m.content) | trim ~ ' [/INST]' -}}
  {%- else -%}{{- ' ' ~ m.content | trim ~ ' ' ~ eos_token -}}{%- endif -%}
{%- endfor -%}
""",
    ["</s>"],
)
def system_in_the_first_user_turn(text: Text, messages: Messages, tools: Tools) -> None:
    system = f"<<SYS>>\n{messages[0]['content']}\n<</SYS>>\n\n" if parse_role(messages, 0) == "system" else ""
    for index, message in enumerate(messages):
        content = message["content"]
        if message["role"] == "user":
            first = index == (1 if system else 0)
            text.fixed("<s>[INST] ", (system + content if first else content).strip(), " [/INST]")
        elif message["role"] == "assistant":
            text.said(index, " ", content.strip(), " ")
            text.stop(index, "</s>")


@template(
    r"""
{%- for m in messages -%}
{%- if m['role'] == 'user' -%}{{- '<|user|>\n' + m['content'] + eos_token + '\n' -}}
{%- elif m['role'] == 'assistant' -%}{{- '<|assistant|>\n' + m['content'] + eos_token + '\n' -}}{%- endif -%}
{%- if loop.last and add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}
{%- endfor -%}
""",
    ["</s>"],
    "<|assistant|>\n",
    loose=True,
)
def system_dropped(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        if message["role"] == "user":
            text.fixed("<|user|>\n", message["content"], "</s>\n")
        elif message["role"] == "assistant":
            text.fixed("<|assistant|>\n")
            text.said(index, message["content"])
            text.stop(index, "</s>")
            text.fixed("\n")


@template(
    r"""
{{- bos_token -}}
{%- for m in messages -%}
{%- if m.role == 'system' -%}{{- raise_exception('there is no system role') -}}{%- endif -%}
{%- set role = 'model' if m.role == 'assistant' else m.role -%}
{{- '<start_of_turn>' ~ role ~ '\n' ~ m.content | trim ~ '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}
""",
    ["<end_of_turn>", "</s>"],
    "<start_of_turn>model\n",
    system=False,
)
def content_trimmed(text: Text, messages: Messages, tools: Tools) -> None:
    text.fixed("<s>")
    for index, message in enumerate(messages):
        body = message["content"].strip()
        if message["role"] == "assistant":
            text.fixed("<start_of_turn>model\n")
            text.said(index, body)
            text.stop(index, "<end_of_turn>")
            text.fixed("\n")
        else:
            text.fixed(f"<start_of_turn>{message['role']}\n", body, "<end_of_turn>\n")


@template(
    r"""
{{- bos_token -}}
{{- '<|header|>system<|body|>\n\nToday: ' ~ strftime_now('%d %b %Y') ~ '\n\n' -}}
{%- if messages[0].role == 'system' -%}
  {{- messages[0].content | trim -}}{%- set messages = messages[1:] -%}
{%- endif -%}
{{- '<|eot|>' -}}
{%- for message in messages -%}
  {{- '<|header|>' + message.role + '<|body|>\n\n' + message.content | trim + '<|eot|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|header|>assistant<|body|>\n\n' -}}{%- endif -%}
""",
    ["<|eot|>"],
    "<|header|>assistant<|body|>\n\n",
    loose=True,
)
def date_in_the_system_turn(text: Text, messages: Messages, tools: Tools) -> None:
    text.fixed("<s><|header|>system<|body|>\n\nToday: ", datetime.now().strftime("%d %b %Y"), "\n\n")
    if parse_role(messages, 0) == "system":
        text.fixed(messages[0]["content"].strip())
    text.fixed("<|eot|>")
    for index, message in enumerate(messages):
        if message["role"] == "system":
            continue
        body = message["content"].strip()
        text.fixed(f"<|header|>{message['role']}<|body|>\n\n")
        if message["role"] == "assistant":
            text.said(index, body)
            text.stop(index, "<|eot|>")
        else:
            text.fixed(body, "<|eot|>")


@template(
    r"""
{{- bos_token -}}
{%- for i in range(messages | length) -%}
  {%- set m = messages[i] -%}
  {%- if m.role not in ['user', 'assistant'] or (i > 0 and messages[i - 1].role == m.role) -%}
    {{- raise_exception('only user and assistant, in turn') -}}
  {%- endif -%}
  {%- if m.role == 'user' -%}{{- '[INST]' + m.content + '[/INST]' -}}
  {%- else -%}{{- m.content + eos_token -}}{%- endif -%}
{%- endfor -%}
""",
    ["</s>"],
    system=False,
)
def strict_order_by_index(text: Text, messages: Messages, tools: Tools) -> None:
    text.fixed("<s>")
    for index, message in enumerate(messages):
        if message["role"] == "user":
            text.fixed("[INST]", message["content"], "[/INST]")
        else:
            text.said(index, message["content"])
            text.stop(index, "</s>")


@template(
    r"""
{%- for m in messages -%}
{%- if loop.index0 % 2 == 0 -%}
  {%- if m.role != 'user' -%}{{- raise_exception('a user turn is due') -}}{%- endif -%}
  {{- '[Round ' ~ (loop.index0 // 2 + 1) ~ ']\n\n问：' ~ m.content ~ '\n\n答：' -}}
{%- else -%}{{- m.content ~ eos_token ~ '\n\n' -}}{%- endif -%}
{%- endfor -%}
""",
    ["</s>"],
    system=False,
)
def header_at_the_end_of_the_user_turn(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        if message["role"] == "user":
            text.fixed(f"[Round {index // 2 + 1}]\n\n问：", message["content"], "\n\n答：")
        else:
            text.said(index, message["content"])
            text.stop(index, "</s>")
            text.fixed("\n\n")


@template(
    r"""
{{- bos_token -}}
{%- for m in messages -%}{{- '<|' ~ m.role ~ '|>' ~ m.content ~ eos_token -}}{%- endfor -%}
""",
    ["</s>"],
    may_refuse=True,
)
def no_generation_prompt(text: Text, messages: Messages, tools: Tools) -> None:
    # TemplatedConversation with this template, the model gets no header, and has to write it.
    text.fixed("<s>")
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            text.said(index, "<|assistant|>", message["content"])
            text.stop(index, "</s>")
        else:
            text.fixed(f"<|{message['role']}|>", message["content"], "</s>")


# Where a turn ends --------------------------------------------------------------------------------------------------


@template(
    r"""
{%- for m in messages -%}
  {{- (m.role | title) ~ ': ' ~ m.content -}}
  {{- eos_token if loop.last and m.role == 'assistant' else '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant: ' -}}{%- endif -%}
""",
    ["</s>"],
    "Assistant: ",
    rewrites=True,
)
def stop_after_the_last_turn_only(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        text.fixed(f"{message['role'].title()}: ")
        if message["role"] != "assistant":
            text.fixed(message["content"], "\n")
            continue
        text.said(index, message["content"])
        if index == len(messages) - 1:
            text.stop(index, "</s>")
        else:
            text.fixed("\n")


@template(
    r"""
{%- for m in messages -%}{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- else -%}{{- eos_token -}}{%- endif -%}
""",
    ["<|end|>", "</s>"],
    "<|assistant|>\n",
    ending="</s>",
)
def second_stop_at_the_end(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        text.fixed(f"<|{message['role']}|>\n")
        if message["role"] == "assistant":
            text.said(index, message["content"])
            text.stop(index, "<|end|>")
            text.fixed("\n")
        else:
            text.fixed(message["content"], "<|end|>\n")


@template(
    r"""
{{- '[gMASK]<sop>' -}}
{%- for m in messages -%}
  {%- if m.role == 'tool' -%}{{- '<|observation|>\n' ~ m.content -}}
  {%- else -%}
    {{- '<|' ~ m.role ~ '|>\n' ~ m.content -}}
    {%- for call in m.tool_calls -%}
      {{- '\n<tool_call>' ~ call.function.name -}}
      {%- for key, value in call.function.arguments.items() -%}
        {{- '\n<arg>' ~ key ~ '</arg>' -}}{{- value if value is string else value | tojson -}}
      {%- endfor -%}
      {{- '\n</tool_call>' -}}
    {%- endfor -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}
""",
    ["</s>", "<|user|>", "<|observation|>"],
    "<|assistant|>\n",
    tools=True,
    closing=("<|user|>", "<|observation|>"),
)
def stop_opens_the_next_header(text: Text, messages: Messages, tools: Tools) -> None:
    text.fixed("[gMASK]<sop>")
    for index, message in enumerate(messages):
        header = "<|observation|>" if message["role"] == "tool" else f"<|{message['role']}|>"
        if parse_role(messages, index - 1) == "assistant":
            text.stop(index - 1, header)
        else:
            text.fixed(header)
        text.fixed("\n")
        if message["role"] != "assistant":
            text.fixed(message["content"])
            continue
        text.said(index, message["content"])
        for call in message.get("tool_calls", ()):
            text.said(index, "\n<tool_call>", call["function"]["name"])
            for key, value in call["function"]["arguments"].items():
                text.said(index, f"\n<arg>{key}</arg>", value if isinstance(value, str) else as_json(value))
            text.said(index, "\n</tool_call>")


@template(
    r"""
{%- for m in messages -%}{{- '<' ~ m.role ~ '>' ~ m.content ~ '</' ~ m.role ~ '>' -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}
""",
    ["</assistant>"],
    "<assistant>",
    loose=True,
)
def stop_holds_the_role(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            text.fixed("<assistant>")
            text.said(index, message["content"])
            text.stop(index, "</assistant>")
        else:
            text.fixed("<{0}>{1}</{0}>".format(message["role"], message["content"]))


# Reasoning ----------------------------------------------------------------------------------------------------------


@template(
    r"""
{%- set ns = namespace(last=-1, seen=false) -%}
{%- for m in messages[::-1] -%}
  {%- if m.role == 'user' and not ns.seen -%}
    {%- set ns.seen = true -%}{%- set ns.last = messages | length - 1 - loop.index0 -%}
  {%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
  {%- if m.role == 'assistant' -%}
    {%- set thought = m.reasoning_content if m.reasoning_content is string else '' -%}
    {%- set answer = m.content -%}
    {%- if not thought and '</think>' in answer -%}
      {%- set thought = answer.split('</think>')[0].split('<think>')[-1] -%}
      {%- set answer = answer.split('</think>')[-1] -%}
    {%- endif -%}
    {{- '<|im_start|>assistant\n' -}}
    {%- if loop.index0 > ns.last -%}{{- '<think>\n' ~ thought.strip('\n') ~ '\n</think>\n\n' -}}{%- endif -%}
    {{- answer.lstrip('\n') -}}
    {%- for call in m.tool_calls or [] -%}
      {{- '\n<tool_call>' ~ call.function | tojson ~ '</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\n' -}}
  {%- else -%}{{- '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
""",
    ["<|im_end|>"],
    CHATML_PROMPT,
    rewrites=True,
    reasoning=True,
    tools=True,
)
def reasoning_after_the_last_user_turn(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            chatml_turn(text, index, message["role"], message["content"])
            continue
        thought, answer = message.get("reasoning_content", ""), message["content"]
        if not thought and "</think>" in answer:
            parts = answer.split("</think>")
            thought, answer = parts[0].split("<think>")[-1], parts[-1]
        text.fixed(CHATML_PROMPT)
        if index > last_user(messages):
            text.said(index, "<think>\n")
            text.thought(index, thought.strip("\n"))
            text.said(index, "\n</think>\n\n")
        text.said(index, answer.lstrip("\n"))
        for call in message.get("tool_calls", ()):
            text.said(index, f"\n<tool_call>{as_json(call['function'])}</tool_call>")
        text.stop(index, "<|im_end|>")
        text.fixed("\n")


@template(
    r"""
{%- for m in messages -%}
  {{- '<|im_start|>' ~ m.role ~ '\n' -}}
  {%- if m.reasoning_content -%}{{- '<think>\n' ~ m.reasoning_content ~ '\n</think>\n\n' -}}{%- endif -%}
  {{- m.content ~ '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
""",
    ["<|im_end|>"],
    CHATML_PROMPT,
    reasoning=True,
    loose=True,
)
def reasoning_kept(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        if "reasoning_content" not in message:
            chatml_turn(text, index, message["role"], message["content"])
            continue
        text.fixed(CHATML_PROMPT)
        text.said(index, "<think>\n")
        text.thought(index, message["reasoning_content"])
        text.said(index, "\n</think>\n\n", message["content"])
        text.stop(index, "<|im_end|>")
        text.fixed("\n")


@template(
    r"""
{%- for m in messages -%}
  {%- if m.role != 'assistant' -%}{{- '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' -}}
  {%- elif loop.last -%}
    {{- '<|bot|><think>\n' ~ (m.reasoning_content or '') ~ '\n</think>\n\n' ~ m.content ~ '<|end|>\n' -}}
  {%- else -%}{{- '<|bot|>' ~ m.content ~ '<|end|>\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|bot|><think>\n' -}}{%- endif -%}
""",
    ["<|end|>"],
    "<|bot|><think>\n",
    rewrites=True,
    reasoning=True,
)
def prompt_opens_the_reasoning(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            text.fixed(f"<|{message['role']}|>\n", message["content"], "<|end|>\n")
            continue
        text.fixed("<|bot|>")
        if index == len(messages) - 1:
            text.fixed("<think>\n")
            text.thought(index, message.get("reasoning_content", ""))
            text.said(index, "\n</think>\n\n")
        text.said(index, message["content"])
        text.stop(index, "<|end|>")
        text.fixed("\n")


@template(
    r"""
{%- for m in messages -%}
  {%- if m.role != 'assistant' -%}{{- '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' -}}
  {%- else -%}
    {{- '<|bot|>' -}}
    {%- if m.reasoning_content -%}{{- '<think>\n' ~ m.reasoning_content ~ '\n</think>\n\n' -}}{%- endif -%}
    {{- m.content ~ '<|end|>\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|bot|><think>\n' -}}{%- endif -%}
""",
    ["<|end|>"],
    "<|bot|><think>\n",
    rewrites=False,  # with reasoning in every turn
    reasoning=True,
)
def prompt_opens_reasoning_that_may_be_missing(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            text.fixed(f"<|{message['role']}|>\n", message["content"], "<|end|>\n")
            continue
        text.fixed("<|bot|>")
        if "reasoning_content" in message:
            text.fixed("<think>\n")
            text.thought(index, message["reasoning_content"])
            text.said(index, "\n</think>\n\n")
        text.said(index, message["content"])
        text.stop(index, "<|end|>")
        text.fixed("\n")


@template(
    r"""
{%- macro empty() -%}{%- if enable_thinking is defined and not enable_thinking -%}
  {{- '<think>\n\n</think>\n\n' -}}
{%- endif -%}{%- endmacro -%}
{%- for m in messages -%}
  {{- '<|im_start|>' ~ m.role ~ '\n' -}}
  {%- if m.role == 'assistant' and loop.last -%}{{- empty() -}}{%- endif -%}
  {{- m.content ~ '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' ~ empty() -}}{%- endif -%}
""",
    ["<|im_end|>"],
    CHATML_PROMPT + "<think>\n\n</think>\n\n",
    rewrites=True,
    kwargs={"enable_thinking": False},
)
def empty_reasoning_in_the_prompt(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        if message["role"] == "assistant" and index == len(messages) - 1:
            text.fixed(CHATML_PROMPT, "<think>\n\n</think>\n\n")
            text.said(index, message["content"])
            text.stop(index, "<|im_end|>")
            text.fixed("\n")
        else:
            chatml_turn(text, index, message["role"], message["content"])


@template(
    r"""
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
  {%- if loop.last and m.reasoning_content -%}
    {{- '<|start|>assistant<|channel|>analysis<|message|>' ~ m.reasoning_content ~ '<|end|>' -}}
  {%- endif -%}
  {%- if m.tool_calls -%}
    {%- set f = m.tool_calls[0].function -%}
    {{- '<|start|>assistant<|channel|>commentary to=' ~ f.name ~ '<|message|>' ~ f.arguments | tojson ~ '<|call|>' -}}
  {%- else -%}
    {{- '<|start|>assistant<|channel|>final<|message|>' ~ m.content ~ ('<|return|>' if loop.last else '<|end|>') -}}
  {%- endif -%}
{%- else -%}{{- '<|start|>' ~ m.role ~ '<|message|>' ~ m.content ~ '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}
""",
    ["<|return|>", "<|call|>"],
    "<|start|>assistant",
    rewrites=True,
    reasoning=True,
    tools=True,
    calls=1,
    says_with_calls=False,
)
def several_channels_in_a_turn(text: Text, messages: Messages, tools: Tools) -> None:
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            text.fixed(f"<|start|>{message['role']}<|message|>", message["content"], "<|end|>")
            continue
        last = index == len(messages) - 1
        text.fixed("<|start|>assistant")
        if last and "reasoning_content" in message:
            text.said(index, "<|channel|>analysis<|message|>")
            text.thought(index, message["reasoning_content"])
            text.said(index, "<|end|><|start|>assistant")
        if calls := message.get("tool_calls"):
            function = calls[0]["function"]
            text.said(index, f"<|channel|>commentary to={function['name']}<|message|>{as_json(function['arguments'])}")
            text.stop(index, "<|call|>")
        else:
            text.said(index, "<|channel|>final<|message|>", message["content"])
            if last:
                text.stop(index, "<|return|>")
            else:
                text.fixed("<|end|>")


# Tools --------------------------------------------------------------------------------------------------------------


@template(
    r"""
{%- set has_system = messages and messages[0].role == 'system' -%}
{%- if tools or has_system -%}
  {{- '<|im_start|>system\n' -}}
  {%- if has_system -%}{{- messages[0].content -}}{%- endif -%}
  {%- for tool in tools or [] -%}{{- '\n' ~ tool | tojson -}}{%- endfor -%}
  {{- '<|im_end|>\n' -}}
{%- endif -%}
{%- for m in messages -%}
  {%- if m.role == 'user' -%}{{- '<|im_start|>user\n' ~ m.content ~ '<|im_end|>\n' -}}
  {%- elif m.role == 'assistant' -%}
    {{- '<|im_start|>assistant\n' ~ m.content -}}
    {%- for call in m.tool_calls or [] -%}
      {%- set f = call.function -%}
      {{- '\n' if m.content or not loop.first -}}
      {{- '<tool_call>\n{"name": "' ~ f.name ~ '", "arguments": ' ~ f.arguments | tojson ~ '}\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\n' -}}
  {%- elif m.role == 'tool' -%}
    {%- if loop.previtem is not defined or loop.previtem.role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
    {{- '\n<tool_response>\n' ~ m.content ~ '\n</tool_response>' -}}
    {%- if loop.nextitem is not defined or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\n' -}}{%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
""",
    ["<|im_end|>"],
    CHATML_PROMPT,
    tools=True,
)
def calls_as_json_and_results_as_a_user(text: Text, messages: Messages, tools: Tools) -> None:
    has_system = parse_role(messages, 0) == "system"
    if tools or has_system:
        text.fixed("<|im_start|>system\n", messages[0]["content"] if has_system else "")
        text.fixed(*(f"\n{as_json(tool)}" for tool in tools or ()), "<|im_end|>\n")
    for index, message in enumerate(messages):
        content = message["content"]
        if message["role"] == "user":
            chatml_turn(text, index, "user", content)
        elif message["role"] == "assistant":
            calls = [
                f'<tool_call>\n{{"name": "{call["function"]["name"]}", '
                f'"arguments": {as_json(call["function"]["arguments"])}}}\n</tool_call>'
                for call in message.get("tool_calls", ())
            ]
            chatml_turn(text, index, "assistant", "\n".join([*([content] if content else []), *calls]))
        elif message["role"] == "tool":
            text.fixed("" if parse_role(messages, index - 1) == "tool" else "<|im_start|>user")
            text.fixed("\n<tool_response>\n", content, "\n</tool_response>")
            text.fixed("" if parse_role(messages, index + 1) == "tool" else "<|im_end|>\n")


@template(
    r"""
{{- bos_token -}}
{%- set ns = namespace(last=0, calls=[]) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
  {%- if m.role == 'user' -%}
    {%- if tools and loop.index0 == ns.last -%}{{- '[TOOLS]' ~ tools | tojson ~ '[/TOOLS]' -}}{%- endif -%}
    {{- '[INST]' -}}
    {%- if loop.index0 == ns.last and messages[0].role == 'system' -%}{{- messages[0].content ~ '\n\n' -}}{%- endif -%}
    {{- m.content ~ '[/INST]' -}}
  {%- elif m.tool_calls -%}
    {%- set ns.calls = [] -%}
    {%- for call in m.tool_calls -%}{%- set ns.calls = ns.calls + [call.function] -%}{%- endfor -%}
    {{- '[CALLS]' ~ ns.calls | tojson ~ eos_token -}}
  {%- elif m.role == 'assistant' -%}{{- m.content ~ eos_token -}}
  {%- elif m.role == 'tool' -%}{{- '[RESULT]' ~ {'content': m.content} | tojson ~ '[/RESULT]' -}}
  {%- endif -%}
{%- endfor -%}
""",
    ["</s>"],
    rewrites=True,
    tools=True,
    says_with_calls=False,
)
def system_and_tools_in_the_last_user_turn(text: Text, messages: Messages, tools: Tools) -> None:
    text.fixed("<s>")
    for index, message in enumerate(messages):
        content = message["content"]
        if message["role"] == "user":
            last = index == last_user(messages)
            text.fixed(f"[TOOLS]{as_json(list(tools))}[/TOOLS]" if tools and last else "", "[INST]")
            text.fixed(f"{messages[0]['content']}\n\n" if last and parse_role(messages, 0) == "system" else "")
            text.fixed(content, "[/INST]")
        elif calls := message.get("tool_calls"):
            text.said(index, "[CALLS]", as_json([call["function"] for call in calls]))
            text.stop(index, "</s>")
        elif message["role"] == "assistant":
            text.said(index, content)
            text.stop(index, "</s>")
        elif message["role"] == "tool":
            text.fixed("[RESULT]", as_json({"content": content}), "[/RESULT]")
