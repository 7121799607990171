"""infinity's server on 127.0.0.1: `python serve.py PORT --checkpoint ... --work ... --settings ...`, for benchmarks/serving_peers.py.

`torch`: as its documentation shows, the checkpoint through sentence-transformers. `onnx`, `onnx_int8`: its engine `optimum` with the
files of convert.py. Everything else is its default: batches of up to 32 texts, sorted by length.
"""

from peer_protocol import arguments

import os
import sys

port = sys.argv.pop(1)
options = arguments()
checkpoint = options.checkpoint.resolve()
os.environ["DO_NOT_TRACK"] = "1"
os.environ["INFINITY_ANONYMOUS_USAGE_STATS"] = "0"
# Where its engine keeps the graphs that it has optimized, by the model's name alone.
os.environ["HF_HUB_CACHE"] = str(options.work.resolve() / f"optimized-{options.settings}")
if options.settings == "torch":
    engine, model = ["torch", "--no-bettertransformer"], str(checkpoint)
else:
    os.chdir(options.work)  # it gives optimum a file's path as it finds it, and optimum takes one within the model's folder
    engine, model = ["optimum", "--pooling-method", options.pooling], "."

from infinity_emb.cli import cli  # noqa: E402  it reads the environment when it is imported

quantized = ["--onnx-do-not-prefer-quantized"] if options.settings == "onnx" else []
place = ["--host", "127.0.0.1", "--port", port, "--served-model-name", "model", "--log-level", "warning"]
sys.argv = ["infinity_emb", "v2", "--model-id", model, "--device", "cpu", "--engine", *engine, *quantized, *place]
cli()
