"""What every program in benchmarks/peers/ speaks. It imports numpy only, so that it works in each peer's environment.

`convert.py`, where a peer has one, makes the peer's own files once, and is not timed. `run.py` is a process that loads its model, says so,
and then waits: it takes its turns and computes nothing between them.

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
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

# Libraries print where they like; the protocol has the true standard output to itself. So this module is imported first.
ANSWERS = os.fdopen(os.dup(sys.stdout.fileno()), "w")
os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

Embed = Callable[[Sequence[str]], np.ndarray]


def arguments() -> argparse.Namespace:
    """The arguments that every program gets; `checkpoint` is a folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", required=True, help="the checkpoint's folder or hub id (for cls-export: the bundle)")
    parser.add_argument("--work", type=Path, required=True, help="the folder with what convert.py made")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-length", type=int, required=True, help="tokens; every side cuts here")
    parser.add_argument("--pooling", choices=("cls", "mean"), required=True, help="what a text's vector is, as `pooled` makes it")
    parser.add_argument("--settings", default="", help="which of the ways to use the peer; not for convert.py")
    parser.add_argument("--calibration", type=Path, help="a JSON list of texts, for convert.py")
    options = parser.parse_args()
    options.checkpoint = folder_of(options.checkpoint)
    return options


def folder_of(checkpoint: str) -> Path:
    """The folder of a checkpoint; a hub id is downloaded."""
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(checkpoint, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin"]))


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


def pooled(rows: Any, mask: Any, pooling: str) -> Any:
    """A text's vector, [B, H], from its tokens' rows, [B, S, H]: the first of them, or the mean of those whose mask, [B, S], is 1.

    All three are NumPy's or all three PyTorch's, and of one floating-point type.
    """
    if pooling == "cls":
        return rows[:, 0]
    return (mask[:, None] @ rows)[:, 0] / mask.sum(1)[:, None]


def sorted_batches(lengths: Sequence[int], *, token_budget: int = 1024) -> list[list[int]]:
    """What a careful user of a peer writes by hand: longest first, as many texts as fit a budget of padded tokens."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > token_budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def batches_of(size: int, lengths: Sequence[int]) -> list[list[int]]:
    """What the documentation of most peers shows: as many texts as `size` at a time, in the order given."""
    return [list(range(start, min(start + size, len(lengths)))) for start in range(0, len(lengths), size)]


def in_sorted_order(embed: Embed, texts: Sequence[str], *, width: int) -> np.ndarray:
    """`embed` called once with the longest texts first, its rows put back in the order of `texts`; float32 [n, width]."""
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    rows = np.empty((len(texts), width), dtype=np.float32)
    rows[order] = embed([texts[index] for index in order])
    return rows


def full_batches(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """`texts` in slices of `size`."""
    for start in range(0, len(texts), size):
        yield texts[start : start + size]
