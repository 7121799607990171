"""How many of a text's nearest neighbours does an index find that holds its vectors in one byte or one bit a number?

    python benchmarks/vector_index.py BUNDLE --corpus sentences.txt --queries some_of_them.txt

Neighbours are those by cosine of fp32 vectors, the text itself not counted. Every search is exact, so it finds what the indexes of
docs/guides/vector-index.md find; what is lost is lost by the numbers. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cls_runtime import Encoder
from cls_runtime.encoding.quantizing import quantized
from cls_runtime.errors import ClsError

NEIGHBOURS = 10
CANDIDATES = (4 * NEIGHBOURS, 10 * NEIGHBOURS)  # how many are rescored
_BLOCK = 256
Float32 = NDArray[np.float32]
Places = NDArray[np.intp]


def recalls(bundle: Path, corpus: Sequence[str], queries: Sequence[str], *, variant: str) -> dict[str, dict[str, float]]:
    """By what an index holds: the bytes of a vector, and the share of the fp32 vectors' neighbours that it finds."""
    texts = list(dict.fromkeys([*corpus, *queries]))
    places = {text: place for place, text in enumerate(texts)}
    own = np.array([places[text] for text in dict.fromkeys(queries)], dtype=np.intp)
    with Encoder.load(bundle, variant=variant, on_overflow="truncate") as encoder:
        vectors = encoder.encode(texts, normalize=True)
        of_bundle = encoder.ranges(normalize=True)
    of_corpus = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    int8, corpus_int8 = (quantized(vectors, "int8", ranges=ranges).astype(np.float32) for ranges in (of_bundle, of_corpus))
    bits = quantized(vectors, "ubinary")
    width, asked = vectors.shape[1], vectors[own]
    # A query's dot product with int8 codes: each number weighs as much as a step of its code is. What all rows have alike is left out.
    asked_int8, asked_corpus = (asked * (greatest - least) / 255 for least, greatest in (of_bundle, of_corpus))
    signs = np.unpackbits(bits, axis=1, count=width).astype(np.float32) * 2 - 1  # their dot product falls as bits differ
    exact = nearest(asked, vectors, own)
    near = nearest(signs[own], signs, own, count=max(CANDIDATES))
    found = {
        "float32": (4 * width, exact),
        "int8": (width, nearest(asked_int8, int8, own)),
        "int8, ranges of the corpus": (width, nearest(asked_corpus, corpus_int8, own)),
        "ubinary": (bits.shape[1], near[:, :NEIGHBOURS]),
    }
    for count in CANDIDATES:
        best = near[:, :count]
        found[f"ubinary, {count} rescored by int8"] = (bits.shape[1] + width, rescored(asked_int8, int8, best))
        found[f"ubinary, {count} rescored by float32"] = (bits.shape[1] + 4 * width, rescored(asked, vectors, best))
    return {name: {"bytes": size_bytes, "recall": _recall(exact, rows)} for name, (size_bytes, rows) in found.items()}


def nearest(queries: Float32, rows: Float32, own: Places, *, count: int = NEIGHBOURS) -> Places:
    """The rows [q, count] with the greatest dot products, but for each query's own; of equal ones the first."""
    blocks = []
    for start in range(0, len(queries), _BLOCK):
        scores = queries[start : start + _BLOCK] @ rows.T
        scores[np.arange(len(scores)), own[start : start + _BLOCK]] = -np.inf
        blocks.append(np.argsort(-scores, axis=1, kind="stable")[:, :count])
    return np.concatenate(blocks)


def rescored(queries: Float32, rows: Float32, candidates: Places) -> Places:
    """The best of each query's candidates [q, c] by the dot products of other rows."""
    scores = np.stack([rows[near] @ query for query, near in zip(queries, candidates, strict=True)])
    return np.take_along_axis(candidates, np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBOURS], axis=1)


def _recall(exact: Places, found: Places) -> float:
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(exact, found, strict=True)]))


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a folder made by cls-export")
    parser.add_argument("--corpus", type=Path, required=True, metavar="FILE", help="texts, one a line; each counts once")
    parser.add_argument(
        "--queries", type=Path, required=True, metavar="FILE", help="those whose neighbours are looked for; they join the corpus"
    )
    parser.add_argument("--variant", default="fp32", help="the bundle's variant (default: fp32)")
    arguments = parser.parse_args(argv)
    corpus, queries = (list(filter(None, path.read_text(encoding="utf-8").splitlines())) for path in (arguments.corpus, arguments.queries))
    try:
        found = recalls(arguments.bundle, corpus, queries, variant=arguments.variant)
    except ClsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    counts = {"texts": len({*corpus, *queries}), "queries": len({*queries}), "neighbours": NEIGHBOURS}
    print(json.dumps({**counts, "indexes": found}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
