"""Checks a bundle and says what it found, as data: the work behind `cls-verify`.

    report = verify("models/all-MiniLM-L6-v2")
    report.passed, [check.message for check in report.failures]

Nothing here needs PyTorch: golden.npz holds its vectors. `against` asks a live model, through whatever is installed for that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from cls_runtime import vector_checks
from cls_runtime.bundle import Bundle, sha256
from cls_runtime.encoder import GRAPH_OUTPUTS, Encoder, Output
from cls_runtime.errors import BundleError, ClsError, MissingExtraError, UsageError
from cls_runtime.golden import GOLDEN_NAME, Golden, read_golden
from cls_runtime.parity import THRESHOLDS, thresholds_for
from cls_runtime.tokenizer import Text
from cls_runtime.vector_checks import Figures, Finding

Float32 = NDArray[np.float32]
ProgressFunction = Callable[["Check"], None]

REFERENCE_GROUP = "cls_export.reference"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check's result. `variant` and `engine` are None where it is about the bundle as a whole."""

    name: str
    variant: str | None
    engine: str | None
    passed: bool
    message: str
    figures: Figures
    seconds: float


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """Everything that was checked, in order."""

    bundle: Path
    source: str
    fingerprint: str
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    @property
    def seconds(self) -> float:
        """The time that all checks took."""
        return sum(check.seconds for check in self.checks)


class Reference(Protocol):
    """Gives PyTorch's vectors; found by the entry point group `cls_export.reference`."""

    def __call__(self, model: str, texts: Sequence[Text], *, outputs: Sequence[str], max_length: int) -> Mapping[str, Float32]:
        """Float32 [n, width] for each of `outputs` (`cls`, `pooler`, `logits`), texts cut to `max_length` tokens."""


def verify(
    path: str | os.PathLike[str],
    *,
    variants: Sequence[str] | None = None,
    engine: str = "auto",
    against: str | None = None,
    texts: Sequence[Text] | None = None,
    progress: ProgressFunction | None = None,
) -> VerifyReport:
    """Checks files and hashes, and each variant's vectors.

    Args:
        path: the bundle's folder.
        variants: which to check; None takes all that the bundle has.
        engine: the engine to check them on; `auto` takes the fastest installed.
        against: a hub id or checkpoint folder; its vectors are computed now, with PyTorch, and compared.
        texts: texts of your own for the checks that need no golden vectors, and for `against`; None takes the golden texts.
        progress: called with each check when it is done.

    Returns:
        The report. A failed check is an entry in it, not an exception.

    Raises:
        BundleError: the bundle cannot be opened at all: no manifest, a missing file, a wrong size.
        UsageError: a variant that the bundle does not have, or no texts.
        MissingExtraError: no engine is installed, or `against` without PyTorch.
    """
    if texts is not None and not texts:
        raise UsageError("the list of texts is empty, expected at least one")
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    unknown = [name for name in variants or () if name not in manifest.variants]
    if unknown:
        raise UsageError(f"bundle {bundle.folder} has no variant {unknown[0]!r}, it has {', '.join(manifest.variants)}")
    golden = read_golden(bundle.companion(GOLDEN_NAME))
    live = None if against is None else _live_vectors(against, texts or golden.inputs, bundle)
    checks: list[Check] = []
    for check in _run(bundle, golden, live, variants=variants or tuple(manifest.variants), engine=engine, texts=texts):
        checks.append(check)
        if progress is not None:
            progress(check)
    return VerifyReport(bundle=bundle.folder, source=manifest.source.name, fingerprint=manifest.fingerprint, checks=tuple(checks))


def _run(
    bundle: Bundle,
    golden: Golden,
    live: Mapping[str, Float32] | None,
    *,
    variants: Sequence[str],
    engine: str,
    texts: Sequence[Text] | None,
) -> Iterator[Check]:
    yield _checked("files", None, None, partial(_files, bundle))
    for variant in variants:
        start = time.perf_counter()
        try:
            encoder = Encoder.load(bundle.folder, variant=variant, engine=engine, on_overflow="truncate", on_invalid="keep")
        except MissingExtraError:
            raise
        except ClsError as error:
            finding = Finding(passed=False, message=str(error))
            yield _check("load", variant, None if engine == "auto" else engine, finding, start)
            continue
        with encoder:
            finding = Finding(passed=True, message=f"loaded on {encoder.info.engine}")
            yield _check("load", variant, encoder.info.engine, finding, start)
            for name, check in _vector_checks(encoder, bundle, golden, live, variant=variant, texts=texts).items():
                yield _checked(name, variant, encoder.info.engine, check)


def _vector_checks(
    encoder: Encoder, bundle: Bundle, golden: Golden, live: Mapping[str, Float32] | None, *, variant: str, texts: Sequence[Text] | None
) -> dict[str, Callable[[], Finding]]:
    """The checks of one variant on one engine, by name, in the order in which they run."""
    checked = vector_checks.EncodedOnce(encoder)
    if variant not in THRESHOLDS:
        raise BundleError(f"bundle {bundle.folder} has a variant {variant!r}, expected {', '.join(THRESHOLDS)}; upgrade cls-export")
    thresholds = thresholds_for(variant, "cls")
    outputs = cast("tuple[Output, ...]", encoder.outputs)
    probes = texts or golden.inputs
    checks: dict[str, Callable[[], Finding]] = {"finite": partial(vector_checks.finite, checked, probes, outputs)}
    for output in outputs:
        held_to = thresholds_for(variant, output)
        checks[f"golden {output}"] = partial(vector_checks.golden, checked, golden, output, held_to)
        if live is not None:
            checks[f"pytorch {output}"] = partial(vector_checks.live, checked, probes, live[output], output, held_to)
    checks["batch invariance"] = partial(vector_checks.batch_invariance, checked, probes, thresholds)
    checks["truncation"] = partial(vector_checks.truncation, checked, golden, thresholds)
    return checks


def _checked(name: str, variant: str | None, engine: str | None, check: Callable[[], Finding]) -> Check:
    """Runs one check; an error on purpose inside it is a failure of it, so that the others still run."""
    start = time.perf_counter()
    try:
        finding = check()
    except ClsError as error:
        finding = Finding(passed=False, message=str(error))
    return _check(name, variant, engine, finding, start)


def _check(name: str, variant: str | None, engine: str | None, finding: Finding, start: float) -> Check:
    return Check(
        name=name,
        variant=variant,
        engine=engine,
        passed=finding.passed,
        message=finding.message,
        figures=finding.figures,
        seconds=time.perf_counter() - start,
    )


def _files(bundle: Bundle) -> Finding:
    """Every file's hash. Sizes were checked when the bundle was opened."""
    files = list(bundle.files())
    size_bytes = sum(file.size_bytes for file in files)
    changed = [file for file in files if sha256(bundle.locate(file)) != file.sha256]
    figures = {"files": len(files), "bytes": size_bytes, "changed": len(changed)}
    if changed:
        names = ", ".join(file.path for file in changed)
        message = (
            f"{len(changed)} of {len(files)} files are not the ones that were exported (sha256 differs): {names}; copy or export again"
        )
        return Finding(passed=False, message=message, figures=figures)
    return Finding(passed=True, message=f"{len(files)} files, {size_bytes:,} bytes, every sha256 as in the manifest", figures=figures)


def _live_vectors(model: str, texts: Sequence[Text], bundle: Bundle) -> Mapping[str, Float32]:
    # Looked up by name: this package must run without PyTorch, so it never imports the one that needs it.
    providers = list(metadata.entry_points(group=REFERENCE_GROUP))
    missing = MissingExtraError("comparing with a live model needs PyTorch: pip install 'cls-export[export,cpu]'")
    if not providers:
        raise missing
    try:
        reference = cast("Reference", cast("Any", providers[0]).load())
    except ImportError:
        raise missing from None
    held = {output.name for output in bundle.manifest.outputs}
    outputs = [name for name, graph_output in GRAPH_OUTPUTS.items() if graph_output in held]
    return reference(model, texts, outputs=outputs, max_length=bundle.manifest.max_length)
