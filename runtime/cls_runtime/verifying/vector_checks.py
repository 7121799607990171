"""The checks that one variant on one engine must pass. Each is a function from a loaded encoder to a `Finding`.

- `golden_vectors`: the bundle's golden texts give PyTorch's vectors, within the variant's thresholds.
- `finite`: every number of every vector is finite, and no vector is zero.
- `batch_invariance`: a text's vector does not depend on what it is encoded with.
- `truncation`: a text over the maximum length is reported, and gives the vector that PyTorch gave for it.
- `live`: the same texts through a PyTorch model now.

The encoder is loaded with `on_overflow="truncate"` and `on_invalid="keep"`: a check reports what is wrong, it does not stop at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.golden import GOLDEN_NAME, Golden
from cls_runtime.bundle.manifest import Manifest, Output, ParityFigures
from cls_runtime.bundle.parity import Thresholds, batch_shortfalls, cosines, parity_figures, shortfalls
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.finishing import Vectors
from cls_runtime.encoding.report import EncodeReport
from cls_runtime.encoding.texts import Text, characters
from cls_runtime.errors import BundleError
from cls_runtime.verifying.text_rows import TextRows

Float32 = NDArray[np.float32]
Figures = Mapping[str, float]
T = TypeVar("T")

# Enough texts to see a batch leak into its members, few enough to encode each of them alone.
MAX_SOLO_TEXTS = 64
MAX_PADDED_TEXTS = 8
# A lower mean cosine is no longer the same row with other numbers. Measured on all-MiniLM-L6-v2 against the CLS row: mean pooling 0.48, the
# last row 0.32, the second 0.20.
FAR_COSINE = 0.9
# How far a mean cosine may be from the one that the export recorded on the same engine: this much, and this part of what the variant loses.
# int8's thresholds leave room for a wrong scale, and one weight's scale off by 10% moves all-MiniLM-L6-v2's mean cosine by 4e-5 to 1e-3.
# Another CPU's kernels, and even another engine, move it by 5e-6, a hundredth of what is lost: now and then an activation that differs in
# its last bit is rounded to another step.
RECORDED_COSINE_MARGIN = 2e-5
RECORDED_LOSS_MARGIN = 0.05


class Encodes(Protocol):
    """What the checks need of an encoder."""

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""

    def encode(self, texts: Sequence[Text], *, output: Output = "sentence") -> Vectors:
        """Vectors of texts as the graph gives them, float32 [n, width]."""

    def encode_with_report(self, texts: Sequence[Text], *, output: Output = "sentence") -> tuple[Vectors, EncodeReport]:
        """The same, and which texts were cut."""


def as_computed(encoder: Encoder, texts: Sequence[Text], *, output: Output = "sentence") -> Vectors:
    """What the graph gives for the texts themselves, as `Encoder.encode` returns it: no prompt before them, nothing cut, no unit length.

    Golden vectors and parity figures are of these, whatever a bundle's vectors are trained to be used like. Errors are those of
    `Encoder.encode`.
    """
    return encoder.encode(texts, output=output, normalize=False, prompt="", dimensions=_all_numbers(encoder, output))


def as_computed_with_report(encoder: Encoder, texts: Sequence[Text], *, output: Output = "sentence") -> tuple[Vectors, EncodeReport]:
    """`as_computed`, and which texts were cut."""
    return encoder.encode_with_report(texts, output=output, normalize=False, prompt="", dimensions=_all_numbers(encoder, output))


def _all_numbers(encoder: Encoder, output: Output) -> int | None:
    """As `dimensions`; other outputs are never cut."""
    return encoder.manifest.width(output) if output in ("sentence", "cls") else None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found: one line of words, and the figures behind it; or that it was skipped, and why."""

    passed: bool
    message: str
    figures: Figures = field(default_factory=dict)
    skipped: bool = False


class EncodedOnce:
    """What an encoder computed, `as_computed`, remembered: several checks look at the vectors of the same texts."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[tuple[tuple[Text, ...], Output], tuple[Vectors, EncodeReport]] = {}

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._encoder.manifest

    def encode(self, texts: Sequence[Text], *, output: Output = "sentence") -> Vectors:
        """`as_computed`, the first time."""
        return self.encode_with_report(texts, output=output)[0]

    def encode_with_report(self, texts: Sequence[Text], *, output: Output = "sentence") -> tuple[Vectors, EncodeReport]:
        """`as_computed_with_report`, the first time."""
        key = (tuple(texts), self.manifest.recorded(output))
        if key not in self._known:
            self._known[key] = as_computed_with_report(self._encoder, texts, output=output)
        return self._known[key]


def golden_vectors(
    encoder: Encodes, reference: Golden, output: Output, thresholds: Thresholds, *, recorded: ParityFigures | None = None
) -> Finding:
    """Encodes the golden texts and compares `output` with PyTorch's vectors, and with the figures `recorded` at the export."""
    rows, expected = golden_rows(encoder, reference, output)
    return _compared(_texts_of(rows, reference.inputs), expected, rows.vectors, output, thresholds, recorded=recorded)


def golden_rows(encoder: Encodes, reference: Golden, output: Output) -> tuple[TextRows, Float32]:
    """The rows of `output` that the encoder gives for the golden texts, and PyTorch's."""
    return TextRows.of(encoder.encode(reference.inputs, output=output), reference.row_positions), _expected(reference, output)


def live(encoder: Encodes, texts: Sequence[Text], reference: Float32, output: Output, thresholds: Thresholds) -> Finding:
    """Compares `output` with `reference`, PyTorch's float32 [n, width] for the same texts; of `tokens` its rows of `sampled_positions`."""
    rows = TextRows.of(encoder.encode(texts, output=output))
    return _compared(_texts_of(rows, texts), reference, rows.vectors, output, thresholds)


def _texts_of(rows: TextRows, texts: Sequence[Text]) -> list[tuple[int, Text]]:
    return [(index, texts[index]) for index in rows.texts]


def finite(encoder: Encodes, texts: Sequence[Text], outputs: Sequence[Output]) -> Finding:
    """Looks for NaN, infinity and all-zero vectors in every output."""
    for output in outputs:
        rows = TextRows.all_of(encoder.encode(texts, output=output))
        invalid = np.asarray(~np.isfinite(rows.vectors).all(1))
        if output != "logits":  # zero logits are a result like any other
            invalid |= ~rows.vectors.any(1)
        if invalid.any():
            bad, first = int(invalid.sum()), rows.texts[int(np.argmax(invalid))]
            found = f"{bad} of {len(rows.texts)} vectors hold NaN, infinity or only zeros"
            message = f"{output}: {found}, the first for {quoted(first, texts[first])}"
            return Finding(passed=False, message=message, figures={"bad_vectors": bad})
    return Finding(passed=True, message=f"{len(texts)} texts, every number is finite ({', '.join(outputs)})", figures={"bad_vectors": 0})


def batch_invariance(encoder: Encodes, texts: Sequence[Text], thresholds: Thresholds) -> Finding:
    """Holds texts that are encoded alone to the same texts in batches."""
    figures, worst = alone_against_batches(encoder, texts)
    missed = batch_shortfalls(figures, thresholds)
    solo = min(len(texts), MAX_SOLO_TEXTS)
    message = f"{solo} texts alone and in batches, largest difference {figures.max_abs:.2g}"
    return Finding(passed=not missed, message=f"{'; '.join(missed)}; {worst}" if missed else message, figures=asdict(figures))


def alone_against_batches(encoder: Encodes, texts: Sequence[Text]) -> tuple[ParityFigures, str]:
    """Encodes texts alone, all together, and a few beside the longest one, which pads them: the figures, and the worst text in words."""
    solo = _spread(list(enumerate(texts)), MAX_SOLO_TEXTS)
    alone = {place: encoder.encode([text])[0] for place, text in solo}
    together = encoder.encode(texts)
    longest = max(texts, key=characters)
    pairs = [(place, text, alone[place], together[place]) for place, text in solo]
    pairs += [(place, text, alone[place], encoder.encode([text, longest])[0]) for place, text in _spread(solo, MAX_PADDED_TEXTS)]
    reference, vectors = np.stack([pair[2] for pair in pairs]), np.stack([pair[3] for pair in pairs])
    figures = parity_figures(reference, vectors)
    return figures, _worst([pair[:2] for pair in pairs], reference, vectors, figures)


def truncation(encoder: Encodes, reference: Golden, thresholds: Thresholds) -> Finding:
    """Checks the golden texts over the maximum length: reported as cut, and equal to what PyTorch gave for them."""
    maximum = encoder.manifest.max_length
    vectors, report = encoder.encode_with_report(reference.inputs)
    cut = [item.index for item in report.truncated]
    if not cut:
        message = f"no golden text is over {maximum} tokens, yet an export always adds one; the maximum differs from the exported one"
        return Finding(passed=False, message=message, figures={"truncated": 0})
    texts = [(index, reference.inputs[index]) for index in cut]
    output = encoder.manifest.sentence_output
    compared = _compared(texts, _expected(reference, output)[cut], vectors[cut], output, thresholds)
    message = f"{len(cut)} of {len(reference.texts)} texts exceed {maximum} tokens and are reported as truncated"
    message += ", with PyTorch's vectors" if compared.passed else f", but do not get PyTorch's vectors: {compared.message}"
    return Finding(passed=compared.passed, message=message, figures={"truncated": len(cut), **compared.figures})


def _compared(
    texts: Sequence[tuple[int, Text]],
    reference: Float32,
    vectors: Float32,
    output: Output,
    thresholds: Thresholds,
    *,
    recorded: ParityFigures | None = None,
) -> Finding:
    """Holds `vectors` against PyTorch's; `texts` are (index in the input, text)."""
    if vectors.shape[1] != reference.shape[1]:
        message = f"{output} is {vectors.shape[1]} numbers wide, PyTorch's is {reference.shape[1]}; this is another model"
        return Finding(passed=False, message=message)
    if len(vectors) != len(reference):
        message = f"{output} has {len(vectors)} rows, PyTorch's has {len(reference)}: a text has another number of tokens"
        return Finding(passed=False, message=message)
    figures = parity_figures(reference, vectors)
    missed = shortfalls(figures, thresholds)
    if recorded is not None and not missed and not abs(figures.mean_cosine - recorded.mean_cosine) <= recorded_margin(recorded):
        missed.append(f"mean_cosine {figures.mean_cosine:.8f}, expected {recorded.mean_cosine:.8f} as at export")
    if missed:
        extent = _extent(reference, vectors, thresholds, "texts" if output != "tokens" else "tokens' rows")
        message = f"{extent}: {'; '.join(missed)}; {_worst(texts, reference, vectors, figures)}"
    else:
        message = f"{_counted(texts)}, lowest cosine {figures.min_cosine:.8f}, largest difference {figures.max_abs:.2g}"
    return Finding(passed=not missed, message=message, figures=asdict(figures))


def recorded_margin(recorded: ParityFigures) -> float:
    """How far a mean cosine may be from the recorded one, on whatever CPU."""
    return max(RECORDED_COSINE_MARGIN, RECORDED_LOSS_MARGIN * (1 - recorded.mean_cosine))


def _counted(texts: Sequence[tuple[int, Text]]) -> str:
    """How many texts there are, and how many rows of theirs where there are more."""
    count = len({index for index, _ in texts})
    return f"{count} texts" if count == len(texts) else f"{len(texts)} rows of {count} texts"


def _extent(reference: Float32, vectors: Float32, thresholds: Thresholds, what: str) -> str:
    """How many texts (or rows, `what`) are off, and what does that to a graph."""
    cosine = cosines(reference, vectors)
    off = np.zeros(len(cosine), dtype=np.bool_)
    if thresholds.min_cosine is not None:
        off |= ~(cosine >= thresholds.min_cosine)
    if thresholds.max_abs is not None:
        off |= ~(np.abs(reference.astype(np.float64) - vectors).max(1) <= thresholds.max_abs)
    count = int(off.sum())
    if count == 0:
        return f"all {len(off)} {what} differ a little, none by much, which suggests other scales or another precision"
    share = f"{count} of {len(off)} {what} differ"
    if not np.isfinite(vectors).all():
        return f"{share}, with numbers that are not finite"
    if count <= len(off) / 2:
        return f"{share}, which suggests other weights for single words or positions"
    if cosine.mean() < FAR_COSINE:
        return f"{share} greatly, which suggests another row of the sequence, another pooling or another model"
    return f"{share}, but not greatly, which suggests other weights or quantization scales"


def _expected(reference: Golden, output: Output) -> Float32:
    """PyTorch's vectors of the golden texts."""
    if output not in reference.vectors:
        raise BundleError(f"{GOLDEN_NAME} has no {output} vectors, the manifest says that the graph gives them; export the bundle again")
    return reference.vectors[output]


def _worst(texts: Sequence[tuple[int, Text]], reference: Float32, vectors: Float32, figures: ParityFigures) -> str:
    """The worst of `texts` (index in the input, text) in words: which it is, its cosine and its largest difference."""
    row = figures.worst_text
    return f"worst is {quoted(*texts[row])}: {row_in_words(reference[row], vectors[row])}"


def row_in_words(reference: Float32, vector: Float32) -> str:
    """How far a vector [width] is from its reference: the cosine and the largest difference."""
    cosine = float(cosines(reference[None], vector[None])[0])
    difference = float(np.abs(reference.astype(np.float64) - vector).max())
    return f"cosine {cosine:.8f}, off by up to {difference:.3g}"


def quoted(index: int, text: Text) -> str:
    """`text 12 'The first words ...'`, always printable."""
    shown = text if isinstance(text, str) else " | ".join(text)
    return f"text {index} {shown[:60]!r}" + ("..." if len(shown) > 60 else "")


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of `items`, evenly spread over them, in order."""
    if len(items) <= count:
        return list(items)
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, count)]
