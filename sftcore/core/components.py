"""The base classes of the five kinds of component.

A component is a dataclass whose fields are its options. The YAML names the component and sets its options; sftcore
checks the values against the annotations. A string literal below a field is the option's description in
``sft list-plugins --verbose``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sftcore.core.errors import RowError
from sftcore.core.types import Conversation, Message, PlainMessages

FURTHER = "further_options"
"""Metadata key of a field that collects the options of another dataclass."""

RESERVED = {
    *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "conversation"),
    *("chat_template", "tokenize", "tokenizer_kwargs", "padding", "truncation", "max_length"),
    *("self", "return_tensors", "return_dict", "return_assistant_tokens_mask", "conversations", "range", "loop"),
}
"""Arguments of ``apply_chat_template`` that rendering sets, and names that mean something else to it or to Jinja."""


def variable_problem(name: object) -> str:
    """Return the reason that no variable of a chat template can have this *name*; empty if one can."""
    if not isinstance(name, str) or not name.isidentifier():
        return "is not a name that a chat template can read"
    return "is a name that sftcore or Jinja sets itself" if name in RESERVED else ""


def further_options(target: str) -> Any:
    """Declare a field that collects the options of another dataclass in a dict, checked against its annotations.

    With it a component offers all options of a library's configuration class without copying them. The *target*,
    ``"package.module:Class"``, is imported when a run selects the component.
    """
    return field(default_factory=dict, metadata={FURTHER: target})


@dataclass
class Component:
    """The base class of all components."""

    requires: ClassVar[tuple[str, ...]] = ()
    """Packages that must be installed when a run selects this component."""


@dataclass
class Format(Component):
    """Turns one row of a data source into a conversation."""

    plain_text: ClassVar[bool] = False
    """Whether a row is one text, the content of its only message, which is trained whole, without a chat template."""
    reads: ClassVar[Mapping[str, Any] | None] = None
    """The keys that :meth:`parse` reads from a row, each with None; or with the keys that it reads from the object, or
    the list of objects, at that key. What stands beside them is reported (``data.unread``), unless this is None."""

    def parse(self, row: Mapping[str, Any]) -> Sequence[Message]:
        """Return the messages of *row*.

        Raises:
            RowError: the row is malformed. The message names the key and the problem; file and line are added.
        """
        raise NotImplementedError

    def read(self, row: Mapping[str, Any]) -> Conversation:
        """Return the conversation of *row*, without what every format may have beside it, such as ``tools``.

        Raises:
            RowError: from :meth:`parse`; or there is no message.
        """
        messages = self.parse(row)
        if not isinstance(messages, PlainMessages):
            messages = tuple(messages)
        if not messages:
            raise RowError("the conversation is empty")
        return Conversation.from_messages(messages)


@dataclass
class Template(Component):
    """A chat template: renders a conversation as the text that the model reads."""

    def jinja(self) -> str:
        """Return the Jinja source that is set as ``tokenizer.chat_template``."""
        raise NotImplementedError

    def stop(self) -> Sequence[str]:
        """Return the strings that end an assistant turn, in addition to the tokenizer's EOS token."""
        return ()


@dataclass
class Method(Component):
    """A fine-tuning method: which weights of the base model are trained, and in which precision they are loaded."""

    def load_options(self, dtype: Any) -> dict[str, Any]:
        """Return additional arguments for ``AutoModelForCausalLM.from_pretrained``.

        Args:
            dtype: the ``torch.dtype`` of the computations.
        """
        return {}

    def prepare(self, model: Any, args: Any) -> Any:
        """Return *model* ready to be trained, with adapters added and ``requires_grad`` set.

        Args:
            model: the ``transformers.PreTrainedModel``.
            args: the ``transformers.TrainingArguments`` of the run.
        """
        raise NotImplementedError

    def optimizer(self, model: Any, args: Any) -> Any | None:
        """Return a ``torch.optim.Optimizer``, or None for the one that *args* names."""
        return None


@dataclass
class Tracker(Component):
    """An experiment tracker. It runs in a process of its own, started by rank 0."""

    def start(self, run: Mapping[str, Any]) -> None:
        """Start tracking.

        Args:
            run: ``id``, ``name``, ``output_dir``, ``command``, ``config``, ``versions`` and ``pid`` of the run. The id
                stays the same when the run is resumed; command and config contain no secrets; the pid is the process
                that trains.
        """

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the *metrics* of optimizer step *step*."""

    def finish(self, error: BaseException | None = None) -> None:
        """Stop tracking. *error* is None, or an error with the text of what ended the run early."""


@dataclass
class Backend(Component):
    """A distributed backend: how the processes of a run are started and train together."""

    owns_training_step: ClassVar[bool] = False
    """Whether an engine of its own trains, which takes the optimizer step in its backward pass and writes and reads
    its own files in a checkpoint (through transformers)."""
    shards_weights: ClassVar[bool] = False
    """Whether the trained weights are sharded over the ranks; then :meth:`state` contains them too."""

    def command(self, argv: Sequence[str]) -> list[str] | None:
        """Return the command that runs ``python argv...`` on all processes, or None to train in this process.

        It is called only in a process that no launcher has started, and must have no side effects.
        """
        return None

    def start(self, environ: Mapping[str, str], cpu: bool) -> None:
        """Set up this process; called before training arguments and model are created.

        Raises:
            SftError: the launcher started other processes than the options of the backend ask for.
        """

    def training_args(self) -> dict[str, Any]:
        """Return the arguments of ``transformers.TrainingArguments`` that the backend sets."""
        return {}

    def layout(self, ranks: int) -> str:
        """Return a name for the layout of the training state in a checkpoint of this many *ranks*.

        A run can only be resumed from a checkpoint of the same layout. Empty: any number of ranks can resume.
        """
        return ""

    def writes_shards(self) -> bool:
        """Whether each rank writes a shard of the state."""
        return False

    def state(self, trainer: Any) -> Any:
        """Return the state of the optimizer: tensors, numbers and strings in dicts, lists and tuples.

        All ranks call it. The value of rank 0 is written, or that of each rank if :meth:`writes_shards`.

        Args:
            trainer: the ``transformers.Trainer`` of the run.
        """
        return trainer.optimizer.state_dict()

    def restore(self, trainer: Any, read: Callable[[], Any]) -> None:
        """Restore the state of the optimizer. All ranks call it.

        Args:
            trainer: the ``transformers.Trainer`` of the run.
            read: reads what :meth:`state` returned (of this rank if :meth:`writes_shards`).
        """
        trainer.optimizer.load_state_dict(read())


KINDS: Mapping[str, type[Component]] = {
    "format": Format,
    "template": Template,
    "method": Method,
    "tracker": Tracker,
    "backend": Backend,
}
"""The base class of each kind, by the name of the kind in the configuration and in ``sft list-plugins``."""
