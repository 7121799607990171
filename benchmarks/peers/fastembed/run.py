"""fastembed, a custom model in a local folder that pools as the bundle does. `fp32` and `int8`: as its documentation shows, batches of
256 in the order given. `int8_sorted`: sorted by length by hand, batches of 32.
"""

from peer_protocol import arguments, in_sorted_order, serve

import json

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

options = arguments()
precision, _, by_length = options.settings.partition("_")
width = json.loads((options.work / "config.json").read_text())["hidden_size"]
TextEmbedding.add_custom_model(
    model="local/full-model",
    pooling={"cls": PoolingType.CLS, "mean": PoolingType.MEAN}[options.pooling],
    normalization=False,
    sources=ModelSource(hf="local/full-model"),
    dim=width,
    model_file={"fp32": "model.onnx", "int8": "model_quantized.onnx"}[precision],
)
model = TextEmbedding("local/full-model", threads=options.threads, specific_model_path=str(options.work))
batch_size = 32 if by_length else 256


def embed(texts):
    return np.array(list(model.embed(list(texts), batch_size=batch_size)), dtype=np.float32)


def embed_sorted(texts):
    return in_sorted_order(embed, texts, width=width)


way = embed_sorted if by_length else embed
serve(way, settings=f"{precision}, batches of {batch_size}, {by_length or 'as given'}", packages=["fastembed", "onnxruntime"])
