"""What an index into a table of embeddings means: places of tokens, recognised by their values on batches that tell them apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.graph.evaluating import computed_from, content_inputs, evaluator_of
from cls_exporter.graph.passes.rewriting import constant_ints

Ints = NDArray[np.integer]
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PROBE_SHAPES = ((3, 7), (2, 4))  # B, S


@dataclass(frozen=True)
class Same:
    """`number` for every token."""

    number: int


@dataclass(frozen=True)
class Positions:
    """The token's place in its text, from `first` on."""

    first: int


@dataclass(frozen=True)
class Counted:
    """How many of its text's tokens up to and with this one are not `pad_id`, and `first`; only `first` for such a token."""

    pad_id: int
    first: int


Index = Same | Positions | Counted


def index_of(graph: ir.Graph, value: ir.Value) -> Index | None:
    """What `value`, integers that broadcast to [B, S], means; None where it is nothing of these."""
    if not content_inputs(value) <= set(_INPUTS):
        return None
    pads = sorted(_constants_before(value))
    evaluator = evaluator_of(graph, value)
    seen: list[tuple[Ints, Ints]] = []  # ids, and what `value` is for them, [B, S] both
    for feed in _probes(evaluator.input_names, pads):
        ids = feed["input_ids"]
        array = np.asarray(next(iter(evaluator.run(None, dict(feed)))))
        if array.ndim > 2 or array.shape[-1:] != ids.shape[-1:] or array.shape[:-1] not in ((), (1,), ids.shape[:1]):
            return None
        seen.append((ids, np.broadcast_to(array, ids.shape)))
    first = int(seen[0][1][0, 0])
    candidates: list[Index] = [Same(first), Positions(first)]
    for pad_id in pads:
        ids, array = seen[0]
        candidates.append(Counted(pad_id, first if ids[0, 0] == pad_id else first - 1))
    return next((item for item in candidates if all(np.array_equal(array, _computed(item, ids)) for ids, array in seen)), None)


def _computed(index: Index, ids: Ints) -> Ints:
    if isinstance(index, Same):
        return np.full(ids.shape, index.number)
    if isinstance(index, Positions):
        return np.broadcast_to(np.arange(ids.shape[1]) + index.first, ids.shape)
    counted = (ids != index.pad_id).astype(np.int64)
    places: Ints = counted.cumsum(1) * counted + index.first
    return places


def _constants_before(value: ir.Value) -> set[int]:
    """The integers that `value` is computed with: one of them may be the id of padding."""
    constants = map(constant_ints, computed_from(value))
    return {numbers[0] for numbers in constants if numbers is not None and len(numbers) == 1}


def _probes(names: list[str], pads: list[int]) -> Iterator[Mapping[str, Ints]]:
    """Inputs, int64 [B, S] each: ids with each of `pads` among them, at the first place too, and a mask with padding."""
    generator = np.random.default_rng(0)
    for batch, length in PROBE_SHAPES:
        for pad_id in [None, *pads]:
            ids = generator.integers(0, 100, (batch, length))
            if pad_id is not None:
                ids[:, 1::3] = pad_id
                ids[-1, [0, -1]] = pad_id
            mask = (np.arange(length) < generator.integers(1, length + 1, (batch, 1))).astype(np.int64)
            given = dict(zip(_INPUTS, (ids, mask, generator.integers(0, 2, (batch, length))), strict=True))
            yield {"input_ids": ids, **{name: given[name] for name in names if name in given}}
