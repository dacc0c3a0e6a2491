"""Which tokens are trained: from a conversation and a chat template to labelled examples, certain or refused."""

from sftcore.supervision.draft import Draft, Outline
from sftcore.supervision.drafts import DraftColumns
from sftcore.supervision.labeller import Labelled, Labeller, Labelling
from sftcore.supervision.plan import Sketch
from sftcore.supervision.policy import Policy
from sftcore.supervision.remarks import Remark
from sftcore.supervision.truncation import TooLongError, fit

__all__ = [
    "Draft",
    "DraftColumns",
    "Labelled",
    "Labeller",
    "Labelling",
    "Outline",
    "Policy",
    "Remark",
    "Sketch",
    "TooLongError",
    "fit",
]
