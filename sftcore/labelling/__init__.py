"""Which tokens are trained: from a conversation and a chat template to labelled examples, certain or refused."""

from sftcore.core.labelling_policy import Policy
from sftcore.labelling.labeller import LabelledConversation, LabelledExample, Labeller
from sftcore.labelling.rendered import RenderedConversation
from sftcore.labelling.rendered_columns import RenderedColumns
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
