"""Which tokens are trained: from a conversation and a chat template to labelled examples, certain or refused."""

from sftcore.core.labelling_policy import Policy
from sftcore.labelling.labeller import Labelled, Labeller, Labelling
from sftcore.labelling.rendered import RenderedConversation
from sftcore.labelling.rendered_columns import RenderedColumns
from sftcore.labelling.truncation import TooLongError, fit
from sftcore.labelling.warnings import LabelWarning

__all__ = [
    "LabelWarning",
    "Labelled",
    "Labeller",
    "Labelling",
    "Policy",
    "RenderedColumns",
    "RenderedConversation",
    "TooLongError",
    "fit",
]
