"""The checks of inputs: tokens equal PyTorch's, and what is not a text is refused.

- `tokens`: the bundle's tokenizer gives the golden texts the tokens that transformers gave them at the export.
- `refusals`: a wrong type, broken Unicode, a text that is too long and an invalid vector are errors; an empty text is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import GOLDEN_NAME, Golden
from cls_runtime.bundle.manifest import Manifest
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.options import EncoderOptions
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.engines.base import Batching, TokenBatch
from cls_runtime.errors import InvalidVectorError, TextError, TextTooLongError
from cls_runtime.verifying.vector_checks import Finding, as_computed, quoted

Float32 = NDArray[np.float32]


def tokens(bundle: Bundle, golden: Golden) -> Finding:
    """Compares the tokens of the golden texts with PyTorch's."""
    expected = golden.token_ids
    if expected is None:
        message = f"{GOLDEN_NAME} holds no tokens to compare with (written by cls-export 0.1.0); export again to get them"
        return Finding(passed=True, message=message, skipped=True)
    encoded = TextTokenizer.from_bundle(bundle).tokenize(golden.inputs).token_ids()
    changed = [index for index, (ours, theirs) in enumerate(zip(encoded, expected, strict=True)) if ours != theirs]
    figures = {"texts": len(encoded), "changed": len(changed)}
    if not changed:
        return Finding(
            passed=True, message=f"{len(encoded)} texts, {sum(map(len, encoded)):,} tokens, all equal to PyTorch's", figures=figures
        )
    maximum, exported = bundle.manifest.max_length, max(map(len, expected))
    only_long = all(max(len(encoded[index]), len(expected[index])) > min(maximum, exported) for index in changed)
    if maximum != exported and only_long:
        message = (
            f"{len(changed)} of {len(encoded)} texts are truncated at {maximum} tokens instead of {exported}; "
            "the maximum length differs from the exported one"
        )
        return Finding(passed=False, message=message, figures=figures)
    first = changed[0]
    message = (
        f"{len(changed)} of {len(encoded)} texts get different tokens from those in PyTorch, first "
        f"{quoted(first, golden.inputs[first])}: {_difference(encoded[first], expected[first])}; "
        "the tokenizer differs from the exported one"
    )
    return Finding(passed=False, message=message, figures=figures)


def refusals(encoder: Encoder, bundle: Bundle) -> Finding:
    """Gives the encoder what it must refuse, and an empty text, which it must not.

    The graph of a sound bundle gives no invalid vector, so an engine that gives nothing else takes its place for that.
    """
    too_long = "a " * (bundle.manifest.max_length + 1)
    with Encoder.of(bundle, _InvalidEngine(bundle.manifest), EncoderOptions(on_overflow="raise", on_invalid="raise")) as strict:
        cases: list[tuple[str, type[Exception], Callable[[], Any]]] = [
            ("a str instead of a list", TypeError, lambda: encoder.encode("a text")),
            ("None as a text", TypeError, lambda: encoder.encode([None])),  # type: ignore[list-item]
            ("a number as a text", TypeError, lambda: encoder.encode(["a text", 7])),  # type: ignore[list-item]
            ("a lone surrogate", TextError, lambda: encoder.encode(["a text", "\ud800"])),
            ("a text over the maximum, with on_overflow='raise'", TextTooLongError, lambda: strict.encode([too_long])),
            ("a NaN vector", InvalidVectorError, lambda: strict.encode(["a text"])),
        ]
        accepted = [
            f"{what} (expected {kind.__name__}, found {outcome})" for what, kind, call in cases if (outcome := _outcome(call, kind))
        ]
    if accepted:
        return Finding(passed=False, message=f"not refused: {'; '.join(accepted)}", figures={"accepted": len(accepted)})
    shapes = as_computed(encoder, []).shape, as_computed(encoder, [""]).shape
    width = encoder.manifest.width("sentence")
    if shapes != ((0, width), (1, width)):
        message = f"no text and an empty text give vectors of shape {shapes[0]} and {shapes[1]}, expected {(0, width)} and {(1, width)}"
        return Finding(passed=False, message=message)
    message = f"refused: {', '.join(what for what, _, _ in cases)}; an empty text is encoded"
    return Finding(passed=True, message=message, figures={"accepted": 0})


def _difference(ids: Sequence[int], expected: Sequence[int]) -> str:
    place = next((place for place, (a, b) in enumerate(zip(ids, expected)) if a != b), None)  # noqa: B905  one may be longer
    if place is None:
        return f"{len(ids)} tokens, expected {len(expected)}"
    return f"token {place} is {ids[place]}, expected {expected[place]}"


def _outcome(call: Callable[[], Any], expected: type[Exception]) -> str | None:
    """What came of a call that must raise `expected`; None where it did."""
    try:
        call()
    except expected:
        return None
    except Exception as error:  # noqa: BLE001  any other class is the finding
        return type(error).__name__
    return "vectors"


class _InvalidEngine:
    """An engine that gives NaN for everything."""

    name = "invalid"
    workers = 1
    providers = ()
    batching = Batching(token_budget=1024, full_tokens=1024)

    def __init__(self, manifest: Manifest) -> None:
        self._widths = {output.name: output.width for output in manifest.outputs}

    def padding_tokens(self, batch: TokenBatch) -> int:
        return 0 * batch.texts

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        return [np.full((batch.texts, self._widths[name]), np.nan, dtype=np.float32) for name in outputs]

    def close(self) -> None:
        return None
