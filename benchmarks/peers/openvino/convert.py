"""Converts the full model to OpenVINO, in fp32 and in int8: NNCF's preset for transformers, with SmoothQuant, calibrated."""

from peer_protocol import arguments, pooled

import json

import nncf
import numpy as np
import openvino as ov
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

options = arguments()
tokenizer = Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(options.max_length)


class Pooled(torch.nn.Module):
    """The whole model, then its pooling."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        """int64 [B, S] each -> float32 [B, H]."""
        rows = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return pooled(rows, attention_mask.float(), options.pooling)


def full_model():
    example = {name: torch.ones((2, 8), dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    module = Pooled(AutoModel.from_pretrained(options.checkpoint).eval())
    return ov.convert_model(
        module, example_input=example, input=[("input_ids", [-1, -1], ov.Type.i64), ("attention_mask", [-1, -1], ov.Type.i64)]
    )


def samples():
    for text in json.loads(options.calibration.read_text(encoding="utf-8")):
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids)}


calibration = list(samples())
ov.save_model(full_model(), options.work / "fp32.xml", compress_to_fp16=False)
quantized = nncf.quantize(
    full_model(),
    nncf.Dataset(calibration),
    model_type=nncf.ModelType.TRANSFORMER,
    preset=nncf.QuantizationPreset.MIXED,
    subset_size=len(calibration),
    fast_bias_correction=True,
)
ov.save_model(quantized, options.work / "int8.xml", compress_to_fp16=False)
