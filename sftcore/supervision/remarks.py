"""What a person should know about labelled rows, counted."""

from __future__ import annotations

from enum import Enum


class Remark(Enum):
    """A remark; its value is what is said, after the number of times."""

    SPLIT = "examples more than rows: turns that read otherwise later in their conversation are trained apart"
    SWITCHED = "turns are as the model is served with another setting of the template's thinking switch"
    CLOSEST = "turns are printed after another generation prompt than the model is served with"
    REWRITTEN = "turns are trained after earlier messages that read otherwise than when the turn was served"
    NOT_AS_SERVED = (
        "turns are not trained: no rendering shows them as they are served (data.context: whole trains them)"
    )
    FIRST = "assistant messages are not trained, because they come first and so have no prompt"
    HEADED = "turns are trained with their header, because the template's prompt leaves it to the model"
    NO_STOP = "turns end without a stop token, because the template prints none there"
    MERGED = "turns begin or end within a token, which the model would see or write as other tokens when it is served"
    NO_SYSTEM = "system prompts are printed nowhere by this chat template"
    NO_USER = "user messages are printed nowhere by this chat template"
    NO_RESULT = "tool results are printed nowhere by this chat template"
    NO_REASONING = "turns have reasoning that this chat template does not print"
    PARTLY = "turns of which this chat template prints only a part"
    NO_CONTENT = "turns with a tool call also have text, which this chat template does not print"
    NO_TOOLS = "rows have tools, which this chat template does not print"
    MARKS = "turns for which the template's own {% generation %} marks say otherwise"
    CUT = "turns were cut at max_length, and lost their stop token"
    SHORTENED = "examples lost their oldest exchanges, and the turns in them, to fit max_length"
    PARTED = "examples more than rows: long conversations are split, to fit max_length"
    TOO_LONG = "examples were dropped, because they are longer than max_length"
