"""Batches as a packed graph reads them, and the same padded, for tests of packed graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.packing import packed

Array = NDArray[Any]


def batch_of(lengths: Sequence[int], *, vocabulary: int, pad_id: int = 0, unpooled: Sequence[int] | None = None) -> TokenBatch:
    """Random ids, the padding's among them, and token types of 0 and 1."""
    generator = np.random.default_rng(0)
    count = sum(lengths)
    ids = generator.integers(0, vocabulary, count).astype(np.int32)
    ids[1::4] = pad_id
    types = generator.integers(0, 2, count).astype(np.int32)
    marked = None if unpooled is None else np.array(unpooled, dtype=np.int32)
    return TokenBatch(ids, np.array(lengths, dtype=np.int32), types, unpooled=marked, pad_id=pad_id)


def packed_feed(model: ir.Model, batch: TokenBatch) -> Mapping[str, Array]:
    """The inputs of a packed graph."""
    return packed(batch, [str(value.name) for value in model.graph.inputs])


def padded_feed(model: ir.Model, batch: TokenBatch) -> dict[str, Array]:
    """The inputs of a traced graph, int64 [B, S]."""
    mask = packed(batch, ["attention_mask"])["attention_mask"].astype(np.int64)

    def laid_out(values: Array | None, filler: int) -> Array:
        array = np.full(mask.shape, filler, dtype=np.int64)
        if values is not None:
            array[mask > 0] = values
        return array

    arrays = {
        "input_ids": laid_out(batch.input_ids, batch.pad_id),
        "attention_mask": mask,
        "token_type_ids": laid_out(batch.token_type_ids, 0),
    }
    return {str(value.name): arrays[str(value.name)] for value in model.graph.inputs}
