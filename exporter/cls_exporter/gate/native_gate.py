"""The native form of a variant, written and held to PyTorch by running it: on our own kernels, or in NumPy where they are not installed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cls_exporter.errors import ParityError
from cls_exporter.gate.parity_gate import hold_engine
from cls_exporter.gate.prompted_batch import PromptedBatch
from cls_exporter.graph.graph_file import bundle_file
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import Golden
from cls_runtime.bundle.variant import BundleFile, EngineParity
from cls_runtime.engines.base import Engine
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.engines.native import weights_file
from cls_runtime.engines.native.engine import NativeEngine
from cls_runtime.engines.native.reference import ReferenceEngine
from cls_runtime.engines.native.weights import NativeModel
from cls_runtime.engines.preference import NATIVE
from cls_runtime.errors import EngineError, MissingExtraError

FILE_NAMES = {"int8": "native/weights.safetensors", "fp32": "native/weights_fp32.safetensors"}


@dataclass(frozen=True, kw_only=True)
class HeldForm:
    """A native form in the bundle's folder: its file, how it was made, its figures, and what ran it, in words where not our kernels."""

    file: BundleFile
    model: NativeModel
    parity: EngineParity
    note: str = ""


def hold_native(
    forms: Iterable[NativeModel], bundle: Bundle, golden: Golden, *, variant: str, prompted: PromptedBatch | None = None
) -> HeldForm:
    """Writes the first of `forms` that holds, as `FILE_NAMES` says.

    Raises:
        ParityError: none does; the message is the last one's. Its file stays for whoever removes the folder.
    """
    path = bundle.folder / FILE_NAMES[variant]
    path.parent.mkdir(exist_ok=True)
    missed: ParityError | None = None
    for model in forms:
        path.unlink(missing_ok=True)
        weights_file.write(model, path)
        engine, note = _loaded(weights_file.read(path))
        try:
            measured = hold_engine(engine, bundle, golden, variant=variant, own_form=NATIVE, prompted=prompted)
        except ParityError as error:
            missed = error
            continue
        parity = EngineParity(
            parity=measured.parity,
            batch_invariance_max_abs=measured.batch_invariance.max_abs,
            batch_invariance_min_cosine=measured.batch_invariance.min_cosine,
            bits={} if note else measured.bits,
        )
        return HeldForm(file=bundle_file(bundle.folder, FILE_NAMES[variant]), model=model, parity=parity, note=note)
    assert missed is not None
    raise missed


def _loaded(model: NativeModel) -> tuple[Engine, str]:
    """The engine, and a note where it is NumPy."""
    try:
        return NativeEngine(model, threads=available_cpus()), ""
    except (MissingExtraError, EngineError) as error:
        return ReferenceEngine(model), f"the native weights were compared with PyTorch in NumPy, and no bits were recorded: {error}"
