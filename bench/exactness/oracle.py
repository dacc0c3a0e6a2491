"""What has to be trained, found without our own code: plain renders, string search, and tables made by hand.

The text of ``messages[:k]`` is rendered a second time with a unique word in place of every piece of text. The second
text tells where each piece of the first one comes from, whatever the template does around it. Then, for a turn:

* It starts where the prompt of that turn ends, if the text starts with that prompt. If it does not, with no mode of
  the template (thinking or not), the turn starts after its role header, which is looked up between the text of the
  message before and its own.
* It ends after the first stop token that follows its own last text. A template that prints none there leaves the end
  at the turn's own last text, or after what closes it (``"}</tool_call>``).

Several readings are accepted where more than one can be defended. A turn about which nothing can be said is undecided.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

Dict = dict[str, Any]
Span = tuple[int, int]


class Ends(NamedTuple):
    """How the turns of a template end, as the model's ``generation_config.json`` would say it."""

    stops: tuple[str, ...]
    eos: str = ""
    """What the tokenizer calls its end token; the first stop where empty."""
    bos: str = "<s>"
    soft: tuple[str, ...] = ()
    """Closes turns of the history, but generation does not stop at it."""


# The first rule whose text the template contains. The tails that each template prints were read one by one.
RULES: tuple[tuple[str, Ends], ...] = (
    ("<|im_end|>", Ends(("<|im_end|>",))),
    ("<|start_header_id|>", Ends(("<|eot_id|>", "<|eom_id|>"), bos="<|begin_of_text|>")),
    ("<|header_start|>", Ends(("<|eot|>", "<|eom|>"), bos="<|begin_of_text|>")),
    ("<|eot|>", Ends(("<|eot|>",), bos="<|begin_of_text|>")),  # muse-glimmer: <|eom|> stands inside a turn
    # Gemma 4 hands over to the tool with <|tool_response>.
    ("<turn|>", Ends(("<turn|>", "<|tool_response>"), bos="<bos>")),
    ("<end_of_turn>", Ends(("<end_of_turn>",), bos="<bos>")),
    ("<|END_OF_TURN_TOKEN|>", Ends(("<|END_OF_TURN_TOKEN|>",))),
    ("<|end_of_text|>", Ends(("<|end_of_text|>",))),
    ("<|return|>", Ends(("<|return|>", "<|call|>"), soft=("<|end|>",))),
    ("<|calls|>", Ends(("<|end|>", "<|calls|>"))),
    ("<|message_sep|>", Ends(("<|message_sep|>",))),
    ("<|end_of_turn|>", Ends(("<|end_of_turn|>",))),
    ("[|endofturn|]", Ends(("[|endofturn|]",))),
    ("[e~[", Ends(("[e~[",))),
    ("<|stop|>", Ends(("<|stop|>",))),
    ("<|EOT|>", Ends(("<|EOT|>",))),
    ("<end_of_utterance>", Ends(("<end_of_utterance>",))),
    ("<REKA_IMG_TOKEN>", Ends(("<sep>",))),
    ("<SPECIAL_12>", Ends(("<SPECIAL_12>",))),
    ("<step>", Ends(("<step>",))),
    ("<|role_end|>", Ends(("<|role_end|>",))),
    ("<|eom|>", Ends(("<|eom|>",))),
    ("<|end_of_msg|>", Ends(("<|end_of_msg|>",))),
    ("<end_of_sentence>", Ends(("<end_of_sentence>",))),
    ("<|assistant_end|>", Ends(("<|assistant_end|>",))),
    ("</assistant>", Ends(("</assistant>",))),
    ("<seed:eos>", Ends(("<seed:eos>",), bos="<seed:bos>")),
    ("<｜end▁of▁sentence｜>", Ends(("<｜end▁of▁sentence｜>",), bos="<｜begin▁of▁sentence｜>")),
    # GLM stops at the token that opens the next role's header.
    ("<|observation|>", Ends(("<|endoftext|>", "<|user|>", "<|observation|>"))),
    ("<|end|>", Ends(("<|end|>", "<|endoftext|>"), eos="<|endoftext|>")),
    ("<|endoftext|>", Ends(("<|endoftext|>",))),
    ("<extra_id_1>", Ends(("</s>", "<extra_id_1>"))),  # the model card of Nemotron Mini says to stop at the latter
)
BY_NAME: dict[str, Ends] = {
    "axolotl-deepseek_v2": Ends(("<｜end▁of▁sentence｜>",), bos="<｜begin▁of▁sentence｜>"),
    "gguf-glm4-9b": Ends(("<|endoftext|>", "<|user|>", "<|observation|>")),
    "hfjs-HuggingFaceH4-zephyr-7b-gemma-v0.1": Ends(("<|im_end|>", "<eos>"), eos="<eos>", bos="<bos>"),
    "lcpp-tencent-Hy3": Ends(("<｜hy_eos:opensource｜>",)),
}
OTHERWISE = Ends(("</s>",))


def ends_of(name: str, template: str) -> Ends:
    """Return the strings that end the turns of *template*."""
    return BY_NAME.get(name) or next((ends for needle, ends in RULES if needle in template), OTHERWISE)


# Variables by which templates switch thinking.
MODES: tuple[Dict, ...] = tuple(
    {name: value} for name in ("enable_thinking", "thinking", "reasoning") for value in (True, False)
)

# Role headers of templates that have no generation prompt, or another one than they print in the history.
HEADERS: dict[str, str] = {
    "hfjs-codellama-CodeLlama-70b-Instruct-hf": r"Source: assistant\n(Destination: user\n)?",
    "mistral-deepseek_tool_call": r"<｜Assistant｜>|<｜tool▁outputs▁end｜>",
}
MISTRAL = r"\[/INST\]|\[/TOOL_RESULTS\]"

# Their assistant messages are what is judged, not what the model says.
CLASSIFIERS = re.compile("guardian|llama-guard|shieldgemma", re.IGNORECASE)

# What a prompt may add behind the role header.
SUPPLIED = re.compile(
    r"(?:\s|</?(?:think|thought)(?::\w+)?>|<\|channel>thought\n<channel\|>|<\|(?:START|END)_THINKING\|>"
    r"|>>>|Here are my reasoning steps:)*$"
)

# A block for thoughts that is empty, or only closed: some histories have another than the prompt supplies.
NO_THOUGHTS = re.compile(r"\s*(?:<think>\s*)?</think>\s*")

# What closes a turn's own text in templates without a stop token, and what opens the next message.
CLOSERS = re.compile(r"(?:\s*(?:[\\\"'}\])]+|```|</[\w:.-]+>|<[|｜][\w▁:]*(?:end|END|suffix)[\w▁:]*[|｜]>))*")
OPENERS = re.compile(
    r"<\|START_OF_TURN_TOKEN\|>|<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|turn>|\[INST\]"
)

THINK = re.compile(r"(</?think>)")
CLOSED = re.compile(r"</think|<channel\|>|<\|END_THINKING")
NO_HEADER = "the prompt lacks the role header"
HIDDEN = re.compile(r"Zq(\d{3})x")
WORD = re.compile(r"<[^<>\s]*>|\[[^\[\]\s]*\]|[^\s<\[]+|[<\[]")


@dataclass(frozen=True)
class Reading:
    """The spans of one turn that can be defended; ``why`` says how they were found, or why there are none."""

    spans: frozenset[Span]
    why: str
    stop: str = ""
    """The stop token at their end; empty where the template prints none."""

    @property
    def decided(self) -> bool:
        return bool(self.spans)


@dataclass(frozen=True)
class Piece:
    """One piece of a message's text and the word that stands for it."""

    message: int
    field: str
    """content, reasoning or call"""
    text: str
    before: str = ""
    after: str = ""
    """White space around it in the message."""

    def spellings(self) -> list[str]:
        """Return the ways a template may write it: as it is, in JSON, without empty lines."""
        escaped = (json.dumps(self.text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
        return list(dict.fromkeys((self.text, *escaped, self.text.replace("\n\n", "\n"))))


@dataclass(frozen=True)
class Place:
    """Where a piece stands in a text; ``outer`` includes the message's own white space around it."""

    piece: Piece
    start: int
    end: int
    outer: Span


class Disguise:
    """The messages with a unique word for every piece of text.

    ``filled``: empty answers get a word too. ``before``, ``after``: the white space around each piece is kept.
    """

    def __init__(self, messages: Sequence[Dict], filled: bool, before: bool = True, after: bool = True) -> None:
        self.pieces: list[Piece] = []
        self.name = f"filled={filled} before={before} after={after}"
        self.filled, self.before, self.after = filled, before, after
        self.messages = [self._message(index, message) for index, message in enumerate(messages)]

    def _word(self, piece: Piece) -> str:
        self.pieces.append(piece)
        return f"Zq{len(self.pieces) - 1:03}x"

    def _text(self, index: int, field: str, text: str) -> str:
        core = text.strip()
        if not core:
            return text
        before, after = text.split(core, 1)
        word = self._word(Piece(index, field, core, before, after))
        return before * self.before + word + after * self.after

    def _message(self, index: int, message: Dict) -> Dict:
        made = dict(message)
        if made.get("reasoning_content"):
            made["reasoning_content"] = self._text(index, "reasoning", made["reasoning_content"])
        if content := made["content"]:
            # Templates look for these tags, so they stay.
            parts = THINK.split(content) if content.startswith("<think>") else ["", "", content]
            thoughts = self._text(index, "reasoning", "".join(parts[2:-2]))
            made["content"] = "".join([*parts[:2], thoughts, *parts[-2:-1], self._text(index, "content", parts[-1])])
        elif self.filled and message["role"] == "assistant" and not message.get("tool_calls"):
            made["content"] = self._word(Piece(index, "content", ""))
        if calls := made.get("tool_calls"):
            made["tool_calls"] = [{**call, "function": self._function(index, call["function"])} for call in calls]
        return made

    def _function(self, index: int, function: Dict) -> Dict:
        arguments = function["arguments"]
        values = json.loads(arguments) if isinstance(arguments, str) else arguments
        made = {key: self._word(Piece(index, "call", value)) for key, value in values.items()}
        return {**function, "arguments": json.dumps(made) if isinstance(arguments, str) else made}


def common(left: str, right: str) -> int:
    """Return the length of the common prefix of two texts, in characters."""
    length = min(len(left), len(right))
    return next((at for at in range(length) if left[at] != right[at]), length)


def blank(text: str) -> str:
    """Return the white space that *text* starts with."""
    return text[: len(text) - len(text.lstrip())]


class Step(NamedTuple):
    """How far two texts agree: the characters of the first that were used, and where the second may continue."""

    used: int
    starts: list[int]


def walk(expected: str, text: str) -> Step:
    """Follow *text* as far as it says what *expected* says; they may differ in white space."""
    at = used = 0
    while True:
        wanted, there = blank(expected[used:]), blank(text[at:])
        word = WORD.match(expected, used + len(wanted))
        if word is None or not text.startswith(word[0], at + len(there)):
            same = common(wanted, there)
            exact = word is None and same == len(wanted)
            return Step(used, [at + same] if exact else list(range(at + same, at + len(there) + 1)))
        at += len(there) + len(word[0])
        used = word.end()


class Oracle:
    """Answers for one template and one conversation."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, name: str, messages: Sequence[Dict], tools: Sequence[Dict]
    ) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.template = str(tokenizer.chat_template)
        self.classifier = bool(CLASSIFIERS.search(name))
        self.ends = ends_of(name, self.template)
        self.messages = list(messages)
        self.tools = list(tools) or None
        self._texts: dict[tuple[str, int, bool, str], str | None] = {}
        self._places: dict[int, list[Place] | None] = {}
        self._disguises = [Disguise(self.messages, filled) for filled in (True, False)]
        self._bare = {
            disguise: [Disguise(self.messages, disguise.filled, **{side: False}) for side in ("before", "after")]
            for disguise in self._disguises
        }
        self._modes = [mode for mode in MODES if re.search(rf"\b{next(iter(mode))}\b", self.template)]

    # --- renders

    def _render(self, what: str, messages: Sequence[Dict], prompt: bool, **mode: Any) -> str | None:
        key = (what, len(messages), prompt, repr(mode))
        if key not in self._texts:
            try:
                self._texts[key] = str(
                    self.tokenizer.apply_chat_template(
                        list(messages), tools=self.tools, tokenize=False, add_generation_prompt=prompt, **mode
                    )
                )
            except Exception:  # a template may refuse by any error
                self._texts[key] = None
        return self._texts[key]

    def text(self, k: int) -> str | None:
        """Return the rendering of the first *k* messages; None if the template refuses them."""
        return self._render("text", self.messages[:k], False)

    def prompt(self, i: int, **mode: Any) -> str | None:
        """Return the prompt that message *i* is generated from."""
        return self._render("text", self.messages[:i], True, **mode)

    def continues(self, k: int, i: int) -> bool:
        """Whether ``text(k)`` continues the prompt of message *i*, in any mode of the template."""
        text = self.text(k) or ""
        prompts = (self.prompt(i, **mode) for mode in ({}, *self._modes))
        return any(prompt is not None and text.startswith(prompt) for prompt in prompts)

    def shown_as_served(self, i: int) -> bool:
        """Whether any rendering with message *i* continues the prompt that it is generated from."""
        return any(self.continues(k, i) for k in range(i + 1, len(self.messages) + 1))

    def places(self, k: int) -> list[Place] | None:
        """Return the positions of the pieces of the messages in ``text(k)``; None if they are not certain."""
        if k not in self._places:
            tried = (self._align(disguise, k) for disguise in self._disguises)
            self._places[k] = next((found for found in tried if found is not None), None)
        return self._places[k]

    def _hidden(self, disguise: Disguise, k: int, prompt: bool = False, **mode: Any) -> list[str] | None:
        """Return the rendering of the disguised messages: literal, number of a piece, literal, ..."""
        text = self._render(disguise.name, disguise.messages[:k], prompt, **mode)
        return None if text is None else HIDDEN.split(text)

    def _align(self, disguise: Disguise, k: int) -> list[Place] | None:
        text, parts = self.text(k), self._hidden(disguise, k)
        if text is None or parts is None:
            return None
        pieces = [disguise.pieces[int(number)] for number in parts[1::2]]
        pattern = re.escape(parts[0]) + "".join(
            f"({'|'.join(map(re.escape, piece.spellings()))}){re.escape(literal)}"
            for piece, literal in zip(pieces, parts[2::2], strict=True)
        )
        match = re.fullmatch(pattern, text)
        if match is None:
            return None
        # How much shorter a literal gets without the white space of the messages tells how much of it is printed.
        before, after = (self._hidden(bare, k) for bare in self._bare[disguise])
        places = []
        for n, piece in enumerate(pieces):
            start, end = match.span(n + 1)
            left = right = 0
            if before and after and before[1::2] == after[1::2] == parts[1::2]:
                left = min(len(piece.before), max(0, len(parts[2 * n]) - len(before[2 * n])))
                right = min(len(piece.after), max(0, len(parts[2 * n + 2]) - len(after[2 * n + 2])))
            places.append(Place(piece, start, end, (start - left, end + right)))
        return places

    def _tail(self, i: int, prompt: bool = True, **mode: Any) -> str:
        """Return the text after the last piece when the first *i* messages are rendered."""
        return (self._hidden(self._disguises[0], i, prompt, **mode) or [""])[-1]

    def generation_prompt(self, i: int) -> str:
        """Return the text that ``add_generation_prompt`` adds after the first *i* messages; empty if it adds none."""
        tail = self._tail(i)
        return tail[common(tail, self._tail(i, prompt=False)) :]

    # --- one turn

    def fields(self, k: int, i: int) -> set[str]:
        """Return the parts of message *i* that are in ``text(k)``: content, reasoning, call."""
        return {place.piece.field for place in self.places(k) or () if place.piece.message == i}

    def omitted(self, i: int) -> set[str]:
        """Return the parts of message *i*, as the last one, that the template omits or cuts: content, call."""
        places = self.places(i + 1)
        if places is None:
            return set()
        found = {(place.piece.field, place.piece.text) for place in places if place.piece.message == i}
        wanted = {(piece.field, piece.text) for piece in self._disguises[1].pieces if piece.message == i}
        return {field for field, _ in wanted - found} - {"reasoning"}

    def stops_inside(self, k: int, i: int, start: int) -> bool:
        """Whether the template puts a stop token between the pieces of turn *i*, which starts at *start*."""
        text, own = self.text(k) or "", [place for place in self.places(k) or () if place.piece.message == i]
        edges = [start, *(edge for place in own for edge in (place.start, place.end))]
        literals = [text[begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=False)]
        return any(stop in literal for stop in self.ends.stops for literal in literals)

    def reading(self, k: int, i: int) -> Reading:
        """Return the spans of turn *i* in ``text(k)`` that can be defended."""
        text, places = self.text(k), self.places(k)
        assert text is not None
        if self.classifier:
            return Reading(frozenset(), "a classifier, not a chat model")
        if places is None:
            return Reading(frozenset(), "text cannot be aligned")
        own = [place for place in places if place.piece.message == i]
        if own and any(own[0].start < place.start < own[-1].end for place in places if place.piece.message != i):
            return Reading(frozenset(), "another message stands inside the turn")
        starts, how = self._starts(text, places, own, i)
        if not starts:
            return Reading(frozenset(), how)
        if not any(place.piece.text for place in own) and how == "header":
            # With an empty answer nobody can say whose the white space is that stands there.
            begin = max(starts)
            starts |= {begin + n for n in range(len(blank(text[begin:])) + 1)}
        ends, stop = self._ends(text, places, own, min(starts), k == i + 1)
        spans = frozenset((start, max(start, end)) for start in starts for end in ends)
        return Reading(spans, f"{how}; {f'stop {stop}' if stop else 'no stop'}", stop)

    def _starts(self, text: str, places: list[Place], own: list[Place], i: int) -> tuple[set[int], str]:
        prompt = self.prompt(i)
        if prompt is not None and text.startswith(prompt):
            return self._after_prompt(text, places, own, i, len(prompt))
        for mode in self._modes:
            other = self.prompt(i, **mode)
            if other is not None and text.startswith(other):
                return {len(other)}, f"prompt with {mode}"
        return self._after_header(text, places, own, i)

    def _header(self, i: int) -> str | None:
        """Return a pattern of the role header; None if the template has none."""
        if self.name in HEADERS:
            return HEADERS[self.name]
        if "[/INST]" in self.template:
            return MISTRAL
        first = 1 + (self.messages[0]["role"] == "system")
        core = SUPPLIED.sub("", self.generation_prompt(i) or self.generation_prompt(first)).strip()
        return re.escape(core) if core else None

    def _after_prompt(self, text: str, places: list[Place], own: list[Place], i: int, at: int) -> tuple[set[int], str]:
        """The text starts with the prompt, but the prompt may lack the role header."""
        if self.generation_prompt(i):
            return {at}, "prompt"
        high = own[0].outer[0] if own else min((p.start for p in places if p.start >= at), default=len(text))
        between = text[at:high]
        header = self._header(i)
        found = list(re.finditer(header, between)) if header else []
        if not found:
            return {at}, "prompt"
        behind = found[-1].end()
        starts = {at + behind + n for n in range(len(blank(between[behind:])) + 1)}
        # The template prints no header behind such messages when a prompt is requested. So the model would have to
        # produce it, but nobody asks it to: both can be defended.
        return starts | {at, at + len(blank(between))}, NO_HEADER

    def _after_header(self, text: str, places: list[Place], own: list[Place], i: int) -> tuple[set[int], str]:
        """The text does not start with the prompt: look between the message before and the turn's own text."""
        first = own[0].start if own else len(text)
        low = max((place.end for place in places if place.end <= first and place.piece.message < i), default=0)
        high = own[0].start if own else min((p.start for p in places if p.piece.message > i), default=len(text))
        latest = own[0].outer[0] if own else high
        between, tail = text[low:high], self._tail(i)
        step, core = walk(tail, between), SUPPLIED.sub("", tail)
        if step.used < len(core) and between[step.starts[0] :].strip():
            # It is not the prompt's header that stands there: look for one.
            header = self._header(i)
            found = list(re.finditer(header, between)) if header else []
            if not found:
                return set(), f"no header {header!r} in {between!r}"
            low += found[-1].end()
            between, added = text[low:high], self.generation_prompt(i)
            match = re.search(header or "", added)
            tail, core = added[match.end() :] if match else "", ""
            step = walk(tail, between) if match else Step(0, list(range(len(blank(between)) + 1)))
        starts = set(step.starts)
        thoughts = NO_THOUGHTS.match(between, step.starts[0])
        if thoughts and tail[len(core) :].strip():
            # The history has an empty block for thoughts, or its end, where the prompt has something else.
            starts |= {thoughts.end(), thoughts.start() + len(thoughts[0].rstrip())}
        if CLOSED.search(tail, len(core)) and (begin := between.find(core)) >= 0:
            # The prompt has an empty block for thoughts, and the turn has thoughts: it was generated in another mode.
            behind = begin + len(core)
            others = [other for mode in self._modes if (other := self._tail(i, **mode)).startswith(core)]
            for supplied in (blank(tail[len(core) :]), *(other[len(core) :] for other in others)):
                starts |= {behind + start for start in walk(supplied, between[behind:]).starts}
        return {low + start for start in starts if low + start <= latest} or {low + min(starts)}, "header"

    def _ends(self, text: str, places: list[Place], own: list[Place], start: int, at_end: bool) -> tuple[set[int], str]:
        last = own[-1].end if own else start
        high = min((place.start for place in places if place.start >= last and place not in own), default=len(text))
        opener = next((o for o in OPENERS.finditer(text, last, high) if o[0] not in self.ends.stops), None)
        zone = text[last : opener.start() if opener else high]
        found = [(zone.index(stop), stop) for stop in (*self.ends.stops, *self.ends.soft) if stop in zone]
        if found:
            at, stop = min(found)
            soft = {last + at} if stop in self.ends.soft else set()  # generation does not stop there: both are right
            return {last + at + len(stop), *soft}, stop
        if not any(place.piece.text for place in own):
            # Whether what the template adds to nothing is to be learned is a matter of taste.
            return {start, last, len(text.rstrip())} if at_end else {start, last}, ""
        closed = CLOSERS.match(zone)
        if closed and closed[0]:
            return {last + closed.end()}, ""
        return set(range(last, own[-1].outer[1] + 1)), ""
