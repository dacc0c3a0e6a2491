"""Loads a saved result with plain transformers and PEFT, nothing of ours, and writes its logits.

Usage: plain_logits.py IDS.json LOGITS.npy OUTPUT_DIR [BASE [4bit]]
"""

import json
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

ids, target, folder, *base = sys.argv[1:]
options = {}
if base[1:] == ["4bit"]:
    options["quantization_config"] = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
model = AutoModelForCausalLM.from_pretrained(base[0] if base else folder, dtype=torch.float32, **options)
if base:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, folder)
if options:
    import bitsandbytes

    # the arithmetic of training; else CPUs with AVX512-BF16 evaluate with a faster kernel that rounds to bfloat16
    for layer in model.modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            layer.support_avx512bf16_for_cpu = False
assert AutoTokenizer.from_pretrained(folder).chat_template
with torch.no_grad():
    logits = model.eval()(torch.tensor([json.loads(ids)])).logits
np.save(target, logits.float().numpy())
