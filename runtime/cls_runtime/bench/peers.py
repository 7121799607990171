"""From texts to vectors, here and with what people would use instead.

Each side is a process of its own; a peer runs in an environment of its own (`peer_environments`). All have the same texts and threads, and
cut at the bundle's maximum length. Before anything is timed, each side's vectors are held against PyTorch's. They take turns: the order
changes every round, who is not on turn computes nothing, and every sample is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cls_runtime.manifest import ParityFigures

# Each peer, and the ways to use it: first as its documentation shows, then at its best. Its run.py says what each means.
PEERS: Mapping[str, tuple[str, ...]] = {
    "transformers": ("as_given", "sorted"),
    "sentence-transformers": ("torch", "onnx", "onnx_int8"),
    "optimum": ("fp32", "int8", "int8_sorted"),
    "fastembed": ("fp32", "int8", "int8_sorted"),
    "ctranslate2": ("int8", "fp32_sorted", "int8_sorted"),
    "openvino": ("int8", "fp32_sorted", "int8_sorted"),
}


@dataclass(frozen=True, kw_only=True)
class PeerSide:
    """One side of the comparison.

    `name` is `peer:settings` (`fastembed:int8`) or `cls-export:engine:variant`. `seconds` has the time of every round, in order, for all
    texts. `parity` compares with the reference's vectors. A side that failed says why in `failed`, on one line, and has no figure of speed.
    """

    name: str
    settings: str = ""
    versions: Mapping[str, str]
    seconds: tuple[float, ...] = ()
    texts_per_second: float | None = None
    parity: ParityFigures | None = None
    failed: str | None = None


@dataclass(frozen=True, kw_only=True)
class SpeedRatio:
    """How many times as fast `ours` is as `theirs`: the median of the rounds' ratios, the lowest and the highest."""

    ours: str
    theirs: str
    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class PeerComparison:
    """Everything measured; `reference` is the side whose vectors the others were compared with."""

    texts: int
    mean_tokens: float
    threads: int
    reference: str
    sides: tuple[PeerSide, ...]
    ratios: tuple[SpeedRatio, ...]


def compare_with_peers(
    bundle: Path,
    *,
    checkpoint: str | Path,
    texts: Sequence[str],
    peers: Sequence[str],
    ours: Sequence[str] = ("auto:auto",),
    calibration: Sequence[str] = (),
    threads: int = 2,
    rounds: int = 5,
    environments: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> PeerComparison:
    """Times the bundle against `peers`; see the module's docstring.

    A peer that cannot be installed, fails, takes too long or gives other vectors is in the result with the reason, and is not timed.

    Args:
        bundle: the bundle's folder.
        checkpoint: what the bundle was made from, a folder or a hub id: the peers make their own files from it.
        texts: what every side embeds in every round.
        peers: `fastembed` (all the ways in `PEERS`) or `fastembed:int8` (one of them).
        ours: the bundle's sides, `engine:variant`. An engine that is not installed here runs in an environment of its own.
        calibration: texts for peers that calibrate, none of them in `texts`; default: sentences from Python's own docstrings.
        threads: CPU threads of each side.
        rounds: how often every side embeds the texts.
        environments: the folder for the peers' environments and converted models; default: `default_environments()`.
        progress: is told in one line what happens next.

    Raises:
        UsageError: an unknown peer, or nothing to compare.
        BundleError: the bundle cannot be read.
    """
    raise NotImplementedError


def default_environments() -> Path:
    """The folder for the peers' environments where none is named: `cls-export/peers` in the user's cache folder."""
    raise NotImplementedError
