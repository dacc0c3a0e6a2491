"""Built-in data formats."""

from sftcore import hookimpl


@hookimpl
def register_formats() -> dict[str, str]:
    return {
        "messages": "sftcore_plugins.formats.messages:Messages",
        "sharegpt": "sftcore_plugins.formats.sharegpt:ShareGPT",
        "qa": "sftcore_plugins.formats.qa:QA",
        "instruction": "sftcore_plugins.formats.instruction:Instruction",
        "alpaca": "sftcore_plugins.formats.alpaca:Alpaca",
    }
