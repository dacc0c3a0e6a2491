"""Hold labelled examples against the oracle, token by token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from oracle import NO_HEADER, Oracle, Reading, Span
from transformers import PreTrainedTokenizerBase

from sftcore.core.types import IGNORE_INDEX, Conversation, Message
from sftcore.labelling import LabelledExample


@dataclass
class Verdict:
    """The result of one conversation: ``outcome`` is a column of the table, ``findings`` say why."""

    outcome: str = "exact"
    findings: list[str] = field(default_factory=list)
    examples: int = 0
    needless: int = 0
    """Turns in an example of their own that the rendering of the whole conversation shows as they are served."""

    notes: dict[str, int] = field(default_factory=dict)
    """What was accepted, but is a matter of judgement."""

    def note(self, text: str) -> None:
        self.notes[text] = self.notes.get(text, 0) + 1

    def add(self, outcome: str, finding: str) -> None:
        self.findings.append(finding)
        if OUTCOMES.index(outcome) > OUTCOMES.index(self.outcome):
            self.outcome = outcome


OUTCOMES = ["exact", "not served", "not printed", "undecided", "rejected", "ids differ", "wrong"]
"""Each is worse than the one before.

not served: exact, but for turns that are not trained, since no rendering shows them behind the prompt of their own.
not printed: rejected, and the template does not print all that the assistant wrote.
"""


def conversation(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> Conversation:
    return Conversation(tuple(Message(**message) for message in messages), tuple(tools))


class Tokens:
    """A text in tokens, and which of them are trained."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str, labels: Sequence[int]) -> None:
        self.text = text
        self.trained = [label != IGNORE_INDEX for label in labels]
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        self.ids: list[int] = encoded["input_ids"]
        added = tokenizer.added_tokens_decoder
        # An added token may have swallowed white space: it belongs to where its marker is.
        self.offsets: list[Span] = [
            (start, start + max(1, len(text[start:end].rstrip()))) if token in added else (start, end)
            for token, (start, end) in zip(self.ids, encoded["offset_mapping"], strict=True)
        ]

    def at(self, window: Span) -> list[int]:
        """Return the tokens that have text in *window*."""
        low, high = window
        return [n for n, (start, end) in enumerate(self.offsets) if start < high and end > low]

    def agree(self, span: Span, numbers: Sequence[int]) -> bool:
        """Whether exactly *span* is trained, of the tokens *numbers*; a token may lie across either end."""
        low, high = span
        for number in numbers:
            start, end = self.offsets[number]
            across = start < low < end or start < high < end
            if not across and self.trained[number] != (start >= low and end <= high):
                return False
        return True

    def shown(self, window: Span) -> str:
        """Return the text around *window* with what is trained in «»."""
        low, high = max(0, window[0] - 30), min(len(self.text), window[1] + 30)
        learned = [False] * (len(self.text) + 1)
        for (start, end), trained in zip(self.offsets, self.trained, strict=True):
            if trained:
                learned[start:end] = [True] * (end - start)
        shown = "«" if learned[low] else ""
        for at in range(low, high):
            if at > low and learned[at] != learned[at - 1]:
                shown += "«" if learned[at] else "»"
            shown += self.text[at]
        return repr(shown)


def window(reading: Reading) -> Span:
    return min(start for start, _ in reading.spans), max(end for _, end in reading.spans)


def accepted(tokens: Tokens, reading: Reading) -> Span | None:
    """Return the span of *reading* that is trained, or None."""
    numbers = tokens.at(window(reading))
    return next((span for span in sorted(reading.spans) if tokens.agree(span, numbers)), None)


def not_served(oracle: Oracle, k: int, i: int) -> str:
    """Say why turn *i* may not be trained in the first *k* messages; empty if it may.

    The model is served the prompt of the turn. Where the rendering that ends with the turn continues that prompt, the
    one it is trained in has to do so too, with all of the turn's own text, and the same stop token if there is one.
    """
    if k == i + 1 or oracle.text(i + 1) is None:
        return ""
    if oracle.continues(i + 1, i) and not oracle.continues(k, i):
        return "does not continue the prompt that the model is served"
    if lost := oracle.fields(i + 1, i) - oracle.fields(k, i):
        return f"lost its {', '.join(sorted(lost))}"
    stop, other = oracle.reading(i + 1, i).stop, oracle.reading(k, i).stop
    return f"ends with {other!r} instead of {stop!r}" if stop and stop != other else ""


def judge(
    oracle: Oracle, tokenizer: PreTrainedTokenizerBase, examples: Sequence[LabelledExample], served: bool
) -> Verdict:
    """Hold the examples of one conversation against the oracle."""
    whole = len(oracle.messages)
    verdict = Verdict(examples=len(examples))
    claims = Counter(i for example in examples for i in example.turns)
    for example in examples:
        _judge_example(oracle, tokenizer, example, served, verdict)
    if not served and [example.messages for example in examples] != [whole]:
        verdict.add("wrong", "context whole is not one example of all messages")
    for i, message in enumerate(oracle.messages):
        if message["role"] != "assistant" or claims[i] == 1:
            continue
        if claims[i]:
            verdict.add("wrong", f"turn {i} is trained {claims[i]} times")
        elif oracle.omitted(i):
            verdict.add("undecided", f"turn {i} is not trained; the template leaves it out")
        elif oracle.classifier:
            verdict.add("undecided", f"turn {i} is not trained; a classifier, not a chat model")
        elif not any(message.get(key) for key in ("content", "reasoning_content", "tool_calls")):
            if all(start < end for start, end in oracle.reading(i + 1, i).spans):
                verdict.add("undecided", f"turn {i} is not trained; it is empty, but for what the template adds")
        elif served and not oracle.shown_as_served(i):
            verdict.add("not served", f"turn {i} is not trained; no rendering continues its prompt")
        else:
            verdict.add("wrong", f"turn {i} is never trained")
    return verdict


def _judge_example(
    oracle: Oracle, tokenizer: PreTrainedTokenizerBase, example: LabelledExample, served: bool, verdict: Verdict
) -> None:
    k = example.messages
    text = oracle.text(k) or ""
    expected = list(tokenizer.apply_chat_template(oracle.messages[:k], tools=oracle.tools, tokenize=True)["input_ids"])
    stop = added_stop(oracle, k, example)
    if stop:  # the ids before it are those of the text before it
        text = example.text
        before = tokenizer(text.removesuffix(stop), add_special_tokens=False)["input_ids"]
        expected = [*before, *tokenizer(stop, add_special_tokens=False)["input_ids"][-1:]]
    if example.text != text or list(example.input_ids) != expected:
        verdict.add("ids differ", f"messages[:{k}]: {example.text!r} instead of {text!r}")
        return
    tokens = Tokens(tokenizer, text, example.labels)
    assert tokens.ids == expected
    if any(label not in (IGNORE_INDEX, token) for label, token in zip(example.labels, expected, strict=True)):
        verdict.add("wrong", f"messages[:{k}]: a label is another token than its input")
    readings = {i: oracle.reading(k, i) for i in example.turns}
    if stop and readings[k - 1].decided:
        readings[k - 1] = stopped(readings[k - 1], text, stop)
        verdict.note("a stop token is added to the last turn")
    for i, reading in readings.items():
        if reading.decided:
            _judge_turn(oracle, tokens, k, i, reading, served, verdict)
        else:
            verdict.add("undecided", f"messages[:{k}], turn {i}: {reading.why}")
    if not all(reading.decided for reading in readings.values()):
        return
    claimed = {number for reading in readings.values() for number in tokens.at(window(reading))}
    if stray := [n for n, trained in enumerate(tokens.trained) if trained and n not in claimed]:
        shown = tokens.shown((tokens.offsets[stray[0]][0], tokens.offsets[stray[-1]][1]))
        verdict.add("wrong", f"messages[:{k}]: trained outside turns {tuple(readings)}: {shown}")


def added_stop(oracle: Oracle, k: int, example: LabelledExample) -> str:
    """Return the stop token at the end of *example* if the template prints none after its last turn, else ''."""
    printed = oracle.text(k) or ""
    if example.text == printed or k - 1 not in example.turns:
        return ""
    ends = [stop for stop in oracle.ends.stops if example.text.endswith(stop)]
    fits = [stop for stop in ends if printed.rstrip() == example.text.removesuffix(stop).rstrip()]
    return fits[0] if fits and not oracle.reading(k, k - 1).stop else ""


def stopped(reading: Reading, text: str, stop: str) -> Reading:
    """Return *reading* with the end that has *stop*; white space may be before it."""
    last = len(text) - len(stop)
    spans = frozenset((start, len(text)) for start, end in reading.spans if not text[end:last].strip())
    return replace(reading, spans=spans, stop=stop)


def _judge_turn(
    oracle: Oracle, tokens: Tokens, k: int, i: int, reading: Reading, served: bool, verdict: Verdict
) -> None:
    where = f"messages[:{k}], turn {i}"
    span = accepted(tokens, reading)
    if span is None:
        wanted = sorted({tokens.text[start:end] for start, end in reading.spans}, key=len)
        shown = tokens.shown(window(reading))
        verdict.add("wrong", f"{where} ({reading.why}): oracle {wanted!r}, labelled {shown}")
        return
    for part in oracle.omitted(i):
        verdict.note(f"the template does not print the {part} of a turn that is trained")
    if reading.why.startswith(NO_HEADER) and span[0] == window(reading)[0]:
        verdict.note("the role header is trained, because the prompt lacks it")
    if oracle.stops_inside(k, i, span[0]):
        verdict.note("the template puts a stop token inside the turn, and all of it is trained")
    if not served:
        return
    if problem := not_served(oracle, k, i):
        verdict.add("wrong", f"{where} {problem}: {tokens.text[slice(*span)]!r}")
    elif not _same_as_last(oracle, k, i, span):
        verdict.note("the turn is printed differently than as the last one (an empty block for thoughts)")
    elif k < len(oracle.messages) and not not_served(oracle, len(oracle.messages), i):
        verdict.needless += 1


def _same_as_last(oracle: Oracle, k: int, i: int, span: Span) -> bool:
    """Whether a turn is printed as it would be as the last one, apart from a stop token that is not printed there."""
    last, said = oracle.text(i + 1), (oracle.text(k) or "")[slice(*span)]
    alone = oracle.reading(i + 1, i)
    if last is None or not alone.decided:
        return True
    texts = [last[start:end] for start, end in alone.spans]
    return said in texts or (not alone.stop and any(said.startswith(text.rstrip()) for text in texts))


def omits_text(oracle: Oracle) -> bool:
    """Whether the template omits something that the assistant wrote."""
    return any(oracle.omitted(i) for i, message in enumerate(oracle.messages) if message["role"] == "assistant")
