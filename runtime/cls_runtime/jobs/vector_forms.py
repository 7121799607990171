"""Which vectors a job makes, with nothing left open, and what it records of them.

Two jobs whose vectors may lie in one folder have the same record. It says no more than a job of cls-export 0.1 did where nothing is asked
for that 0.1 did not know, so that such a job goes on.
"""

from __future__ import annotations

import base64
import dataclasses
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.manifest import Manifest
from cls_runtime.encoding.finishing import unquantized
from cls_runtime.encoding.vector_options import WITH_RANGES, VectorForm, VectorOptions
from cls_runtime.errors import BundleError, DimensionsWarning
from cls_runtime.jobs.ranges import ranges_sha256

# Of vectors that are cut behind their normalization, as a model's own `truncate_dim` asks for: they have not unit length.
_BEFORE_THE_CUT = "before the cut"


def form_of(options: VectorOptions, bundle: Bundle, *, scaled: bool) -> VectorForm:
    """What each vector of a job is with this bundle.

    Args:
        options: what is asked for.
        bundle: decides what is left open; where ranges are needed and none given, they are those of its golden texts.
        scaled: int8 without ranges has a scale for each row, and needs none.

    Raises:
        UsageError: the options do not fit the bundle.
        BundleError: its golden vectors are needed, and cannot be read.
    """
    form = options.of(bundle.manifest)
    if form.dtype not in WITH_RANGES or form.ranges is not None or (scaled and form.dtype == "int8"):
        return form
    return dataclasses.replace(form, ranges=own_ranges(bundle, form))


def warn_of_dimensions(options: VectorOptions, manifest: Manifest, *, stacklevel: int) -> None:
    """Gives the DimensionsWarning of a whole job, where it asks for a size that the model does not name."""
    if (doubt := options.doubt(manifest)) is not None:
        warnings.warn(doubt, DimensionsWarning, stacklevel=stacklevel + 1)


def own_ranges(bundle: Bundle, form: VectorForm) -> NDArray[np.float32]:
    """What `Encoder.ranges` gives for vectors of this form, without an Encoder: float32 [2, form.dimensions].

    Raises:
        BundleError: the golden vectors cannot be read.
    """
    golden = read_golden(bundle.companion(GOLDEN_NAME)).vectors
    if not len(golden.get(form.output, ())):
        raise BundleError(f"{GOLDEN_NAME} has no vectors of {form.output!r}; export the bundle again, or give ranges of your own")
    vectors = unquantized(golden[form.output].copy(), form, first_index=0, on_invalid="keep")
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


def has_scales(form: VectorForm) -> bool:
    """Whether a vector is int8 times a number of its own."""
    return form.dtype == "int8" and form.ranges is None


def stored_width(form: VectorForm) -> int:
    """How many numbers a stored vector has: one for eight of its own where each is a bit."""
    return -(-form.dimensions // 8) if form.dtype in ("binary", "ubinary") else form.dimensions


def deciding(form: VectorForm) -> dict[str, Any]:
    """What a resumed job must share."""
    record: dict[str, Any] = {"output": form.output, "normalize": _normalized(form), "dtype": form.dtype}
    if form.prompt:
        record["prompt"] = form.prompt
    if form.dimensions < form.width:
        record["dimensions"] = form.dimensions
    if form.ranges is not None:
        record["ranges_sha256"] = ranges_sha256(form.ranges)
    return record


def origin(form: VectorForm) -> dict[str, str]:
    """What a shard says of its vectors: enough to compute the same of a query, and to turn bytes back into numbers."""
    record = {
        "output": form.output,
        "normalized": str(_normalized(form)).lower(),
        "prompt": form.prompt,
        "dimensions": str(form.dimensions),
        "dtype": form.dtype,
    }
    if form.ranges is not None:
        packed = np.ascontiguousarray(form.ranges, dtype="<f4").tobytes()
        record |= {"ranges_sha256": ranges_sha256(form.ranges), "ranges": base64.b64encode(packed).decode("ascii")}
    return record


def _normalized(form: VectorForm) -> bool | str:
    return _BEFORE_THE_CUT if form.normalize_whole else form.normalize
