"""The five kinds of component. A component is a plain dataclass whose fields are its options.

The YAML names a component and fills its fields; the core validates the values against the
annotations and never knows which component it holds. Write a string literal below a field
and it becomes the option's description in ``sft list-plugins --verbose``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sftcore.core.errors import RowError, json_type
from sftcore.core.types import Conversation, Message, Texts

FURTHER = "further_options"
"""Key in the metadata of a field that collects another dataclass's options."""

RESERVED = frozenset(
    {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "conversation",
        "chat_template",
        "tokenize",
        "tokenizer_kwargs",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
    }
)
"""What is no further variable of a chat template: arguments of ``apply_chat_template``, which rendering sets."""


def further_options(target: str) -> Any:
    """Declare a field that takes every option of another dataclass, checked against it.

    Args:
        target: ``"package.module:Class"`` of that dataclass, imported when a run selects the
            component. Its fields become options beside the component's own, so a wrapper of a
            library's configuration need not copy it.
    """
    return field(default_factory=dict, metadata={FURTHER: target})


@dataclass
class Component:
    """What all components share."""

    requires: ClassVar[tuple[str, ...]] = ()
    """Packages that must be importable when a run selects this component."""


@dataclass
class Format(Component):
    """Turns one row of a data source into a conversation."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Keys that a row of this format has; ``format: auto`` goes by them."""

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Tell whether *row* looks like this format. A format without ``needs`` is never guessed."""
        return bool(self.needs) and self.needs <= row.keys()

    def parse(self, row: Mapping[str, Any]) -> Sequence[Message]:
        """Return the messages of *row*.

        Raises:
            RowError: the row does not fit; say which key and why, the core adds file and line.
        """
        raise NotImplementedError

    def read(self, row: Mapping[str, Any]) -> Conversation:
        """Return the conversation of *row*; ``system``, ``tools`` and ``chat_template_kwargs`` work in every format.

        Raises:
            RowError: as :meth:`parse`, or there is no message, or one of the three fields is unsound.
        """
        messages = self.parse(row)
        if not isinstance(messages, Texts):
            messages = tuple(messages)
        if not messages:
            raise RowError("the conversation is empty")
        system = row.get("system")
        if system is not None and not isinstance(system, str):
            raise RowError(f"'system' must be a string, not {json_type(system)}")
        if system:
            if any(message.role == "system" and message.content != system for message in messages):
                raise RowError("has a 'system' field and a different system message; keep one of them")
            if messages[0].role != "system":
                messages = (Message("system", system), *messages)
        if "tools" not in row and "chat_template_kwargs" not in row:
            return Conversation.of(messages)
        return Conversation(messages, _tools(row), _template_kwargs(row))


def _decoded(row: Mapping[str, Any], key: str) -> object:
    """Return the value at *key*, parsed if it is JSON text; None if it is absent or empty text."""
    value = row.get(key)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError as error:
        raise RowError(f"'{key}' is not valid JSON: {error}") from None


def _template_kwargs(row: Mapping[str, Any]) -> Mapping[str, Any]:
    value = _decoded(row, "chat_template_kwargs")
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RowError(f"'chat_template_kwargs' must be an object, not {json_type(value)}")
    for name in value:
        if not isinstance(name, str):
            raise RowError(f"'chat_template_kwargs' has a name that is no string: {name!r}")
        if name in RESERVED:
            raise RowError(f"'chat_template_kwargs' may not have '{name}': rendering sets it itself")
    return dict(value)


def _tools(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    value = _decoded(row, "tools")
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise RowError(f"'tools' must be a list of objects, not {json_type(value)}")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in value)


@dataclass
class Template(Component):
    """A chat template: how a conversation is written for the model."""

    def jinja(self) -> str:
        """Return the Jinja source, as ``tokenizer.chat_template`` takes it."""
        raise NotImplementedError

    def stop(self) -> Sequence[str]:
        """Return the strings that end an assistant turn, beside the tokenizer's end-of-sequence token."""
        return ()


@dataclass
class Method(Component):
    """How a base model becomes one that is trained: which weights, of what precision."""

    def load_options(self, dtype: Any) -> dict[str, Any]:
        """Return further arguments for ``AutoModelForCausalLM.from_pretrained``.

        Args:
            dtype: the ``torch.dtype`` that computations will use.
        """
        return {}

    def prepare(self, model: Any, args: Any) -> Any:
        """Return *model* ready to train: adapters added, ``requires_grad`` set.

        Args:
            model: the ``transformers.PreTrainedModel``.
            args: the ``transformers.TrainingArguments`` of the run.
        """
        raise NotImplementedError

    def optimizer(self, model: Any, args: Any) -> Any | None:
        """Return a ``torch.optim.Optimizer`` of the method's own, or None for the one that *args* names."""
        return None


@dataclass
class Tracker(Component):
    """Receives what happens in a run, in a process of its own. Only rank 0 tracks."""

    def start(self, run: Mapping[str, Any]) -> None:
        """Begin. *run* holds ``id``, ``name``, ``output_dir``, ``command``, ``config``, ``versions`` and ``pid``.

        The id is that of the run in this output folder, also after it was resumed; config and command have no secrets.
        The pid is that of the process that trains.
        """

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the *metrics* of optimizer step *step*."""

    def finish(self, error: BaseException | None = None) -> None:
        """End. *error* reads like what ended the run early, or is None."""


@dataclass
class Backend(Component):
    """How the processes of a run are started and work together."""

    owns: ClassVar[tuple[str, ...]] = ()
    """Training arguments that only this backend sets; in ``training_args`` they are refused."""
    owns_training_step: ClassVar[bool] = False
    """Whether an engine of its own trains: it takes the optimizer's step in its backward pass, and transformers lets it
    write and read files of its own in a checkpoint."""
    shards_weights: ClassVar[bool] = False
    """Whether :meth:`state` holds the trained weights too, because they are spread over the ranks."""

    def launched(self, environ: Mapping[str, str]) -> bool:
        """Tell whether this process was started by the backend's launcher; ``backend: auto`` goes by it."""
        return False

    def command(self, argv: Sequence[str]) -> list[str] | None:
        """Return the command that runs ``python argv...`` on all processes, or None for this process.

        It changes nothing, and is only asked for where no launcher is at work yet.
        """
        return None

    def start(self, environ: Mapping[str, str], cpu: bool) -> None:
        """Set up this process, before any training argument or model exists.

        Raises:
            SftError: the processes that were started are not those the backend stands for.
        """

    def training_args(self) -> dict[str, Any]:
        """Return what the backend sets in ``transformers.TrainingArguments``."""
        return {}

    def layout(self, ranks: int) -> str:
        """Return how the state is laid out in a checkpoint of so many ranks: a run goes on from its own layout only.

        Empty: any number of ranks of any such backend can go on from it.
        """
        return ""

    def writes_shards(self) -> bool:
        """Tell whether each rank writes a part of the state of its own."""
        return False

    def state(self, trainer: Any) -> Any:
        """Return the state of the optimizer: tensors, numbers and texts in dicts, lists and tuples.

        All ranks call it; only what the first returns is written, unless each has a part of its own.

        Args:
            trainer: the ``transformers.Trainer`` of the run.
        """
        return trainer.optimizer.state_dict()

    def restore(self, trainer: Any, read: Callable[[], Any]) -> None:
        """Bring the optimizer to a state that was written; all ranks call it.

        Args:
            read: reads what :meth:`state` returned.
        """
        trainer.optimizer.load_state_dict(read())


KINDS: Mapping[str, type[Component]] = {
    "format": Format,
    "template": Template,
    "method": Method,
    "tracker": Tracker,
    "backend": Backend,
}
"""The kinds, by the name that the configuration and ``sft list-plugins`` use."""
