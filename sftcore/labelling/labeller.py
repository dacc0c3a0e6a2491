"""Label conversations: render them, find the trained turns, and tokenize them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from sftcore.core.errors import RowError
from sftcore.core.labelling_policy import Policy
from sftcore.core.types import IGNORE_INDEX, Conversation, Message
from sftcore.labelling.fast_path.planner import Planner
from sftcore.labelling.layout import Layout
from sftcore.labelling.rendered import Boundaries, RenderedConversation, RenderedExample
from sftcore.labelling.rendering.renderer import ChatTemplate
from sftcore.labelling.spans import Span, merge_spans, reasoning_range
from sftcore.labelling.template_profile import CALLING, SAMPLES, learn_profile
from sftcore.labelling.templated_conversation import TemplatedConversation, to_template_fields
from sftcore.labelling.token_labels import LabelledConversation, LabelledExample, crosses_token, label_tokens, tokens_in
from sftcore.labelling.turns import PromptMatch, TrainedRendering, Turn, locate_turn, lost_characters
from sftcore.labelling.warnings import LabelWarning, warn_of_marks, warn_of_turn, warn_of_unprinted
from sftcore.tokenization import Encoder, EquivalenceCache, encode_text

DEFAULT = Policy()

_WORST_MATCH = {
    "served": PromptMatch.OTHER_PROMPT,
    "strict": PromptMatch.OTHER_SWITCH,
    "whole": PromptMatch.REWRITTEN_HISTORY,
}
"""The worst match of a turn that is trained, by the value of ``data.context``."""


_Rank = tuple[bool, int, bool, int]
"""How much a turn differs from inference: rewritten history, characters lost, no stop token, match."""


class Labeller:
    """Labels conversations under one tokenizer and its chat template.

    Args:
        tokenizer: a transformers tokenizer, with ``chat_template`` set.
        stops: the strings that end an assistant turn, as the files of the model declare.
        template_kwargs: further variables of the template, the same as at inference.
        source: the template; without it that of the tokenizer. If the tokenizer has several, ``apply_chat_template``
            takes ``default``, and ``tool_use`` if there are tools; so does the labeller.

    Attributes:
        with_tools: labels conversations with tools, if they have another template.
        stops: those strings, and the one found in the template if it prints none of them.
        added_ids: added tokens of the vocabulary, such as markers of roles.
        problem: the reason why no small conversation can be labelled; '' if one can.

    Raises:
        ValueError: the chat template is not valid.
    """

    def __init__(
        self,
        tokenizer: Any,
        stops: Sequence[str],
        template_kwargs: Mapping[str, Any] | None = None,
        source: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        several = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) and not source else {}
        self.template = ChatTemplate(source or several.get("default") or tokenizer.chat_template)
        self.variables = {**tokenizer.special_tokens_map, **(template_kwargs or {})}
        added = tokenizer.added_tokens_decoder
        specials = {token.content for token in added.values() if token.special} | set(tokenizer.all_special_tokens)
        specials -= {tokenizer.bos_token} - set(stops)
        self.added_ids = frozenset(added)
        self._constant_prompts: dict[str, str] = {}
        self._text_arguments = self._needs_text_arguments()
        self._profile, self.stops = learn_profile(map(self._served, SAMPLES), list(dict.fromkeys(stops)), specials)
        self._profile_turns()
        self.with_tools = (
            Labeller(tokenizer, stops, template_kwargs, several["tool_use"]) if "tool_use" in several else None
        )
        self.stops += [stop for stop in (self.with_tools.stops if self.with_tools else ()) if stop not in self.stops]
        self.planner = Planner(self.template, self.render)
        self.problem = self._find_problem()

    @property
    def template_variables(self) -> frozenset[str]:
        """The names that the template reads and does not set itself."""
        return self.template.variables | (self.with_tools.template.variables if self.with_tools else frozenset())

    @property
    def missing_prompt(self) -> str:
        """The header that the template prints before each answer, if the generation prompt has none of it."""
        return self._profile.missing_prompt

    @cached_property
    def serialized(self) -> str:
        """The fast tokenizer as JSON; the first access takes a while."""
        return str(self.tokenizer.backend_tokenizer.to_str())

    @cached_property
    def _begin_of_text(self) -> str:
        """The BOS token, if the tokenizer begins each text with it."""
        first = self.tokenizer("a")["input_ids"][0]
        return str(self.tokenizer.bos_token) if first == self.tokenizer.bos_token_id else ""

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of many texts, created on first access."""
        return Encoder(self.tokenizer, cache=EquivalenceCache(lambda _: self.serialized))

    def _profile_turns(self) -> None:
        """Complete the profile by the turns of small conversations."""
        last = next(self._sample_turns(SAMPLES, -1), None)
        ends = {calls: self._sample_turns((CALLING,) if calls else SAMPLES, -3) for calls in (False, True)}
        stops = {calls: [layout.text[slice(*turn.stop)] for layout, turn in ends[calls] if turn.stop] for calls in ends}
        plain = (*stops[False], *self.stops, "")[0]
        self._profile = self._profile._replace(
            last_turn=last and (last[1].stop is None, int(last[1].match)),
            written=last[1].text_before_content(last[0]) if last else "",
            closing=(plain, (*stops[True], plain)[0]),
        )

    def _sample_turns(self, samples: Sequence[Conversation], index: int) -> Iterator[tuple[Layout, Turn]]:
        """Yield the assistant turn at *index* of each of *samples* in which it is certain, with the layout."""
        for served in map(self._served, samples):
            at = len(served.messages) + index
            if at > 0 and served.messages[at]["role"] == "assistant":
                with suppress(RowError):
                    layout = served.layout(len(served.messages))
                    yield layout, locate_turn(served, layout, at, self._profile)

    def _needs_text_arguments(self) -> bool:
        """Whether the template prints a tool call only if its arguments are JSON text, as in the OpenAI API."""
        for text_arguments in (False, True):
            messages = [to_template_fields(message, text_arguments) for message in CALLING.messages]
            try:
                self.template.render(messages, list(CALLING.tools), **self.variables)
            except RowError:
                continue
            return text_arguments
        return False

    def _find_problem(self) -> str:
        """The reason why no small conversation can be labelled; '' if one can."""
        reasons: list[str] = []
        for sample in SAMPLES:
            try:
                done = self.label(sample)
            except RowError as error:
                reasons.append(str(error))
                continue
            if done.examples:
                return ""
            reasons += [warning.text(2) for warning, times in done.warnings.items() if times]
        return Counter(reasons).most_common(1)[0][0]

    def examples(self, conversation: Conversation, policy: Policy = DEFAULT) -> list[LabelledExample]:
        """The examples of :meth:`label`; none if nothing in *conversation* is trained."""
        return self.label(conversation, policy).examples

    def label(self, conversation: Conversation, policy: Policy = DEFAULT) -> LabelledConversation:
        """The examples of *conversation*, of any length, and its warnings.

        Raises:
            RowError: the conversation cannot be labelled with certainty.
        """
        return self.tokenize(self.render(conversation, policy))

    def tokenize(self, conversation: RenderedConversation) -> LabelledConversation:
        """Tokenize and label the examples of *conversation*.

        Raises:
            RowError: an example cannot be tokenized or labelled with certainty.
        """
        done = LabelledConversation(
            [self._example(example) for example in conversation.examples],
            Counter(conversation.warnings),
            conversation.details,
        )
        done.warnings[LabelWarning.CROSSED_BOUNDARY] += sum(
            crosses_token(turn, labelled.offsets)
            for rendered, labelled in zip(conversation.examples, done.examples, strict=True)
            for turn in rendered.positions.turns
        )
        done.longest = max((len(example.input_ids) for example in done.examples), default=0)
        return done

    def render(
        self, conversation: Conversation, policy: Policy = DEFAULT, template: ChatTemplate | None = None
    ) -> RenderedConversation:
        """The examples of *conversation* before they are tokenized, and its warnings so far.

        Args:
            template: renders the conversation in place of the template of this labeller.

        Raises:
            RowError: the conversation cannot be labelled with certainty.
        """
        if policy.plain_text:
            return self._render_text(conversation.messages[0], policy)
        if self.with_tools and conversation.tools:
            return self.with_tools.render(conversation, policy, template)
        weights = _trained_weights(conversation.messages, policy)
        served = self._served(conversation, template)
        done = RenderedConversation()
        parts = self._plan(served, weights, policy, done.warnings)
        for part in parts:
            served.verify(part.layout, part.messages)
            spans = self._spans(served, part, weights, policy)
            if not spans:
                continue
            begins = [(turn.message, turn.spans[0][0]) for turn in part.turns]
            if part is parts[0]:
                begins += [
                    (index, part.layout.own[index][0].start)
                    for index in weights
                    if conversation.messages[index].role != "assistant" and part.layout.own[index]
                ]
            positions = Boundaries(
                spans,
                sorted(begins),
                [turn.stop for turn in part.turns if turn.stop and policy.train_on_stop],
                [(turn.spans[0][0], turn.spans[-1][1]) for turn in part.turns],
            )
            boundaries = positions.map(lambda position: (0, position))
            done.examples.append(RenderedExample(part.text, part.messages, boundaries))
            warn_of_marks(part, done.warnings, done.details)
        done.examples.reverse()
        done.warnings[LabelWarning.OWN_EXAMPLE] += max(len(done.examples) - 1, 0)
        warn_of_unprinted(served, conversation, parts, done.warnings)
        return done

    def render_with_plan(self, conversation: Conversation, policy: Policy = DEFAULT) -> RenderedConversation:
        """As :meth:`render`, from a plan if conversations of this shape were rendered before."""
        planned = None if policy.plain_text else self.planner.render(conversation, policy)
        return planned or self.render(conversation, policy)

    def _render_text(self, message: Message, policy: Policy) -> RenderedConversation:
        """The content of *message* as the tokenizer begins a document, and its EOS token; all of it is trained."""
        text = f"{self._begin_of_text}{message.content}{self.tokenizer.eos_token or ''}"
        weight = 0.0 if message.train is False else message.weight * policy.weight
        spans = [(0, len(text), weight)] if weight else []
        boundaries = Boundaries(spans, [(0, 0)] if spans else [], [], [])
        return RenderedConversation([RenderedExample(text, 1, boundaries.map(lambda position: (0, position)))])

    def messages_begun(self, conversation: Conversation, messages: int, end: int) -> int:
        """Number of messages that begin before character *end* of the rendering of the first *messages*."""
        labeller = self.with_tools if self.with_tools and conversation.tools else self
        return labeller._served(conversation).layout(messages).messages_begun(end)

    def _served(self, conversation: Conversation, template: ChatTemplate | None = None) -> TemplatedConversation:
        return TemplatedConversation(
            template or self.template,
            [to_template_fields(message, self._text_arguments) for message in conversation.messages],
            list(conversation.tools) or None,
            {**self.variables, **conversation.template_kwargs},
            self._constant_prompts,
        )

    def _plan(
        self,
        served: TemplatedConversation,
        weights: Mapping[int, float],
        policy: Policy,
        warnings: Counter[LabelWarning],
    ) -> list[TrainedRendering]:
        """The renderings that are needed, the whole conversation first, with each trained turn in one of them."""
        count = len(served.messages)
        parts = [TrainedRendering(count, served.layout(count), [])]
        for index in sorted(weights, reverse=True):
            if served.messages[index]["role"] != "assistant":
                continue
            if not index:
                warnings[LabelWarning.NO_PROMPT] += 1
                continue
            part, turn = self._choose_part(served, index, parts, policy)
            if turn.match > _WORST_MATCH[policy.context]:
                warnings[LabelWarning.NOT_AS_SERVED] += 1
                continue
            if turn.needs_stop and index == part.messages - 1 and policy.train_on_stop:
                turn = turn.with_stop(self._profile.closing[bool(served.messages[index].get("tool_calls"))])
            warn_of_turn(turn, warnings)
            if any(start < end for start, end in turn.spans):  # an empty turn without a stop token has nothing to train
                part.turns.append(turn)
        return parts

    def _choose_part(
        self, served: TemplatedConversation, index: int, parts: list[TrainedRendering], policy: Policy
    ) -> tuple[TrainedRendering, Turn]:
        """The rendering in which the turn *index* is most like at inference; it may be a new one."""
        problem: RowError | None = None
        best: tuple[_Rank, TrainedRendering, Turn] | None = None
        fields = served.messages[index]
        candidates = [parts[-1], *parts[:1]] if len(parts) > 1 else parts[:1]
        for part in [*candidates, None]:
            if part is None:
                if policy.context == "whole" or any(other.messages == index + 1 for other in candidates):
                    break
                if best is not None and self._is_settled(best[0], fields):
                    break
                try:
                    part = TrainedRendering(index + 1, served.layout(index + 1), [])
                except RowError:
                    break
            try:
                turn = locate_turn(served, part.layout, index, self._profile)
            except RowError as error:
                problem = problem or error
                continue
            lost = lost_characters(turn, part.layout, fields)
            rank = (turn.match == PromptMatch.REWRITTEN_HISTORY, lost, turn.stop is None, int(turn.match))
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
        """Whether no rendering that ends with the turn would improve its *rank*: a plain turn has no better one."""
        plain = not fields.keys() & {"reasoning_content", "tool_calls"} and "<" not in fields["content"]
        return plain and self._profile.last_turn is not None and rank <= (False, 0, *self._profile.last_turn)

    def _spans(
        self, served: TemplatedConversation, part: TrainedRendering, weights: Mapping[int, float], policy: Policy
    ) -> list[Span]:
        """The trained ranges of a rendering, in order."""
        spans: list[Span] = []
        if part.messages == len(served.messages):
            base = policy.weight if policy.train_on == "all" else 0.0
            spans.append(Span(0, len(part.text), base))
            trained = {turn.message for turn in part.turns}
            for index, fields in enumerate(served.messages):
                weight = weights.get(index, 0.0)
                if fields["role"] != "assistant" and weight != base:
                    spans += [Span(piece.start, piece.end, weight) for piece in part.layout.own[index]]
                elif fields["role"] == "assistant" and base and index not in trained:
                    spans += [Span(start, end, 0.0) for start, end in self._own_ranges(served, part.layout, index)]
        for turn in part.turns:
            spans += [Span(start, end, weights[turn.message]) for start, end in turn.spans]
            if policy.reasoning == "mask" and (masked := reasoning_range(part.layout.text, turn)):
                spans.append(Span(*masked, 0.0))
            if turn.stop and not policy.train_on_stop:
                spans.append(Span(*turn.stop, 0.0))
        return merge_spans(spans)

    def _own_ranges(self, served: TemplatedConversation, layout: Layout, message: int) -> Sequence[tuple[int, int]]:
        """Ranges of the turn *message*, or of its own texts if the turn is uncertain."""
        try:
            return locate_turn(served, layout, message, self._profile).spans
        except RowError:
            return [(piece.start, piece.end) for piece in layout.own[message]]

    def _example(self, rendered: RenderedExample) -> LabelledExample:
        text, positions = rendered.text, rendered.positions
        encoded = encode_text(self.tokenizer, text)
        labels, weights = label_tokens(self.tokenizer, encoded, text, positions.spans, self.added_ids)
        return LabelledExample(
            text=text,
            input_ids=encoded.ids,
            labels=labels,
            weights=weights if any(weight != 1 for _, _, weight in positions.spans) else None,
            offsets=encoded.offsets,
            stops=[at for at in tokens_in(encoded.offsets, positions.stops) if labels[at] != IGNORE_INDEX],
            messages=rendered.messages,
            turns=tuple(message for message, _ in positions.starts),
            begins=tuple(next(tokens_in(encoded.offsets, [(start, start + 1)]), 0) for _, start in positions.starts),
        )


def _trained_weights(messages: Sequence[Message], policy: Policy) -> dict[int, float]:
    """Indices of the trained messages, with the weight of their tokens."""
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
