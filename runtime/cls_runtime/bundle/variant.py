"""What a manifest says of a variant: its files, its recipe, how near to PyTorch's its vectors are, and those of single engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cls_runtime.bundle.typed_json import known

Output = Literal["sentence", "cls", "pooler", "logits", "tokens"]

# Which output of the graph each output of an Encoder is. `cls` is the sentence's vector by the name that says how it is made.
GRAPH_OUTPUTS: dict[str, str] = {
    "sentence": "sentence_embedding",
    "cls": "sentence_embedding",
    "pooler": "pooler_output",
    "logits": "logits",
    "tokens": "last_hidden_state",
}


@dataclass(frozen=True, kw_only=True)
class ParityFigures:
    """How close vectors are to PyTorch's fp32 vectors over `texts` texts: cosines and the largest absolute difference."""

    texts: int
    mean_cosine: float
    p1_cosine: float
    min_cosine: float
    max_abs: float
    worst_text: int


@dataclass(frozen=True, kw_only=True)
class BundleFile:
    """A file of the bundle: POSIX path relative to its folder, hash and size."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class MultiplyAdds:
    """Multiply-adds of a run: `per_run` + B * (`per_text` + S * `per_token` + S * S * `per_token_pair`), for B texts of S tokens each."""

    per_run: int
    per_text: int
    per_token: int
    per_token_pair: int

    def count(self, texts: int, tokens: int) -> int:
        """Those of one run of `texts` texts of `tokens` tokens each."""
        return self.per_run + texts * (self.per_text + tokens * (self.per_token + tokens * self.per_token_pair))


@dataclass(frozen=True, kw_only=True)
class EngineParity:
    """Figures of the vectors that an engine gives with its own form of a variant; the fields are those of `Variant`.

    `bits` are, by output, the SHA-256 of the golden texts' vectors (`parity.vector_bits`), for an engine that gives the same bits on every
    machine; of `tokens`, of all rows that the golden vectors sample. It is empty where the export could not run the engine.
    """

    parity: Mapping[str, ParityFigures] = field(metadata=known(tuple(GRAPH_OUTPUTS)))
    batch_invariance_max_abs: float
    batch_invariance_min_cosine: float = 1.0
    bits: Mapping[Output, str] = field(default_factory=dict, metadata=known(tuple(GRAPH_OUTPUTS)))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One precision of the graph.

    `files[0]` is the ONNX file, the others its external data. `engines` are those that the file is meant for; `engine_files` are
    what an engine reads in the place of `files`: the same weights in a form that it computes faster.
    `parity` has one entry per `Output`. `batch_invariance_max_abs` is the largest difference of a text's vector between alone and in a
    batch, `batch_invariance_min_cosine` the lowest cosine. An engine whose own form gives other vectors has its figures in `engine_parity`.
    `multiply_adds` has the matrix products' work by their arithmetic (`fp32`, `int8`); it is empty where no formula fits the graph, and in
    bundles of cls-export 0.1.0.
    """

    files: tuple[BundleFile, ...]
    recipe: Mapping[str, Any]
    parity: Mapping[str, ParityFigures] = field(metadata=known(tuple(GRAPH_OUTPUTS)))
    batch_invariance_max_abs: float
    cpu_features: tuple[str, ...] = ()
    batch_invariance_min_cosine: float = 1.0
    engines: tuple[str, ...] = ("onnxruntime", "openvino", "cuda")
    engine_files: Mapping[str, tuple[BundleFile, ...]] = field(default_factory=dict)
    multiply_adds: Mapping[str, MultiplyAdds] = field(default_factory=dict)
    engine_parity: Mapping[str, EngineParity] = field(default_factory=dict)
