"""What a search index would notice of each variant: are the nearest neighbours the same, do scored pairs keep their order?

    python benchmarks/precision_ranks.py BUNDLE --texts sentences.txt
    python benchmarks/precision_ranks.py BUNDLE --texts sentences.txt --pairs scored.csv     # a line: text, text, score

Every variant of the bundle is compared with its fp32 on the same texts, each encoded once. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cls_runtime import Encoder
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.parity import cosines, parity_figures
from cls_runtime.errors import ClsError
from cls_runtime.verifying.neighbours import compare_neighbours

Float64 = NDArray[np.float64]
Pair = tuple[str, str, float]
REFERENCE = "fp32"


def read_pairs(path: Path) -> list[Pair]:
    """Lines of `text, text, score`."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [(first, second, float(score)) for first, second, score in csv.reader(stream)]


def spearman(first: Float64, second: Float64) -> float:
    """Spearman's rank correlation of two lists of numbers; equal numbers share their mean rank."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Float64) -> Float64:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray(((ends - counts + ends - 1) / 2)[group], dtype=np.float64)


def figures(bundle: Path, texts: Sequence[str], pairs: Sequence[Pair], *, engine: str) -> dict[str, dict[str, float | None]]:
    """By variant: cosines to fp32's vectors, the share of the ten nearest neighbours that stays, Spearman on the scored pairs."""
    variants = list(Bundle.open(bundle).manifest.variants)
    sides = [text for pair in pairs for text in pair[:2]]
    by_variant: dict[str, dict[str, float | None]] = {}
    reference = None
    for variant in sorted(variants, key=lambda name: name != REFERENCE):
        with Encoder.load(bundle, variant=variant, engine=engine, on_overflow="truncate") as encoder:
            vectors, halves = encoder.encode(texts), encoder.encode(sides)
        reference = vectors if reference is None else reference
        parity, neighbours = parity_figures(reference, vectors), compare_neighbours(reference, vectors)
        scores = np.array([score for *_, score in pairs])
        by_variant[variant] = {
            "mean_cosine": parity.mean_cosine,
            "p1_cosine": parity.p1_cosine,
            "min_cosine": parity.min_cosine,
            **({} if neighbours is None else {f"neighbours_{key}": value for key, value in dataclasses.asdict(neighbours).items()}),
            "spearman": spearman(cosines(halves[::2], halves[1::2]), scores) if pairs else None,
        }
    return by_variant


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and prints the figures; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a folder made by cls-export, with fp32 and what to compare")
    parser.add_argument("--texts", type=Path, required=True, metavar="FILE", help="texts, one a line; each counts once")
    parser.add_argument("--pairs", type=Path, metavar="CSV", help="scored pairs: text, text, score")
    parser.add_argument("--engine", default="onnxruntime", help="the engine for every variant")
    arguments = parser.parse_args(argv)
    texts = list(dict.fromkeys(filter(None, arguments.texts.read_text(encoding="utf-8").splitlines())))
    pairs = read_pairs(arguments.pairs) if arguments.pairs else []
    try:
        by_variant = figures(arguments.bundle, texts, pairs, engine=arguments.engine)
    except ClsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({"bundle": arguments.bundle.name, "texts": len(texts), "pairs": len(pairs), "variants": by_variant}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
