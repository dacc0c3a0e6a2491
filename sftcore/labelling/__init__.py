"""Which tokens are trained: from a conversation and a chat template to labelled examples, certain or refused."""

from sftcore.core.labelling_policy import Policy
from sftcore.labelling.draft import Draft, Outline
from sftcore.labelling.draft_columns import DraftColumns
from sftcore.labelling.fast_path.plan import Sketch
from sftcore.labelling.labeller import Labelled, Labeller, Labelling
from sftcore.labelling.truncation import TooLongError, fit
from sftcore.labelling.warnings import LabelWarning

__all__ = [
    "Draft",
    "DraftColumns",
    "LabelWarning",
    "Labelled",
    "Labeller",
    "Labelling",
    "Outline",
    "Policy",
    "Sketch",
    "TooLongError",
    "fit",
]
