"""From texts to vectors, here and with what people would use instead.

Each side is a process of its own; a peer runs in an environment of its own (`peer_environments`). All have the same texts and threads, and
cut at the bundle's maximum length; the vectors are what the bundle's pooling makes, of texts without a prompt, whole and of no unit length.
Before anything is timed, each side's vectors are held against PyTorch's. They take turns: the order changes every round, who is not on turn
computes nothing, and every sample is kept. Every round leaves out other texts, so that its batches have other shapes, as a corpus's have:
an engine that keeps a kernel for each shape would otherwise be timed on what it has seen before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cls_runtime.bench.peer_environments import OURS, PeerError, default_environments
from cls_runtime.bench.peer_sides import PeerLimits, PeerSide, RunningSide, SideLauncher
from cls_runtime.bench.spread import spread, times_as_fast
from cls_runtime.bench.texts import calibration_sentences
from cls_runtime.bench.turns import in_turns
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.manifest import Manifest, Pooling
from cls_runtime.bundle.parity import parity_figures
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.errors import EngineError, UsageError
from cls_runtime.suggestions import did_you_mean

# Each peer, and the ways to use it: first as its documentation shows, then at its best. Its run.py says what each means.
PEERS: Mapping[str, tuple[str, ...]] = {
    "transformers": ("as_given", "sorted"),
    "sentence-transformers": ("torch", "onnx", "onnx_int8"),
    "optimum": ("fp32", "int8", "int8_sorted"),
    "fastembed": ("fp32", "int8", "int8_sorted"),
    "ctranslate2": ("int8", "fp32_sorted", "int8_sorted"),
    "openvino": ("int8", "fp32_sorted", "int8_sorted"),
}

DEFAULT_LIMITS = PeerLimits()
# The peer whose fp32 vectors are PyTorch's own.
PYTORCH = "transformers"
# A lower mean cosine to fp32 is another model or another pooling, and its time means nothing. Dynamic int8 of a small model has 0.98.
LEAST_MEAN_COSINE = 0.95
CALIBRATION_TEXTS = 320
_REFERENCE_STEP = "vectors to compare with"


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
    """Everything measured; `reference` is the side whose vectors the others were compared with.

    All sides had the same texts in a round: `round_texts` of the `texts`. `pooling` is what every side's vectors are.
    """

    texts: int
    round_texts: tuple[int, ...] = ()
    mean_tokens: float
    threads: int
    pooling: Pooling = "cls"
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
    limits: PeerLimits = DEFAULT_LIMITS,
    progress: Callable[[str], None] = lambda _: None,
) -> PeerComparison:
    """Times the bundle against `peers`; see the module's docstring.

    A peer that cannot be installed, fails, takes too long or gives other vectors is in the result with the reason, and is not timed. The
    vectors are compared with those of the peer `transformers` where it is among the peers and works, otherwise with the bundle's fp32.

    Args:
        bundle: the bundle's folder.
        checkpoint: what the bundle was made from, a folder or a hub id: the peers make their own files from it.
        texts: what every side embeds; a round leaves out one of `rounds` + 1, other ones each.
        peers: `fastembed` (all the ways in `PEERS`) or `fastembed:int8` (one of them).
        ours: the bundle's sides, `engine:variant`. An engine that is not installed here runs in an environment of its own.
        calibration: texts for peers that calibrate, none of them in `texts`; default: sentences from Python's own docstrings.
        threads: CPU threads of each side.
        rounds: how often every side embeds the texts.
        environments: the folder for the peers' environments and converted models; default: `default_environments()`.
        limits: how long a side may take.
        progress: is told in one line what happens next.

    Raises:
        UsageError: an unknown peer, nothing to compare, or a bundle whose vectors go through Dense layers.
        BundleError: the bundle cannot be read.
        EngineError: no side gives fp32 vectors to compare with.
    """
    opened = Bundle.open(bundle)
    sides = [RunningSide(name=name) for name in side_names(ours, peers)]
    if not texts or rounds < 1 or threads < 1:
        raise UsageError(f"{len(texts)} texts, {rounds} rounds and {threads} threads; a comparison needs at least one of each")
    check_comparable(opened.manifest)
    if not isinstance(checkpoint, Path) and Path(checkpoint).is_dir():
        checkpoint = Path(checkpoint)
    timed = set(texts)
    with tempfile.TemporaryDirectory(prefix="cls-bench-") as scratch:
        launcher = SideLauncher(
            bundle=bundle.resolve(),
            checkpoint=checkpoint.resolve() if isinstance(checkpoint, Path) else checkpoint,
            max_length=opened.manifest.max_length,
            pooling=opened.manifest.pooling,
            calibration=tuple(text for text in calibration or calibration_sentences(CALIBRATION_TEXTS) if text not in timed),
            threads=threads,
            environments=(environments or default_environments()).resolve(),
            limits=limits,
            scratch=Path(scratch),
        )
        launcher.give(texts)
        try:
            for side in sides:
                progress(_launching(side.name))
                launcher.launch(side)
            progress(_REFERENCE_STEP)
            reference = _hold_against_reference(sides, launcher, opened.manifest)
            parts = [texts_of_round(texts, index, rounds=rounds) for index in range(rounds)]
            _take_turns(sides, launcher, parts, progress=progress)
        finally:
            for side in sides:
                side.end()
    return PeerComparison(
        texts=len(texts),
        round_texts=tuple(map(len, parts)),
        mean_tokens=float(TextTokenizer.from_bundle(opened).tokenize(texts).lengths.mean()),
        threads=threads,
        pooling=opened.manifest.pooling,
        reference=reference,
        sides=tuple(side.result([len(part) for part in parts]) for side in sides),
        ratios=_ratios([side for side in sides if side.failed is None]),
    )


def check_comparable(manifest: Manifest) -> None:
    """Raises UsageError: what the peers' programs end with, the pooling, is not yet this bundle's vector."""
    if manifest.source_pooling.dense:
        raise UsageError(
            "the peers' programs end with the pooling, this bundle's vectors go through Dense layers after it; compare a model without them"
        )


def comparison_steps(names: Sequence[str], *, rounds: int) -> tuple[str, ...]:
    """What `compare_with_peers` tells its `progress`, in order, for sides of these names (`side_names`).

    >>> comparison_steps(["cls-export:auto:int8", "fastembed:int8"], rounds=1)
    ('cls-export:auto:int8: getting ready', 'fastembed:int8: getting ready', 'vectors to compare with', 'round 1 of 1')
    """
    return (*map(_launching, names), _REFERENCE_STEP, *(_round(index, rounds) for index in range(rounds)))


def _launching(name: str) -> str:
    return f"{name}: getting ready"


def _round(index: int, rounds: int) -> str:
    return f"round {index + 1} of {rounds}"


def texts_of_round(texts: Sequence[str], index: int, *, rounds: int) -> list[str]:
    """What every side embeds in a round: all texts but one of `rounds` + 1; all where that would leave none.

    >>> [texts_of_round(["a", "b", "c", "d"], index, rounds=2) for index in range(2)]
    [['b', 'c'], ['a', 'c', 'd']]
    """
    return [text for place, text in enumerate(texts) if place % (rounds + 1) != index] or list(texts)


def side_names(ours: Sequence[str], peers: Sequence[str]) -> list[str]:
    """The sides of a comparison by their full names, each once, this project's first.

    >>> side_names(["auto:int8"], ["fastembed:int8", "openvino"])
    ['cls-export:auto:int8', 'fastembed:int8', 'openvino:int8', 'openvino:fp32_sorted', 'openvino:int8_sorted']

    Raises:
        UsageError: a peer or one of its ways that is not in `PEERS`, or not `engine:variant`.
    """
    for item in ours:
        if item.count(":") != 1:
            raise UsageError(f"{item!r} is not engine:variant, such as onnxruntime:int8")
    names = [f"{OURS}:{item}" for item in ours]
    for item in peers:
        peer, _, settings = item.partition(":")
        if peer not in PEERS or (settings and settings not in PEERS[peer]):
            known = list(PEERS) if peer not in PEERS else [f"{peer}:{way}" for way in PEERS[peer]]
            raise UsageError(f"unknown peer {item!r}; expected one of {', '.join(known)}{did_you_mean(item, known)}")
        names += [f"{peer}:{way}" for way in ([settings] if settings else PEERS[peer])]
    if not ours or not peers:
        raise UsageError("nothing to compare; name at least one peer and one engine:variant of the bundle")
    return list(dict.fromkeys(names))


def _hold_against_reference(sides: Sequence[RunningSide], launcher: SideLauncher, manifest: Manifest) -> str:
    """Compares every side's vectors with the reference's, and ends those that compute something else; the reference's name."""
    usable = [side for side in sides if side.vectors is not None]
    reference = next((side for side in usable if side.peer == PYTORCH), None)
    if reference is None:
        reference = next((side for side in usable if side.peer == OURS and side.name.endswith(":fp32")), None)
    if reference is None:
        reference = RunningSide(name=f"{OURS}:auto:{'fp32' if 'fp32' in manifest.variants else 'auto'}")
        launcher.launch(reference)
        reference.end()
    if reference.vectors is None:
        raise EngineError(f"no vectors to compare with: {reference.name} {reference.failed}")
    for side in usable:
        assert side.vectors is not None
        if side.vectors.shape != reference.vectors.shape:
            side.fail(f"vectors of shape {side.vectors.shape}, {reference.name} has {reference.vectors.shape}: another model, not timed")
            continue
        side.parity = parity_figures(reference.vectors, side.vectors)
        if side.parity.mean_cosine < LEAST_MEAN_COSINE:
            side.fail(f"mean cosine {side.parity.mean_cosine:.4f} to {reference.name}: another model, not timed")
    return reference.name


def _take_turns(
    sides: Sequence[RunningSide], launcher: SideLauncher, parts: Sequence[Sequence[str]], *, progress: Callable[[str], None]
) -> None:
    """Every side embeds each round's part of the texts, and keeps the seconds that its process tells, up to where it fails."""
    by_name = {side.name: side for side in sides}

    def before_round(index: int) -> None:
        progress(_round(index, len(parts)))
        launcher.give(parts[index])

    def seconds(name: str, _: int) -> float | None:
        side = by_name[name]
        if side.process is None:
            return None
        try:
            return side.process.embed(launcher.texts, launcher.vectors)
        except PeerError as error:
            side.fail(str(error))
            return None

    for name, told in in_turns(by_name, seconds, rounds=len(parts), before_round=before_round).items():
        by_name[name].seconds = tuple(item for item in told if item is not None)


def _ratios(sides: Sequence[RunningSide]) -> tuple[SpeedRatio, ...]:
    ratios = []
    for ours in (side for side in sides if side.peer == OURS):
        for theirs in (side for side in sides if side.peer != OURS):
            of_rounds = spread(times_as_fast(ours.seconds, theirs.seconds))
            ratios.append(SpeedRatio(ours=ours.name, theirs=theirs.name, median=of_rounds.median, low=of_rounds.low, high=of_rounds.high))
    return tuple(ratios)
