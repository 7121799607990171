"""What one call of `Encoder.encode` is asked for, and what each vector is once the bundle has its say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cls_runtime.bundle.manifest import GRAPH_OUTPUTS, Manifest, Output
from cls_runtime.encoding.prompts import chosen_prompt
from cls_runtime.errors import UsageError
from cls_runtime.option_checks import check_choice, check_count

Float32 = NDArray[np.float32]
DType = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]

# The outputs that are a sentence's vector: trained to be compared, to have unit length and to be cut.
_SENTENCE = ("sentence", "cls")
_DTYPES: tuple[str, ...] = get_args(DType)
WITH_RANGES = ("int8", "uint8")


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorForm:
    """What each vector of a call is, nothing left open.

    Attributes:
        output: the output, by the name under which it is recorded.
        prompt: what goes before each text.
        width: how many numbers the graph gives.
        dimensions: how many of them, from the first, are given.
        normalize: the numbers that are given are divided by their L2 norm.
        normalize_whole: all numbers were, before the cut.
        dtype: what the numbers become.
        ranges: float32 [2, dimensions], the least and the largest of each number, where the caller gave them.
    """

    output: Output
    prompt: str
    width: int
    dimensions: int
    normalize: bool
    normalize_whole: bool
    dtype: DType
    ranges: Float32 | None

    @property
    def graph_output(self) -> str:
        """The graph's output."""
        return GRAPH_OUTPUTS[self.output]


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorOptions:
    """The options of `Encoder.encode`, which says what each of them does.

    Raises:
        UsageError: a value, or two of them together, that make no sense with any bundle.
    """

    output: Output = "sentence"
    normalize: bool | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    dimensions: int | None = None
    dtype: DType = "float32"
    ranges: ArrayLike | None = None

    def __post_init__(self) -> None:
        if self.normalize is not None and not isinstance(self.normalize, bool):
            raise UsageError(f"normalize is {self.normalize!r}, expected True, False, or None for what the model was trained with")
        for name, value in (("prompt_name", self.prompt_name), ("prompt", self.prompt)):
            if value is not None and not isinstance(value, str):
                raise UsageError(f"{name} is {value!r}, expected a str or None")
        if self.prompt is not None and any("\ud800" <= character <= "\udfff" for character in self.prompt):
            raise UsageError(f"prompt is {self.prompt!r}, expected valid Unicode; decode its source with errors='replace'")
        check_choice("dtype", self.dtype, _DTYPES)
        if self.output == "tokens" and self.dtype not in ("float32", "float16"):
            raise UsageError(f"dtype is {self.dtype!r}, tokens are float32 or float16")
        if self.ranges is not None and self.dtype not in WITH_RANGES:
            raise UsageError(f"ranges are for {' and '.join(WITH_RANGES)}, dtype is {self.dtype!r}; leave them out")
        if self.dimensions is not None:
            if isinstance(self.dimensions, np.integer):
                object.__setattr__(self, "dimensions", int(self.dimensions))
            check_count("dimensions", self.dimensions, or_none=True)
            if self.output in get_args(Output) and self.output not in _SENTENCE:
                raise UsageError(f"dimensions cuts a sentence's vector, output is {self.output!r}; leave it out")

    def of(self, manifest: Manifest) -> VectorForm:
        """What each vector is with this bundle.

        Raises:
            UsageError: the bundle has no such output or prompt, or its vectors have fewer `dimensions`; the ranges are not as many; or
                there is a prompt that the model was trained to leave out, which the bundle's graph does not know.
        """
        output, width = manifest.recorded(self.output), manifest.width(self.output)
        is_sentence = output in _SENTENCE
        trained = is_sentence and manifest.source_pooling.normalize
        whole, dimensions = False, width
        if self.dimensions is not None:
            dimensions, normalize = self.dimensions, self.normalize is not False
            if dimensions > width:
                raise UsageError(f"dimensions is {dimensions}, the vectors of this bundle have {width}; choose at most {width}")
        elif is_sentence and manifest.truncate_dim is not None and manifest.truncate_dim < width:
            # As sentence-transformers, which cuts behind its Normalize module.
            dimensions, normalize, whole = manifest.truncate_dim, self.normalize is True, trained and self.normalize is None
        else:
            normalize = trained if self.normalize is None else self.normalize
        prompt = chosen_prompt(manifest, prompt=self.prompt, prompt_name=self.prompt_name)
        if prompt and not manifest.source_pooling.include_prompt and not manifest.leaves_prompt_out:
            raise UsageError("the model's vectors leave a prompt out, this bundle's graph does not; export it again, or pass prompt=''")
        return VectorForm(
            output=output,
            prompt=prompt,
            width=width,
            dimensions=dimensions,
            normalize=normalize,
            normalize_whole=whole,
            dtype=self.dtype,
            ranges=None if self.ranges is None else _checked_ranges(self.ranges, dimensions),
        )

    def doubt(self, manifest: Manifest) -> str | None:
        """Why vectors cut to `dimensions` may be bad ones, in words; None where the model names that size."""
        if self.dimensions is None:
            return None
        sizes = sorted({*manifest.matryoshka_dims, *(() if manifest.truncate_dim is None else (manifest.truncate_dim,))})
        if self.dimensions in (*sizes, manifest.width(self.output)):
            return None
        named = f"names {', '.join(map(str, sizes))}" if sizes else "names no smaller sizes"
        return f"dimensions is {self.dimensions}, this bundle {named}; measure the loss, or leave it out"


def real_numbers(given: ArrayLike) -> NDArray[Any]:
    """`given` as an array, nothing of which is lost where it becomes one of floats: no complex numbers, texts or dates.

    Raises:
        TypeError, ValueError: they are that, or no array at all.
    """
    array = np.asarray(given)
    if array.dtype.kind not in "biufVO":
        raise TypeError(array.dtype)
    return array


def _checked_ranges(ranges: ArrayLike, dimensions: int) -> Float32:
    """`ranges` as float32 [2, dimensions].

    Raises:
        UsageError: they are something else, not finite, or a largest number is below its least.
    """
    try:
        array = real_numbers(ranges).astype(np.float32)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"ranges are a {type(ranges).__name__}, expected float32 [2, {dimensions}]") from None
    if array.shape != (2, dimensions):
        raise UsageError(f"ranges have shape {list(array.shape)}, expected [2, {dimensions}], the least and the largest of each number")
    with np.errstate(all="ignore"):
        spans = array[1] - array[0]
    if not (np.isfinite(array).all() and np.isfinite(spans).all() and (spans >= 0).all()):
        raise UsageError("ranges must be finite, the least of each number first; Encoder.ranges gives the bundle's own")
    return array
