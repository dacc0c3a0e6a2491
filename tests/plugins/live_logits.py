"""Runs ``sft`` and, when the trained weights are saved, writes the live model's logits too.

Usage: live_logits.py IDS.json LOGITS.npy run --config ...
"""

import json
import sys

import numpy as np
import torch

from sftcore.cli.main import main
from sftcore.runs import session

ids, target, *argv = sys.argv[1:]
export_model = session.export_model


def export_with_logits(trainer, *args):
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    with torch.no_grad():
        logits = model(torch.tensor([json.loads(ids)])).logits
    np.save(target, logits.float().numpy())
    export_model(trainer, *args)


session.export_model = export_with_logits
sys.exit(main(argv))
