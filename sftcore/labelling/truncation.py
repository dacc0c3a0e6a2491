"""Truncation of examples that are longer than ``max_length``."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from functools import cache

from sftcore.core.errors import RowError
from sftcore.core.labelling_policy import Policy
from sftcore.core.types import IGNORE_INDEX, Conversation
from sftcore.labelling.labeller import Labeller
from sftcore.labelling.token_labels import LabelledConversation, LabelledExample
from sftcore.labelling.warnings import LabelWarning


class TooLongError(RowError):
    """An example is longer than ``max_length``, and the policy ends the run."""


def truncate(
    labeller: Labeller, conversation: Conversation, done: LabelledConversation, policy: Policy
) -> LabelledConversation:
    """Truncate *done*, the labels of *conversation*, so that no example is longer than ``policy.max_length``.

    Raises:
        TooLongError: an example is too long, and the policy is ``error``.
    """
    limit = policy.max_length
    if limit is None or all(len(example.input_ids) <= limit for example in done.examples):
        return done
    fitted = LabelledConversation(warnings=done.warnings, details=done.details, longest=done.longest)
    for example in done.examples:
        if len(example.input_ids) <= limit:
            fitted.examples.append(example)
        elif policy.truncation == "error":
            raise TooLongError(
                f"has {len(example.input_ids):,} tokens, more than max_length {limit:,} (truncation: error)"
            )
        elif policy.plain_text and policy.truncation != "drop_row":
            fitted.examples += _pieces(example, limit, policy, fitted)
        elif policy.truncation == "truncate_right":
            fitted.examples += _cut(labeller, conversation, example, limit, fitted)
        elif policy.truncation == "drop_turns":
            fitted.examples += _drop_exchanges(_Exchanges(labeller, conversation, example, policy), fitted)
        elif policy.truncation == "split":
            fitted.examples += _split(_Exchanges(labeller, conversation, example, policy), fitted)
        else:
            fitted.warnings[LabelWarning.TOO_LONG] += 1
    return fitted


def _pieces(example: LabelledExample, limit: int, policy: Policy, done: LabelledConversation) -> list[LabelledExample]:
    """The *example*, a plain text, in pieces of *limit* tokens; the first of them only, if the policy is to cut it."""
    if policy.truncation == "truncate_right":
        done.warnings[LabelWarning.TEXT_CUT] += 1
        return [_piece(example, 0, limit)]
    starts = range(0, len(example.input_ids), limit)
    done.warnings[LabelWarning.SPLIT_TO_FIT] += len(starts) - 1
    return [_piece(example, start, start + limit) for start in starts]


def _piece(example: LabelledExample, start: int, end: int) -> LabelledExample:
    """The tokens of *example*, a plain text, from *start* to *end*."""
    offsets = example.offsets[start:end]
    first, last = (offsets[0][0], offsets[-1][1]) if offsets else (0, None)
    return replace(
        example,
        text=example.text[first:last],
        input_ids=example.input_ids[start:end],
        labels=example.labels[start:end],
        weights=example.weights and example.weights[start:end],
        offsets=[(begin - first, stop - first) for begin, stop in offsets],
    )


def _cut(
    labeller: Labeller, conversation: Conversation, example: LabelledExample, limit: int, done: LabelledConversation
) -> list[LabelledExample]:
    """The first *limit* tokens of *example*; warns of the turn that is cut and of those after it."""
    labels = example.labels[:limit]
    if all(label == IGNORE_INDEX for label in labels):
        done.warnings[LabelWarning.TOO_LONG] += 1
        return []
    begins = [begin for begin in example.begins if begin < limit]
    done.warnings[LabelWarning.TRUNCATED] += _is_cut(example, limit)
    done.warnings[LabelWarning.AFTER_MAX_LENGTH] += len(example.begins) - len(begins)
    offsets = example.offsets[:limit]
    text, messages = example.text, example.messages
    if offsets:
        text = text[: max(end for _, end in offsets)]
        messages = labeller.messages_begun(conversation, messages, len(text))
    return [
        replace(
            example,
            text=text,
            input_ids=example.input_ids[:limit],
            labels=labels,
            weights=example.weights and example.weights[:limit],
            offsets=offsets,
            stops=[stop for stop in example.stops if stop < limit],
            messages=messages,
            turns=tuple(turn for turn, begin in zip(example.turns, example.begins, strict=True) if begin < limit),
            begins=tuple(begins),
        )
    ]


def _is_cut(example: LabelledExample, limit: int) -> bool:
    """Whether a trained turn begins before *limit* and ends after it."""
    last = max((begin for begin in example.begins if begin < limit), default=limit)
    following = min((begin for begin in example.begins if begin >= limit), default=len(example.labels))
    stop = next((stop for stop in example.stops if last <= stop < following), None)
    if stop is None:  # it has none that is trained
        return example.labels[limit - 1] != IGNORE_INDEX and example.labels[limit] != IGNORE_INDEX
    return stop >= limit


class _Exchanges:
    """Labels the system prompt and some exchanges of an example.

    An exchange is a user message and everything up to the next.
    """

    def __init__(
        self, labeller: Labeller, conversation: Conversation, example: LabelledExample, policy: Policy
    ) -> None:
        messages = conversation.messages[: example.messages]
        self.head = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
        starts = [at for at in range(self.head, len(messages)) if messages[at].role == "user"] or [self.head]
        self.boundaries = [self.head, *starts[1:], len(messages)]
        self.count = len(self.boundaries) - 1
        self.label = cache(self._label)
        self._labeller = labeller
        self._conversation = conversation
        self._policy = replace(policy, max_length=None)
        self._limit = policy.max_length or 0
        self._wanted = {*example.turns}
        if example.messages == len(conversation.messages):  # other texts are trained with the whole, and once
            self._wanted |= {at for at in range(len(messages)) if messages[at].role != "assistant"}
        elif policy.train_on == "all":
            self._policy = replace(self._policy, train_on=["assistant"])

    def _label(self, first: int, last: int) -> list[LabelledExample] | None:
        """The examples of the exchanges *first* up to *last*, or None if one of them is too long."""
        start, end = self.boundaries[first], self.boundaries[last]
        messages = self._conversation.messages
        kept = [*range(self.head), *range(start, end)]
        part = replace(
            self._conversation,
            messages=tuple(messages[at] if at in self._wanted else replace(messages[at], train=False) for at in kept),
        )
        policy = self._policy
        if policy.train_on == "last_turn":  # the last turn of the whole, wherever it is now
            policy = replace(policy, train_on=["assistant"])
        examples = self._labeller.examples(part, policy)
        if any(len(example.input_ids) > self._limit for example in examples):
            return None
        return [
            replace(example, turns=tuple(kept[at] for at in example.turns), skipped=start - self.head)
            for example in examples
            if example.trained
        ]

    def first_fitting(self) -> int:
        """The first exchange after 0 from which all fit; the number of exchanges if none does."""
        return 1 + bisect_left(range(1, self.count), True, key=lambda first: self.label(first, self.count) is not None)

    def end_fitting(self, first: int) -> int:
        """The end of the most exchanges from *first* that fit; *first* if none does."""
        ends = range(first + 1, self.count + 1)
        return first + bisect_left(ends, True, key=lambda last: self.label(first, last) is None)


def _drop_exchanges(sub: _Exchanges, done: LabelledConversation) -> list[LabelledExample]:
    """The example without as few of its oldest exchanges as possible."""
    first = sub.first_fitting()
    examples = sub.label(first, sub.count) if first < sub.count else None
    if not examples:
        done.warnings[LabelWarning.TOO_LONG] += 1
        return []
    done.warnings[LabelWarning.TURNS_DROPPED] += 1
    return examples


def _split(sub: _Exchanges, done: LabelledConversation) -> list[LabelledExample]:
    """The fewest examples, each with the system prompt and consecutive exchanges."""
    parts: list[LabelledExample] = []
    first = 0
    while first < sub.count:
        last = sub.end_fitting(first)
        if last == first:
            done.warnings[LabelWarning.TOO_LONG] += 1
            last += 1
        else:
            parts += sub.label(first, last) or []
        first = last
    done.warnings[LabelWarning.SPLIT_TO_FIT] += max(len(parts) - 1, 0)
    return parts
