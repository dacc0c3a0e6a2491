"""The built-in data formats."""

from sftcore import FormatSpec, hookimpl

QUESTION = ("question", "query", "prompt", "instruction", "input", "problem", "task", "request", "user", "human", "q")
ANSWER = ("answer", "response", "completion", "output", "reply", "solution", "target", "assistant", "bot", "gpt", "a")
QUESTIONS = (*QUESTION, "text", "sentence", "document", "passage", "article", "src")
ANSWERS = (*ANSWER, "chosen", "generated_solution", "expected_output", "label", "summary", "highlights", "tgt")
CONTEXT = ("context", "passage", "passages", "background", "knowledge", "evidence", "documents")
CHAT = ("messages", "conversation", "dialog", "dialogue", "chat", "turns", "thread", "trajectory")
TEXT = ("content", "document", "body", "passage", "article", "story", "code")
CHOICES = ("choices", "options")


def _pair(target: str, question: str, answer: str, without: tuple[str, ...] = ()) -> FormatSpec:
    similar = (
        {question: QUESTIONS, answer: ANSWERS, "input": CONTEXT}
        if (question, answer) == ("instruction", "output")
        else {}
    )
    without = ("messages", *CHOICES, *without)
    return FormatSpec(f"sftcore_plugins.formats.{target}", [question, answer], without, similar)


@hookimpl
def register_formats() -> dict[str, FormatSpec]:
    here = "sftcore_plugins.formats"
    return {
        "messages": FormatSpec(f"{here}.messages:Messages", keys=["messages"], synonyms={"messages": CHAT}),
        "sharegpt": FormatSpec(f"{here}.sharegpt:ShareGPT", keys=["conversations"]),
        "qa": _pair("qa:QA", "input", "output", ("instruction", "context")),
        "prompt_completion": _pair("qa:PromptCompletion", "prompt", "completion"),
        "prompt_response": _pair("qa:PromptResponse", "prompt", "response"),
        "question_answer": _pair("qa:QuestionAnswer", "question", "answer", ("context",)),
        "query_response": _pair("qa:QueryResponse", "query", "response"),
        "instruction": _pair("instruction:Instruction", "instruction", "output"),
        "alpaca": _pair("alpaca:Alpaca", "instruction", "response"),
        "agent_trace": FormatSpec(f"{here}.agent_trace:AgentTrace", keys=["traces"]),
        "completion": FormatSpec(
            f"{here}.completion:Completion",
            keys=["text"],
            without=["messages", "conversations", *QUESTION, *ANSWERS],
            synonyms={"text": TEXT},
        ),
    }
