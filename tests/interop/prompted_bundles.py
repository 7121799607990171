"""Makes the bundles of prompted.py, and the vectors that sentence-transformers itself gives. The Makefile runs this file with the folder
that they go to.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import checkpoints
import numpy as np
import torch
from prompted import KINDS, PROMPTS, TEXTS, Kind
from sentence_transformers import SentenceTransformer

from cls_exporter import export


def main(target: Path) -> None:
    """Makes them all in `target`: a bundle of each kind, exported with its own pooling, and beside it what is expected of it."""
    for name, kind in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / name
            _make(checkpoint, kind)
            export(checkpoint, target / name, force=True)
            model = SentenceTransformer(str(checkpoint), device="cpu")
            prompts = {"vectors": {}, "queries": {"prompt_name": "query"}, "bare": {"prompt": ""}}
            np.savez(target / f"{name}.npz", **{given: model.encode(TEXTS, **options) for given, options in prompts.items()})


def _make(folder: Path, kind: Kind) -> None:
    """The checkpoint of a kind."""
    checkpoints.make_checkpoint(folder)
    pooling = {"pooling_mode_cls_token": kind.pooling == "cls", "pooling_mode_mean_tokens": kind.pooling == "mean"}
    checkpoints.add_sentence_modules(folder, pooling={**pooling, "include_prompt": kind.include_prompt}, modules=kind.modules)
    settings = {"prompts": PROMPTS, "default_prompt_name": kind.default, **kind.settings}
    checkpoints.edit_json(folder / "config_sentence_transformers.json", settings)
    for module, path in kind.modules:
        if module == "Dense":
            described = {"in_features": checkpoints.HIDDEN, "out_features": 8, "bias": False}
            checkpoints.edit_json(folder / path / "config.json", {**described, "activation_function": "torch.nn.modules.activation.Tanh"})
            weights = torch.randn(8, checkpoints.HIDDEN, generator=torch.Generator().manual_seed(0))
            checkpoints.write_weights_of(folder / path, {"linear.weight": weights})
        else:
            (folder / path).mkdir(exist_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
