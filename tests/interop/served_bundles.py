"""Small random models for test_clients.py, as bundles: `prompted` has prompts and sizes to cut vectors to, `reranker` has one logit,
`classifier` several. The Makefile runs this file with the folder that they go to.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import checkpoints

from cls_exporter import ExportConfig, export

LABELS = 3
PROMPTS = {"query": "the query: ", "document": "text of a model: "}
SIZES = [8, checkpoints.HIDDEN]


def _prompted(folder: Path) -> ExportConfig:
    checkpoints.make_checkpoint(folder, changes={"matryoshka_dimensions": SIZES})
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    checkpoints.add_sentence_modules(folder, pooling=pooling, modules=[("Normalize", "2_Normalize")])
    (folder / "2_Normalize").mkdir()
    checkpoints.edit_json(folder / "config_sentence_transformers.json", {"prompts": PROMPTS})
    return ExportConfig()


def _with_logits(folder: Path, *, labels: int, spread: float) -> ExportConfig:
    """`spread` moves the scores of different texts apart."""
    checkpoints.make_checkpoint(folder, kind="classifier", labels=labels)
    weights = checkpoints.read_weights_of(folder)
    checkpoints.write_weights_of(folder, {**weights, "classifier.weight": weights["classifier.weight"] * spread})
    return ExportConfig(logits=True)


BUNDLES: Mapping[str, Callable[[Path], ExportConfig]] = {
    "prompted": _prompted,
    "reranker": partial(_with_logits, labels=1, spread=60),
    "classifier": partial(_with_logits, labels=LABELS, spread=8),
}


def main(target: Path) -> None:
    """Exports them all into `target`."""
    with tempfile.TemporaryDirectory() as folder:
        for name, make in BUNDLES.items():
            checkpoint = Path(folder) / name
            export(checkpoint, target / name, config=make(checkpoint), force=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
