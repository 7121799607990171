"""The parity gate: what a graph must pass before its bundle appears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cls_exporter.errors import ParityError
from cls_exporter.gate.packed_engine import PackedEngine, load_packed
from cls_exporter.gate.prompted_batch import PromptedBatch, token_batch
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import Golden
from cls_runtime.bundle.manifest import GRAPH_OUTPUTS, Output, ParityFigures
from cls_runtime.bundle.parity import Thresholds, batch_shortfalls, parity_figures, shortfalls, thresholds_for, vector_bits
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.options import EncoderOptions
from cls_runtime.engines.base import Engine
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.engines.onnxruntime import load_graph
from cls_runtime.errors import EngineError
from cls_runtime.verifying import vector_checks

_FILLED_UP_TEXTS = 8


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of a graph: against PyTorch by output, and of texts alone against the same texts in batches.

    `bits` are the `vector_bits` of the golden texts, by output, of an engine's own form.
    """

    parity: Mapping[str, ParityFigures]
    batch_invariance: ParityFigures
    bits: Mapping[Output, str]


class _MissError(Exception):
    """What a graph does not hold, as a short fact; `hold` says of which variant."""


def hold(
    graph: Path,
    bundle: Bundle,
    golden: Golden,
    *,
    variant: str,
    packed: bool = False,
    pad_id: int = 0,
    prompted: PromptedBatch | None = None,
    tried: str = "",
) -> Measured:
    """Runs an ONNX file on ONNX Runtime's CPU provider and holds it to PyTorch's vectors.

    Args:
        graph: the file. The bundle's manifest need not name it, so that it can be written once, with the figures found here.
        bundle: its tokenizer gives the tokens, its manifest says which inputs, outputs and how many tokens there are.
        golden: texts and PyTorch's vectors of them.
        variant: whose thresholds hold.
        packed: the graph is for a GPU, its tokens without padding; the operators that a CPU lacks are spelled out for it.
        pad_id: what a packed batch is filled up with.
        prompted: a batch with marked prompts, where the graph leaves them out of its pooling.
        tried: what was done for accuracy, for the message where a figure misses.

    Raises:
        ParityError: a figure misses its threshold, a vector is not finite, or a text's vector depends on its batch; the message names the
            worst text.
        BundleError: the graph cannot be loaded, or has other inputs or outputs than the manifest says.
        GraphError: the same of a packed one.
    """
    engine: Engine = load_packed(graph, bundle.manifest) if packed else load_graph(graph, bundle.manifest, threads=available_cpus())
    form = f"its packed form {graph.name}: " if packed else ""
    return _held(engine, bundle, golden, _Bounds(variant, None), form=form, pad_id=pad_id, prompted=prompted, tried=tried)


def hold_engine(
    engine: Engine, bundle: Bundle, golden: Golden, *, variant: str, own_form: str, prompted: PromptedBatch | None = None
) -> Measured:
    """The same of an engine's own form of a variant, on that engine, which is closed; its thresholds are those of `own_form`.

    Raises:
        ParityError: as of `hold`.
    """
    return _held(engine, bundle, golden, _Bounds(variant, own_form), form=f"its form for engine {own_form}: ", prompted=prompted)


@dataclass(frozen=True)
class _Bounds:
    """Whose thresholds hold: a variant's, and of an engine's own form those of the engine."""

    variant: str
    engine: str | None

    def of(self, output: str) -> Thresholds:
        """The thresholds of one output."""
        return thresholds_for(self.variant, output, engine=self.engine)


def _held(
    engine: Engine,
    bundle: Bundle,
    golden: Golden,
    bounds: _Bounds,
    *,
    form: str,
    pad_id: int = 0,
    prompted: PromptedBatch | None = None,
    tried: str = "",
) -> Measured:
    outputs = bundle.manifest.recorded_outputs
    unpadded = isinstance(engine, PackedEngine) or bounds.engine is not None
    with _encoder(engine, bundle, bounds.variant) as loaded:
        encoder = vector_checks.EncodedOnce(loaded)
        try:
            _check_finite(encoder, golden, outputs)
            parity: dict[str, ParityFigures] = {output: _parity(encoder, golden, output, bounds, tried=tried) for output in outputs}
            batch_invariance = _batch_invariance(encoder, golden, bounds)
            _check_odd_batches(engine, golden, outputs, packed=unpadded)
            if isinstance(engine, PackedEngine):
                _check_filled_up(engine, golden, outputs, bounds, pad_id=pad_id)
            if prompted is not None:
                _check_prompted(engine, prompted, outputs, bounds)
        except (_MissError, EngineError) as miss:
            raise ParityError(f"{bounds.variant} is not exported: {form}{miss}") from miss.__cause__
        own = outputs if bounds.engine is not None else ()
        bits = {output: vector_bits(vector_checks.golden_rows(encoder, golden, output)[0].vectors) for output in own}
    return Measured(parity=parity, batch_invariance=batch_invariance, bits=bits)


def _encoder(engine: Engine, bundle: Bundle, variant: str) -> Encoder:
    """An encoder that does not stop at what is wrong: the checks report it."""
    return Encoder.of(bundle, engine, EncoderOptions(variant=variant, on_overflow="truncate", on_invalid="keep"))


def _check_finite(encoder: vector_checks.EncodedOnce, golden: Golden, outputs: Sequence[Output]) -> None:
    finite = vector_checks.finite(encoder, golden.inputs, outputs)
    if not finite.passed:
        raise _MissError(finite.message)


def _parity(encoder: vector_checks.EncodedOnce, golden: Golden, output: Output, bounds: _Bounds, *, tried: str) -> ParityFigures:
    rows, expected = vector_checks.golden_rows(encoder, golden, output)
    figures = rows.figures(expected)
    if missed := shortfalls(figures, bounds.of(output)):
        worst = f"worst is text {figures.worst_text} {str(golden.inputs[figures.worst_text])[:60]!r}"
        raise _MissError(f"{output} against PyTorch has {'; '.join(missed)}; {worst}" + (f"; tried: {tried}" if tried else ""))
    return figures


def _batch_invariance(encoder: vector_checks.EncodedOnce, golden: Golden, bounds: _Bounds) -> ParityFigures:
    figures, worst = vector_checks.alone_against_batches(encoder, golden.inputs)
    if missed := batch_shortfalls(figures, bounds.of("cls")):
        raise _MissError(f"{'; '.join(missed)}; {worst}")
    return figures


def _check_odd_batches(engine: Engine, golden: Golden, outputs: Sequence[Output], *, packed: bool) -> None:
    """What no text becomes, but other programs may feed to the graph: one token, and a row of padding beside the longest text.

    Where there is no padding there is no such row.
    """
    assert golden.token_ids is not None
    longest = max(golden.token_ids, key=len)
    first = longest[:1]
    batches: dict[str, list[Sequence[int]]] = {"one token": [first]}
    if packed:
        batches["the longest text and one token"] = [longest, first]
    else:
        batches["the longest text, one token and a row of padding only"] = [longest, first, ()]
    for name, rows in batches.items():
        vectors = engine.run(token_batch(rows), [GRAPH_OUTPUTS[output] for output in outputs])
        for output, numbers in zip(outputs, vectors, strict=True):
            if not np.isfinite(numbers).all():
                raise _MissError(f"{output} is not finite for a batch of {name}")


def _check_filled_up(engine: PackedEngine, golden: Golden, outputs: Sequence[Output], bounds: _Bounds, *, pad_id: int) -> None:
    """The texts that a GPU's engine fills batches up with change the vectors beside them no more than other texts may."""
    assert golden.token_ids is not None
    several = golden.token_ids[:: -(-len(golden.token_ids) // _FILLED_UP_TEXTS)]
    for rows in (several, several[:1]):
        batch = replace(token_batch(rows), pad_id=pad_id)
        names = [GRAPH_OUTPUTS[output] for output in outputs]
        for output, expected, numbers in zip(outputs, engine.run(batch, names), engine.run_filled_up(batch, names), strict=True):
            if missed := batch_shortfalls(parity_figures(expected, numbers), bounds.of(output)):
                raise _MissError(f"{output} of a batch of {batch.texts} texts with padding added: {'; '.join(missed)}")


def _check_prompted(engine: Engine, prompted: PromptedBatch, outputs: Sequence[Output], bounds: _Bounds) -> None:
    """The few texts are held to what bounds each alone."""
    vectors = engine.run(prompted.batch, [GRAPH_OUTPUTS[output] for output in outputs])
    for output, numbers in zip(outputs, vectors, strict=True):
        expected = prompted.outputs[output]
        alone = replace(bounds.of(output), mean_cosine=None, p1_cosine=None)
        if missed := shortfalls(parity_figures(expected, numbers), alone):
            raise _MissError(f"{output} of texts with an unpooled prompt against PyTorch has {'; '.join(missed)}")
