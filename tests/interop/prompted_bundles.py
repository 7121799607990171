"""Small models of sentence-transformers with prompts, their bundles, and the vectors that sentence-transformers itself gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import torch
from numpy.typing import NDArray

from cls_exporter import export

TEXTS = ["the cat sat on a mat", "x", "hello world", "a dog runs fast, the cat sat", "text of a model " * 3]
PROMPTS = {"document": "", "query": "the query: ", "task": "fast model, "}


@dataclass(frozen=True)
class Kind:
    """What the model says of its vectors."""

    pooling: str
    modules: tuple[tuple[str, str], ...] = ()
    default: str | None = None
    include_prompt: bool = True
    settings: dict[str, Any] = field(default_factory=dict)


KINDS = {
    "mean-unit": Kind("mean", (("Normalize", "2_Normalize"),)),
    "cls-default-cut": Kind("cls", (("Normalize", "2_Normalize"),), default="task", settings={"truncate_dim": 16}),
    "mean-default": Kind("mean", default="task"),
    "mean-dense": Kind("mean", (("Dense", "2_Dense"), ("Normalize", "3_Normalize"))),
    "cls-dense": Kind("cls", (("Dense", "2_Dense"),)),
    "mean-without": Kind("mean", include_prompt=False),
}


class Prompted:
    """Makes each kind once, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._expected: dict[str, dict[str, NDArray[np.float32]]] = {}

    def bundle(self, kind: str) -> Path:
        """The bundle of a kind, exported with its own pooling."""
        target = self._folder / f"bundle-{kind}"
        if not target.exists():
            export(self._checkpoint(kind), target)
        return target

    def expected(self, kind: str) -> dict[str, NDArray[np.float32]]:
        """What sentence-transformers gives for `TEXTS` as they are, behind the prompt for queries, and behind none (`bare`)."""
        from sentence_transformers import SentenceTransformer

        if kind not in self._expected:
            model = SentenceTransformer(str(self._checkpoint(kind)), device="cpu")
            prompts = {"vectors": {}, "queries": {"prompt_name": "query"}, "bare": {"prompt": ""}}
            self._expected[kind] = {name: model.encode(TEXTS, **options) for name, options in prompts.items()}
        return self._expected[kind]

    def _checkpoint(self, name: str) -> Path:
        folder, kind = self._folder / f"model-{name}", KINDS[name]
        if folder.exists():
            return folder
        checkpoints.make_checkpoint(folder)
        pooling = {"pooling_mode_cls_token": kind.pooling == "cls", "pooling_mode_mean_tokens": kind.pooling == "mean"}
        checkpoints.add_sentence_modules(folder, pooling={**pooling, "include_prompt": kind.include_prompt}, modules=kind.modules)
        settings = {"prompts": PROMPTS, "default_prompt_name": kind.default, **kind.settings}
        checkpoints.edit_json(folder / "config_sentence_transformers.json", settings)
        for module, path in kind.modules:
            if module == "Dense":
                described = {"in_features": checkpoints.HIDDEN, "out_features": 8, "bias": False}
                checkpoints.edit_json(
                    folder / path / "config.json", {**described, "activation_function": "torch.nn.modules.activation.Tanh"}
                )
                weights = torch.randn(8, checkpoints.HIDDEN, generator=torch.Generator().manual_seed(0))
                checkpoints.write_weights_of(folder / path, {"linear.weight": weights})
            else:
                (folder / path).mkdir(exist_ok=True)
        return folder
