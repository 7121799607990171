"""Small models of sentence-transformers with prompts, made by prompted_bundles.py: their bundles and their vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from snippets import ROOT

FOLDER = ROOT / "build" / "prompted"
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


def bundle_of(kind: str) -> Path:
    """The bundle of a kind, exported with its own pooling."""
    return FOLDER / kind


def expected_of(kind: str) -> dict[str, NDArray[np.float32]]:
    """What sentence-transformers gives for `TEXTS` as they are, behind the prompt for queries, and behind none (`bare`)."""
    with np.load(FOLDER / f"{kind}.npz") as arrays:
        return dict(arrays)
