"""What a person should know about labelled rows, counted."""

from __future__ import annotations

from enum import Enum


class Remark(Enum):
    """A remark; its value is what is said after the number of times, and ``one`` the same after 1."""

    one: str

    def __new__(cls, many: str, one: str) -> Remark:
        """Return the remark with both of its texts."""
        remark = object.__new__(cls)
        remark._value_ = many
        remark.one = one
        return remark

    def said(self, times: int) -> str:
        """Return the remark with its number."""
        return f"{times:,} {self.one if times == 1 else self.value}"

    SPLIT = (
        "examples more than rows: turns that read otherwise later in their conversation are trained apart",
        "example more than rows: a turn that reads otherwise later in its conversation is trained apart",
    )
    SWITCHED = (
        "turns are as the model is served with another setting of the template's thinking switch",
        "turn is as the model is served with another setting of the template's thinking switch",
    )
    CLOSEST = (
        "turns are printed after another generation prompt than the model is served with",
        "turn is printed after another generation prompt than the model is served with",
    )
    REWRITTEN = (
        "turns are trained after earlier messages that read otherwise than when the turn was served",
        "turn is trained after earlier messages that read otherwise than when the turn was served",
    )
    NOT_AS_SERVED = (
        "turns are not trained: no rendering shows them as they are served (data.context: whole trains them)",
        "turn is not trained: no rendering shows it as it is served (data.context: whole trains it)",
    )
    FIRST = (
        "assistant messages are not trained, because they come first and so have no prompt",
        "assistant message is not trained, because it comes first and so has no prompt",
    )
    HEADED = (
        "turns are trained with their header, because the template's prompt leaves it to the model",
        "turn is trained with its header, because the template's prompt leaves it to the model",
    )
    NO_STOP = (
        "turns end without a stop token, because the template prints none there",
        "turn ends without a stop token, because the template prints none there",
    )
    MERGED = (
        "turns begin or end within a token, which the model would see or write as other tokens when it is served",
        "turn begins or ends within a token, which the model would see or write as other tokens when it is served",
    )
    NO_SYSTEM = (
        "system prompts are printed nowhere by this chat template",
        "system prompt is printed nowhere by this chat template",
    )
    NO_USER = (
        "user messages are printed nowhere by this chat template",
        "user message is printed nowhere by this chat template",
    )
    NO_RESULT = (
        "tool results are printed nowhere by this chat template",
        "tool result is printed nowhere by this chat template",
    )
    NO_REASONING = (
        "turns have reasoning that this chat template does not print",
        "turn has reasoning that this chat template does not print",
    )
    PARTLY = (
        "turns of which this chat template prints only a part",
        "turn of which this chat template prints only a part",
    )
    NO_CONTENT = (
        "turns with a tool call also have text, which this chat template does not print",
        "turn with a tool call also has text, which this chat template does not print",
    )
    NO_TOOLS = (
        "rows have tools, which this chat template does not print",
        "row has tools, which this chat template does not print",
    )
    MARKS = (
        "turns for which the template's own {% generation %} marks say otherwise",
        "turn for which the template's own {% generation %} marks say otherwise",
    )
    CUT = (
        "turns were cut at max_length, and lost their stop token",
        "turn was cut at max_length, and lost its stop token",
    )
    BEYOND = (
        "turns stand behind max_length, and are not trained",
        "turn stands behind max_length, and is not trained",
    )
    SHORTENED = (
        "examples lost their oldest exchanges, and the turns in them, to fit max_length",
        "example lost its oldest exchanges, and the turns in them, to fit max_length",
    )
    PARTED = (
        "examples more than rows: long conversations are split, to fit max_length",
        "example more than rows: a long conversation is split, to fit max_length",
    )
    TOO_LONG = (
        "examples were dropped, because they are longer than max_length",
        "example was dropped, because it is longer than max_length",
    )
