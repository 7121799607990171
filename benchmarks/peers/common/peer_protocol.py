"""What every runner in benchmarks/peers/ speaks. It imports numpy only, so that it works in each peer's environment.

A runner is a process that loads its model, says so, and then waits: it takes its turns and computes nothing between them.

    <- {"ready": true, "settings": "...", "versions": {...}}
    -> {"texts": "texts.json", "vectors": "vectors.npy"}     texts in, the file for float32 [n, width] out
    <- {"seconds": 1.23}                                      from the list of str to the array, files not counted
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

# Libraries print where they like; the protocol has the true standard output to itself. So this module is imported first.
ANSWERS = os.fdopen(os.dup(sys.stdout.fileno()), "w")
os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

Embed = Callable[[Sequence[str]], np.ndarray]


def arguments() -> argparse.Namespace:
    """The arguments that every runner gets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint folder (for cls_export: the bundle)")
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is converted once")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--settings", required=True, help="which of the runner's ways to use the peer")
    return parser.parse_args()


def serve(embed: Embed, *, settings: str, packages: Sequence[str]) -> None:
    """Says that it is ready, and answers until standard input ends."""

    def say(message: dict[str, object]) -> None:
        ANSWERS.write(json.dumps(message) + "\n")
        ANSWERS.flush()

    embed(["a text", "another text that is a little longer"])
    say({"ready": True, "settings": settings, "versions": {name: metadata.version(name) for name in packages}})
    for line in sys.stdin:
        request = json.loads(line)
        texts = json.loads(Path(request["texts"]).read_text(encoding="utf-8"))
        start = time.perf_counter()
        vectors = embed(texts)
        seconds = time.perf_counter() - start
        np.save(request["vectors"], np.asarray(vectors, dtype=np.float32))
        say({"seconds": seconds})


def sorted_batches(lengths: Sequence[int], *, token_budget: int = 1024) -> list[list[int]]:
    """What a careful user of a peer writes by hand: longest first, as many texts as fit a budget of padded tokens."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > token_budget:
            batches.append([])
        batches[-1].append(index)
    return batches
