"""The built-in data formats."""

from sftcore import FormatSpec, hookimpl


@hookimpl
def register_formats() -> dict[str, FormatSpec]:
    here = "sftcore_plugins.formats"
    return {
        "messages": FormatSpec(f"{here}.messages:Messages", keys=["messages"]),
        "sharegpt": FormatSpec(f"{here}.sharegpt:ShareGPT", keys=["conversations"]),
        "qa": FormatSpec(f"{here}.qa:QA", keys=["input", "output"], without=["instruction"]),
        "instruction": FormatSpec(f"{here}.instruction:Instruction", keys=["instruction", "output"]),
        "alpaca": FormatSpec(f"{here}.alpaca:Alpaca", keys=["instruction", "response"]),
    }
