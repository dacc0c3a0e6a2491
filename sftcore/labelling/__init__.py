"""Loss masking: which tokens of a conversation are trained under a chat template.

Conversations, a tokenizer and a policy go in; labelled examples and label warnings come out, or a ``RowError``.
It knows neither files nor the configuration nor the model.
"""

from sftcore.core.labelling_policy import Policy
from sftcore.labelling.labeller import Labeller
from sftcore.labelling.rendered import RenderedColumns, RenderedConversation
from sftcore.labelling.token_labels import LabelledConversation, LabelledExample
from sftcore.labelling.truncation import TooLongError, truncate
from sftcore.labelling.warnings import LabelWarning

__all__ = [
    "LabelWarning",
    "LabelledConversation",
    "LabelledExample",
    "Labeller",
    "Policy",
    "RenderedColumns",
    "RenderedConversation",
    "TooLongError",
    "truncate",
]
