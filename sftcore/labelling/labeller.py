"""From a conversation to labelled examples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from sftcore.core.errors import RowError
from sftcore.core.labelling_policy import Policy
from sftcore.core.types import IGNORE_INDEX, Conversation, Message
from sftcore.labelling.fast_path.planner import Planner
from sftcore.labelling.layout import Layout
from sftcore.labelling.rendered import Boundaries, Place, RenderedConversation, RenderedExample
from sftcore.labelling.rendering.provenance import CONTENT, REASONING
from sftcore.labelling.rendering.renderer import ChatTemplate
from sftcore.labelling.spans import Span, painted, reasoning_range
from sftcore.labelling.template_profile import CALLING, SAMPLES, learn
from sftcore.labelling.token_labels import label_tokens, tokens_in
from sftcore.labelling.turns import Fit, Served, Turn, find_turn, lost_text, shows
from sftcore.labelling.warnings import LabelWarning
from sftcore.tokenization import Encoder, EquivalenceCache, encode_text


@dataclass(frozen=True)
class Labelled:
    """One example: the rendering of a conversation, or of its beginning, as labelled tokens.

    Attributes:
        text: the rendering, exactly as the chat template gives it.
        input_ids: its tokens, exactly as ``apply_chat_template`` gives them.
        labels: each token, or ``IGNORE_INDEX`` where it is not trained.
        weights: what each token weighs in the loss, 0 where it is not trained; None where each trained one weighs 1.
        offsets: the range of characters of each token in *text*; empty for a tokenizer that does not tell.
        stops: the positions of trained stop tokens.
        messages: how many messages are in it, from the first that is.
        turns: the messages that are trained in it, counted from 0 in the whole conversation.
        begins: the position of the first trained token of each of *turns*.
        skipped: how many messages were left out before the first (after the system prompt), to fit the length.
    """

    text: str
    input_ids: list[int]
    labels: list[int]
    weights: list[float] | None
    offsets: list[tuple[int, int]]
    stops: list[int]
    messages: int
    turns: tuple[int, ...]
    begins: tuple[int, ...] = ()
    skipped: int = 0

    @property
    def trained(self) -> int:
        """The number of trained tokens."""
        return sum(label != IGNORE_INDEX for label in self.labels)


@dataclass
class Labelling:
    """The examples of one conversation, and its warnings."""

    examples: list[Labelled] = field(default_factory=list)
    warnings: Counter[LabelWarning] = field(default_factory=Counter)
    details: dict[LabelWarning, str] = field(default_factory=dict)
    """For some warnings, the first case."""
    longest: int = 0
    """The number of tokens of the longest example, before any is made to fit."""


DEFAULT = Policy()

_WORST_FIT = {"served": Fit.CLOSEST, "strict": Fit.SWITCHED, "whole": Fit.REWRITTEN}
"""How badly what comes before a turn may fit for it to be trained."""


_Rank = tuple[bool, int, bool, int]
"""How badly a turn reads in a rendering: rewritten, characters lost, no stop token, fit."""


class _Part(NamedTuple):
    """A rendering of the first *messages* messages, and the turns that are trained in it."""

    messages: int
    layout: Layout
    turns: list[Turn]


class Labeller:
    """Labels conversations under one tokenizer and its chat template.

    Args:
        tokenizer: a transformers tokenizer, with ``chat_template`` set.
        stops: the strings that end an assistant turn, as the files of the model say.
        template_kwargs: further variables of the template, the same as at serving time.

    Attributes:
        stops: those strings, and the one that was found in the template if it prints none of them.
        added_ids: the tokens that were added to the vocabulary, such as markers of roles.
        problem: why no small conversation can be labelled under the template; '' if one can.

    Raises:
        ValueError: the chat template is not valid.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], template_kwargs: Mapping[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer.chat_template)
        self.variables = {**tokenizer.special_tokens_map, **(template_kwargs or {})}
        added = tokenizer.added_tokens_decoder
        specials = {token.content for token in added.values() if token.special} | set(tokenizer.all_special_tokens)
        specials -= {tokenizer.bos_token} - set(stops)
        self.added_ids = frozenset(added)
        self._constant_prompts: dict[str, str] = {}
        samples = [([as_template_gets_it(message) for message in turns], tools) for turns, tools in SAMPLES]
        self._habits, self.stops = learn(self.template, samples, self.variables, list(dict.fromkeys(stops)), specials)
        self._text_arguments = self._wants_text_arguments()
        self._habits = self._habits._replace(last=self._last_turn())
        self.planner = Planner(self.template, self.render, self._fields, self.variables)
        self.problem = self._find_problem()

    @cached_property
    def serialized(self) -> str:
        """The tokenizer, a fast one, as its file has it; takes a while to be written for the first time."""
        return str(self.tokenizer.backend_tokenizer.to_str())

    @cached_property
    def encoder(self) -> Encoder:
        """What tokenizes many texts at once; made when it is first asked for."""
        return Encoder(self.tokenizer, cache=EquivalenceCache(lambda _: self.serialized))

    def _fields(self, message: Message) -> dict[str, Any]:
        return as_template_gets_it(message, self._text_arguments)

    def _last_turn(self) -> tuple[bool, int] | None:
        """Return how the last turn of a small conversation reads, as :class:`Habits` keeps it."""
        for messages, tools in SAMPLES:
            fields = [as_template_gets_it(message) for message in messages]
            served = Served(self.template, fields, tools, self.variables, self._constant_prompts)
            try:
                turn = find_turn(served, served.layout(len(fields)), len(fields) - 1, self._habits)
            except RowError:
                continue
            return turn.stop is None, int(turn.fit)
        return None

    def _wants_text_arguments(self) -> bool:
        """Tell whether the template prints a tool call only if its arguments are JSON text, as OpenAI has them."""
        for text_arguments in (False, True):
            messages = [as_template_gets_it(message, text_arguments) for message in CALLING[0]]
            try:
                self.template.render(messages, CALLING[1], **self.variables)
            except RowError:
                continue
            return text_arguments
        return False

    def _find_problem(self) -> str:
        """Return why no small conversation can be labelled under the template; '' if one can."""
        reasons: list[str] = []
        for messages, tools in SAMPLES:
            try:
                done = self.label(Conversation(messages, tuple(tools or ())))
            except RowError as error:
                reasons.append(str(error))
                continue
            if done.examples:
                return ""
            reasons += [warning.text(2) for warning, times in done.warnings.items() if times]
        return Counter(reasons).most_common(1)[0][0]

    def examples(self, conversation: Conversation, policy: Policy = DEFAULT) -> list[Labelled]:
        """Return the examples of *conversation*; none if nothing in it is to be trained.

        Raises:
            RowError: it cannot be labelled with certainty.
        """
        return self.label(conversation, policy).examples

    def label(self, conversation: Conversation, policy: Policy = DEFAULT) -> Labelling:
        """Return the examples of *conversation*, of any length, and its warnings.

        Raises:
            RowError: it cannot be labelled with certainty.
        """
        return self.tokenize(self.render(conversation, policy))

    def tokenize(self, conversation: RenderedConversation) -> Labelling:
        """Return the examples of *conversation*, tokenized, and its warnings.

        Raises:
            RowError: an example cannot be tokenized, or not labelled with certainty.
        """
        done = Labelling(
            [self._example(example) for example in conversation.examples],
            Counter(conversation.warnings),
            conversation.details,
        )
        done.warnings[LabelWarning.CROSSED_BOUNDARY] += sum(
            _is_merged(turn, labelled.offsets)
            for rendered, labelled in zip(conversation.examples, done.examples, strict=True)
            for turn in rendered.positions.turns
        )
        done.longest = max((len(example.input_ids) for example in done.examples), default=0)
        return done

    def render(
        self, conversation: Conversation, policy: Policy = DEFAULT, template: ChatTemplate | None = None
    ) -> RenderedConversation:
        """Return the examples of *conversation* before they are tokenized, and its warnings so far.

        Args:
            template: renders the conversation in place of the template of this labeller.

        Raises:
            RowError: it cannot be labelled with certainty.
        """
        weights = _chosen(conversation.messages, policy)
        served = self._served(conversation, template)
        done = RenderedConversation()
        parts = self._plan(served, conversation.messages, weights, policy, done.warnings)
        for part in parts:
            served.verify(part.layout, part.messages)
            spans = self._spans(served, part, conversation.messages, weights, policy, whole=part is parts[0])
            if not spans:
                continue
            begins = [(turn.message, turn.spans[0][0]) for turn in part.turns]
            if part is parts[0]:
                begins += [
                    (index, part.layout.own[index][0].start)
                    for index in weights
                    if conversation.messages[index].role != "assistant" and part.layout.own[index]
                ]
            boundaries = Boundaries(
                [((0, start), (0, end), weight) for start, end, weight in spans],
                [(message, (0, start)) for message, start in sorted(begins)],
                [_as_places(*turn.stop) for turn in part.turns if turn.stop and policy.train_on_stop],
                [_as_places(turn.spans[0][0], turn.spans[-1][1]) for turn in part.turns],
            )
            done.examples.append(RenderedExample(part.layout.text, part.messages, boundaries))
            _compare_marks(part, done)
        done.examples.reverse()
        done.warnings[LabelWarning.OWN_EXAMPLE] += max(len(done.examples) - 1, 0)
        _warn_of_unprinted(served, conversation, parts, done.warnings)
        return done

    def render_with_plan(self, conversation: Conversation, policy: Policy = DEFAULT) -> RenderedConversation:
        """Return what :meth:`render` does; from a plan, where others of its shape were rendered before.

        Raises:
            RowError: it cannot be labelled with certainty.
        """
        return self.planner.render(conversation, policy) or self.render(conversation, policy)

    def begun(self, conversation: Conversation, messages: int, end: int) -> int:
        """Return how many messages have begun before character *end*, where the first *messages* are rendered."""
        return self._served(conversation).layout(messages).begun(end)

    def _served(self, conversation: Conversation, template: ChatTemplate | None = None) -> Served:
        return Served(
            template or self.template,
            [self._fields(message) for message in conversation.messages],
            list(conversation.tools) or None,
            {**self.variables, **conversation.template_kwargs},
            self._constant_prompts,
        )

    def _plan(
        self,
        served: Served,
        messages: Sequence[Message],
        weights: Mapping[int, float],
        policy: Policy,
        warnings: Counter[LabelWarning],
    ) -> list[_Part]:
        """Return the renderings that are needed, the whole conversation first, with each turn in one of them."""
        parts = [_Part(len(messages), served.layout(len(messages)), [])]
        for index in sorted(weights, reverse=True):
            if messages[index].role != "assistant":
                continue
            if not index:
                warnings[LabelWarning.NO_PROMPT] += 1
                continue
            part, turn = self._place(served, index, parts, policy)
            if turn.fit > _WORST_FIT[policy.context]:
                warnings[LabelWarning.NOT_AS_SERVED] += 1
                continue
            _warn_of_turn(turn, warnings)
            if any(start < end for start, end in turn.spans):  # an empty turn without a stop token has nothing to train
                part.turns.append(turn)
        return parts

    def _place(self, served: Served, index: int, parts: list[_Part], policy: Policy) -> tuple[_Part, Turn]:
        """Return the rendering in which the turn *index* reads most as it is served; it may be a new one."""
        problem: RowError | None = None
        best: tuple[_Rank, _Part, Turn] | None = None
        fields = served.messages[index]
        candidates = [parts[-1], *parts[:1]] if len(parts) > 1 else parts[:1]
        for part in [*candidates, None]:
            if part is None:
                if policy.context == "whole" or any(other.messages == index + 1 for other in candidates):
                    break
                if best is not None and self._is_settled(best[0], fields):
                    break
                try:
                    part = _Part(index + 1, served.layout(index + 1), [])
                except RowError:
                    break
            try:
                turn = find_turn(served, part.layout, index, self._habits)
            except RowError as error:
                problem = problem or error
                continue
            lost = lost_text(turn, part.layout, fields)
            rank = (turn.fit == Fit.REWRITTEN, lost, turn.stop is None, int(turn.fit))
            if best is None or rank < best[0]:
                best = rank, part, turn
            if rank == (False, 0, False, 0):
                break
        if best is None:
            assert problem is not None
            raise problem
        _, part, turn = best
        if part not in parts:
            parts.append(part)
        return part, turn

    def _is_settled(self, rank: _Rank, fields: Mapping[str, Any]) -> bool:
        """Tell whether a turn of *rank* would read no better as the last one: no plain turn of the template does."""
        plain = not fields.keys() & {"reasoning_content", "tool_calls"} and "<" not in fields["content"]
        return plain and self._habits.last is not None and rank <= (False, 0, *self._habits.last)

    def _spans(
        self,
        served: Served,
        part: _Part,
        messages: Sequence[Message],
        weights: Mapping[int, float],
        policy: Policy,
        whole: bool,
    ) -> list[Span]:
        """Return the trained ranges of a rendering, with their weights, in order."""
        spans: list[Span] = []
        if whole and policy.train_on == "all":
            spans.append(Span(0, len(part.layout.text), policy.weight))
            here = {turn.message for turn in part.turns}
            for index, message in enumerate(messages):
                if message.role != "assistant" and weights.get(index) != policy.weight:
                    own = part.layout.own[index]
                    spans += [Span(piece.start, piece.end, weights.get(index, 0.0)) for piece in own]
                elif message.role == "assistant" and index not in here:
                    spans += [Span(start, end, 0.0) for start, end in self._own_ranges(served, part.layout, index)]
        elif whole:
            for index, weight in weights.items():
                if messages[index].role != "assistant":
                    spans += [Span(piece.start, piece.end, weight) for piece in part.layout.own[index]]
        for turn in part.turns:
            spans += [Span(start, end, weights[turn.message]) for start, end in turn.spans]
            if policy.reasoning == "mask" and (masked := reasoning_range(part.layout.text, turn)):
                spans.append(Span(*masked, 0.0))
            if turn.stop and not policy.train_on_stop:
                spans.append(Span(*turn.stop, 0.0))
        return painted(spans)

    def _own_ranges(self, served: Served, layout: Layout, message: int) -> Sequence[tuple[int, int]]:
        """Return the ranges of the turn *message*, or of no more than its texts where the turn is uncertain."""
        try:
            return find_turn(served, layout, message, self._habits).spans
        except RowError:
            return [(piece.start, piece.end) for piece in layout.own[message]]

    def _example(self, rendered: RenderedExample) -> Labelled:
        text, positions = rendered.text, rendered.positions
        encoded = encode_text(self.tokenizer, text)
        labels, weights = label_tokens(self.tokenizer, encoded, text, positions.spans, self.added_ids)
        return Labelled(
            text=text,
            input_ids=encoded.ids,
            labels=labels,
            weights=weights if rendered.is_weighted else None,
            offsets=encoded.offsets,
            stops=[at for at in tokens_in(encoded.offsets, positions.stops) if labels[at] != IGNORE_INDEX],
            messages=rendered.messages,
            turns=tuple(message for message, _ in positions.starts),
            begins=tuple(next(tokens_in(encoded.offsets, [(start, start + 1)]), 0) for _, start in positions.starts),
        )


def _chosen(messages: Sequence[Message], policy: Policy) -> dict[int, float]:
    """Return the messages that are trained, with what their tokens weigh."""
    wanted = policy.train_on
    last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=-1)
    chosen: dict[int, float] = {}
    for index, message in enumerate(messages):
        if message.train is not None:
            train = message.train
        elif wanted == "last_turn":
            train = index == last
        elif wanted == "all":
            train = True
        else:
            train = message.role in ([wanted] if isinstance(wanted, str) else wanted)
        if train and message.weight * policy.weight > 0:
            chosen[index] = message.weight * policy.weight
    return chosen


def as_template_gets_it(message: Message, text_arguments: bool = False) -> dict[str, Any]:
    """Return the fields of *message* as ``apply_chat_template`` hands them on."""
    fields = message.to_dict()
    if text_arguments and "tool_calls" in fields:
        fields["tool_calls"] = [_with_text_arguments(call) for call in fields["tool_calls"]]
    if "reasoning_content" in fields:  # transformers fills the name that gpt-oss templates read
        fields = {"thinking": fields["reasoning_content"], **fields}
    return fields


def _with_text_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    if isinstance(function["arguments"], str):
        return dict(call)
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def _warn_of_turn(turn: Turn, warnings: Counter[LabelWarning]) -> None:
    if turn.fit == Fit.SWITCHED:
        warnings[LabelWarning.OTHER_SWITCH] += 1
    elif turn.fit == Fit.CLOSEST:
        warnings[LabelWarning.OTHER_PROMPT] += 1
    elif turn.fit == Fit.REWRITTEN:
        warnings[LabelWarning.REWRITTEN_HISTORY] += 1
    if turn.stop is None:
        warnings[LabelWarning.NO_STOP] += 1
    warnings[LabelWarning.HEADER_TRAINED] += turn.headed


def _warn_of_unprinted(
    served: Served, conversation: Conversation, parts: list[_Part], warnings: Counter[LabelWarning]
) -> None:
    """Warn of what the template prints nowhere."""
    nowhere = {"system": LabelWarning.NO_SYSTEM, "user": LabelWarning.NO_USER, "tool": LabelWarning.NO_RESULT}
    for index, message in enumerate(conversation.messages):
        if message.role in nowhere and message.content.strip() and not parts[0].layout.own[index]:
            warnings[nowhere[message.role]] += 1
    for part in parts:
        for turn in part.turns:
            message = conversation.messages[turn.message]
            if message.reasoning_content and not shows(turn, REASONING):
                warnings[LabelWarning.NO_REASONING] += 1
            elif message.tool_calls and message.content.strip() and not shows(turn, CONTENT):
                warnings[LabelWarning.NO_CONTENT] += 1
            elif lost_text(turn, part.layout, served.messages[turn.message]):
                warnings[LabelWarning.PARTLY_PRINTED] += 1
    if conversation.tools and not served.reads_tools(parts[0].layout.text):
        warnings[LabelWarning.NO_TOOLS] += 1


def _as_places(start: int, end: int) -> tuple[Place, Place]:
    return (0, start), (0, end)


def _is_merged(edges: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> bool:
    """Tell whether a token reaches over the beginning or the end of a turn."""
    return any(
        offsets[at][0] < border < offsets[at][1]
        for border in edges
        for at in tokens_in(offsets, [(border, border + 1)])
    )


def _compare_marks(part: _Part, done: RenderedConversation) -> None:
    """Warn where the template's own ``{% generation %}`` marks say otherwise."""
    text, marked = part.layout.text, part.layout.marked
    for turn in part.turns if marked else ():
        for start, end in turn.spans:
            theirs = [text[first:last] for first, last in marked if first < end and start < last]
            if not any(their.strip() == text[start:end].strip() for their in theirs):
                done.warnings[LabelWarning.OTHER_MARKS] += 1
                shown = f"they have {theirs[0][-40:]!r}" if theirs else "they leave it out"
                done.details.setdefault(LabelWarning.OTHER_MARKS, f"trained {text[start:end][-40:]!r}, {shown}")
                break
