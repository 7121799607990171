"""optimum: ORTModelForFeatureExtraction in the usual loop, batches of 32. `fp32` and `int8` in the order given, `int8_sorted` by length."""

from peer_protocol import arguments, full_batches, in_sorted_order, pooled, serve

import numpy as np
import onnxruntime
from optimum.onnxruntime import ORTModelForFeatureExtraction
from transformers import AutoTokenizer

BATCH = 32

options = arguments()
precision, _, by_length = options.settings.partition("_")
session_options = onnxruntime.SessionOptions()
session_options.intra_op_num_threads = options.threads
tokenizer = AutoTokenizer.from_pretrained(options.work)
model = ORTModelForFeatureExtraction.from_pretrained(
    options.work, file_name={"fp32": "model.onnx", "int8": "model_quantized.onnx"}[precision], session_options=session_options
)


def embed(texts):
    rows = []
    for batch in full_batches(texts, BATCH):
        inputs = tokenizer(list(batch), padding=True, truncation=True, max_length=options.max_length, return_tensors="np")
        rows.append(pooled(model(**inputs).last_hidden_state, inputs["attention_mask"].astype(np.float32), options.pooling))
    return np.concatenate(rows)


def embed_sorted(texts):
    return in_sorted_order(embed, texts, width=model.config.hidden_size)


way = embed_sorted if by_length else embed
serve(way, settings=f"{precision}, batches of {BATCH}, {by_length or 'as given'}", packages=["optimum", "optimum-onnx", "onnxruntime"])
