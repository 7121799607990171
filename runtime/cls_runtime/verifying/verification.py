"""Checks a bundle and says what it found, as data: the work behind `cls-verify` and the pytest plugin.

    report = verify("models/all-MiniLM-L6-v2")
    report.passed, [check.message for check in report.failures]

Nothing here needs PyTorch: golden.npz holds its vectors. `against` asks a live model, through whatever is installed for that.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import GOLDEN_NAME, Golden, read_golden
from cls_runtime.bundle.manifest import MANIFEST_NAME, Output, read_manifest
from cls_runtime.bundle.parity import Thresholds, thresholds_for
from cls_runtime.bundle.places import find_bundle
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.options import EncoderOptions
from cls_runtime.encoding.texts import Text
from cls_runtime.engines.devices import GPU_ENGINES, Device, check_device
from cls_runtime.engines.native import load as native
from cls_runtime.engines.native.library import PORTABLE
from cls_runtime.errors import BundleError, ClsError, HubError, MissingExtraError, UsageError
from cls_runtime.verifying import input_checks, vector_checks
from cls_runtime.verifying.file_check import files_finding
from cls_runtime.verifying.live_model import live_vectors
from cls_runtime.verifying.plan import combinations, verified_files
from cls_runtime.verifying.recorded import recorded_bits, recorded_parity, same_bits
from cls_runtime.verifying.report import Check, Planned, VerifyReport
from cls_runtime.verifying.vector_checks import Finding

Float32 = NDArray[np.float32]
ProgressFunction = Callable[[Check], None]

_LONGEST_REASON = 300


@dataclass(frozen=True)
class _Loaded:
    """A variant on an engine, ready to be checked."""

    encoder: Encoder
    once: vector_checks.EncodedOnce


class Verification:
    """The checks of a bundle, planned without loading an engine, and run one by one in any order. The variant that the last check needed
    stays loaded for the next; close it, or use it in a `with` statement.

    Args:
        path: the bundle's folder, or its name on the hub; the files to check are downloaded.
        variants: the variants to check; None for all in the bundle. `auto` is the one that `Encoder.load` would take.
        engines: the engines to check them on; None for all that are installed, except where they cannot run a variant. `auto` is the one
            that `Encoder.load` would take.
        device: for an engine on GPUs, which of them, as in `Encoder.load`.
        against: a hub id or checkpoint folder, with whose vectors in PyTorch the bundle's are compared.
        texts: your own texts for `against` and for checks without golden vectors; None for the golden texts.
        follow_links: read files wherever links in the folder lead.

    Damage is a failed check, not an exception: if the manifest cannot be read, the check `files` fails and is the only one.

    Raises:
        BundleError: there is no folder, or no manifest in it.
        UsageError: the bundle has no such variant, an unknown engine, a device without an engine for it, or no texts.
        MissingExtraError: no engine is installed, or not the named one, or `against` without PyTorch.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        variants: Sequence[str] | None = None,
        engines: Sequence[str] | None = None,
        device: Device | None = None,
        against: str | None = None,
        texts: Sequence[Text] | None = None,
        follow_links: bool = False,
    ) -> None:
        if texts is not None and not texts:
            raise UsageError("the list of texts is empty, expected at least one")
        check_device(device, engine=next((name for name in engines or () if name in GPU_ENGINES), next(iter(engines or ()), "auto")))
        place = find_bundle(path)
        self.folder = place.folder
        self.bundle: Bundle | None = None
        self.plan: tuple[Planned, ...] = (Planned(name="files"),)
        self._damage: list[str] = []
        self._golden: Golden | None = None
        self._probes = texts
        self._live: Mapping[str, Float32] | None = None
        self._device = device
        self._loaded: dict[tuple[str, str], _Loaded] = {}
        if not os.path.exists(self.folder / MANIFEST_NAME):  # noqa: PTH110  which takes any name
            Bundle.open(self.folder, follow_links=follow_links)  # says what there is in the place of a bundle
        try:
            manifest = read_manifest(self.folder, follow_links=follow_links)
            planned = combinations(manifest, variants=variants, engines=engines)
            fetched = place.fetch(partial(verified_files, planned=None if variants is None else planned))
            bundle = Bundle(self.folder, manifest, follow_links, fetched)
        except HubError:
            raise
        except BundleError as error:
            self._damage.append(str(error))
            return
        self.bundle = bundle
        if not planned:
            self._damage.append(f"the manifest of bundle {self.folder} has no variant; export the bundle again")
        try:
            self._golden = read_golden(bundle.companion(GOLDEN_NAME))
            self._probes = texts or self._golden.inputs
        except Exception as error:  # noqa: BLE001  whatever a damaged file makes of its reader
            self._damage.append(_reason(error))
        if against is not None and self._probes is not None:
            self._live = live_vectors(against, self._probes, bundle.manifest)
        # What an engine cannot run is no failure as long as something else is checked, and nobody asked for just that.
        required = (variants is not None and engines is not None) or all(combination.objection for combination in planned)
        checks = [Planned(name="files"), Planned(name="tokens")]
        for combination in planned:
            variant, engine, objection = combination.variant, combination.engine, combination.objection
            checks.append(Planned(name="load", variant=variant, engine=engine, objection=objection, required=required))
            if objection is None:
                checks += [Planned(name=name, variant=variant, engine=engine) for name in self._vector_checks(bundle, variant, engine)]
        self.plan = tuple(checks)

    def run(self, planned: Planned) -> Check:
        """Runs one check of `plan`. An error inside it is a failure of it, also one that a damaged file causes in somebody else's code."""
        start = time.perf_counter()
        try:
            finding = self._finding(planned)
        except MissingExtraError:
            raise
        except Exception as error:  # noqa: BLE001  a check that cannot be made has failed
            finding = Finding(passed=False, message=_reason(error))
        return Check(
            name=planned.name,
            variant=planned.variant,
            engine=planned.engine,
            passed=finding.passed,
            message=finding.message,
            figures=finding.figures,
            seconds=time.perf_counter() - start,
            skipped=finding.skipped,
        )

    def close(self) -> None:
        """Frees the variant that is loaded. May be called more than once."""
        for loaded in self._loaded.values():
            loaded.encoder.close()
        self._loaded.clear()

    def __enter__(self) -> Verification:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _finding(self, planned: Planned) -> Finding:
        bundle = self.bundle
        if planned.name == "files" or bundle is None:
            return files_finding(bundle, self._damage)
        if planned.name == "tokens":
            return input_checks.tokens(bundle, self._held_golden())
        if planned.objection is not None:
            return Finding(passed=not planned.required, message=planned.objection, skipped=not planned.required)
        loaded = self._load(bundle, str(planned.variant), str(planned.engine))
        if planned.name == "load":
            return Finding(passed=True, message=f"loaded on {', '.join(loaded.encoder.info.providers)}")
        return self._vector_checks(bundle, str(planned.variant), str(planned.engine))[planned.name](loaded)

    def _held_golden(self) -> Golden:
        if self._golden is None:
            raise BundleError(f"{GOLDEN_NAME} cannot be read; see the check of the files")
        return self._golden

    def _load(self, bundle: Bundle, variant: str, engine: str) -> _Loaded:
        if (variant, engine) not in self._loaded:
            self.close()
            encoder = Encoder.load(
                bundle.name,
                variant=variant,
                engine=engine,
                device=self._device if engine in GPU_ENGINES else None,
                on_overflow="truncate",
                on_invalid="keep",
                fingerprint=bundle.manifest.fingerprint,
                follow_links=bundle.follow_links,
            )
            self._loaded[variant, engine] = _Loaded(encoder, vector_checks.EncodedOnce(encoder))
        return self._loaded[variant, engine]

    def _vector_checks(self, bundle: Bundle, variant: str, engine: str) -> dict[str, Callable[[_Loaded], Finding]]:
        """The checks of a loaded variant by name, in the order in which they run; without texts, those that need none."""
        thresholds = thresholds_for(variant, bundle.manifest.sentence_output, engine=engine)
        outputs, probes, golden = bundle.manifest.recorded_outputs, self._probes, self._golden
        checks: dict[str, Callable[[_Loaded], Finding]] = {}
        if probes is not None:
            checks["finite"] = lambda loaded: vector_checks.finite(loaded.once, probes, outputs)
        for output in outputs:
            held_to = thresholds_for(variant, output, engine=engine)
            if golden is not None:
                checks[f"golden {output}"] = partial(self._golden_check, bundle, variant, output, held_to)
            if self._live is not None and probes is not None:
                checks[f"pytorch {output}"] = partial(_live, probes, self._live[output], output, held_to)
        if probes is not None:
            checks["batch invariance"] = lambda loaded: vector_checks.batch_invariance(loaded.once, probes, thresholds)
        bits = recorded_bits(bundle.manifest, variant, engine)
        if golden is not None and bits:
            checks["bits"] = partial(self._bits_check, bundle, variant, bits)
        if golden is not None:
            checks["truncation"] = lambda loaded: vector_checks.truncation(loaded.once, golden, thresholds)
        checks["refusals"] = lambda loaded: input_checks.refusals(loaded.encoder, bundle)
        return checks

    def _golden_check(self, bundle: Bundle, variant: str, output: Output, held_to: Thresholds, loaded: _Loaded) -> Finding:
        recorded = recorded_parity(bundle.manifest, variant, loaded.encoder.info.engine, output)
        return vector_checks.golden_vectors(loaded.once, self._held_golden(), output, held_to, recorded=recorded)

    def _bits_check(self, bundle: Bundle, variant: str, bits: Mapping[Output, str], loaded: _Loaded) -> Finding:
        with contextlib.ExitStack() as opened:

            def portable() -> Encoder:
                engine = native.load(bundle, variant=variant, threads=loaded.encoder.info.threads, kernels=PORTABLE)
                options = EncoderOptions(variant=variant, on_overflow="truncate", on_invalid="keep")
                return opened.enter_context(Encoder.of(bundle, engine, options))

            return same_bits(loaded.once, self._held_golden(), bits, portable=lambda: vector_checks.EncodedOnce(portable()))


def verify(
    path: str | os.PathLike[str],
    *,
    variants: Sequence[str] | None = None,
    engines: Sequence[str] | None = None,
    device: Device | None = None,
    against: str | None = None,
    texts: Sequence[Text] | None = None,
    follow_links: bool = False,
    progress: ProgressFunction | None = None,
) -> VerifyReport:
    """Checks files and hashes, tokens, and each variant's vectors on each engine.

    Args:
        path: the bundle's folder, or its name on the hub.
        variants: the variants to check; None for all in the bundle. `auto` is the one that `Encoder.load` would take.
        engines: the engines to check them on; None for all that are installed. `auto` is the one that `Encoder.load` would take.
        device: for an engine on GPUs, which of them, as in `Encoder.load`.
        against: a hub id or checkpoint folder, with whose vectors in PyTorch the bundle's are compared.
        texts: your own texts for `against` and for checks without golden vectors; None for the golden texts.
        follow_links: read files wherever links in the folder lead.
        progress: called with each check when it is done.

    Returns:
        The report. A failed check is an entry in it, not an exception. A variant that does not load has no further checks. If the manifest
        cannot be read, `source` and `fingerprint` are empty.

    Raises:
        BundleError: there is no folder, or no manifest in it.
        UsageError: the bundle has no such variant, an unknown engine, a device without an engine for it, or no texts.
        MissingExtraError: no engine is installed, or not the named one, or `against` without PyTorch.
    """
    checks: list[Check] = []
    broken: set[tuple[str | None, str | None]] = set()
    with Verification(
        path, variants=variants, engines=engines, device=device, against=against, texts=texts, follow_links=follow_links
    ) as verification:
        for planned in verification.plan:
            if (planned.variant, planned.engine) in broken:
                continue
            check = verification.run(planned)
            checks.append(check)
            if check.name == "load" and not check.passed:
                broken.add((check.variant, check.engine))
            if progress is not None:
                progress(check)
        manifest = None if verification.bundle is None else verification.bundle.manifest
    return VerifyReport(
        bundle=verification.folder,
        source="" if manifest is None else manifest.source.name,
        fingerprint="" if manifest is None else manifest.fingerprint,
        checks=tuple(checks),
    )


def _live(texts: Sequence[Text], reference: Float32, output: Output, thresholds: Thresholds, loaded: _Loaded) -> Finding:
    return vector_checks.live(loaded.once, texts, reference, output, thresholds)


def _reason(error: Exception) -> str:
    """An error in words: ours as it is, one of somebody else's code with its class, on one line."""
    if isinstance(error, ClsError):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]
