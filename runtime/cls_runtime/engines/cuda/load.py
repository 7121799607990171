"""Loads a graph onto an NVIDIA GPU, in ONNX Runtime's CUDA provider.

Never a fallback: without a device, a driver or CUDA's libraries, loading is an error that says which of them is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cls_runtime.bundle.folder import Bundle, path_for_libraries
from cls_runtime.bundle.manifest import GRAPH_OUTPUTS, Manifest
from cls_runtime.engines import packing
from cls_runtime.engines.choice import graph_variant
from cls_runtime.engines.cuda.capture_lock import PROCESS
from cls_runtime.engines.cuda.driver import check_devices
from cls_runtime.engines.cuda.engine import GpuEngine, device_name
from cls_runtime.engines.cuda.graphs import CudaGraphs
from cls_runtime.engines.cuda.held_graph import HeldGraph
from cls_runtime.engines.cuda.layouts import PackedLayout, PaddedLayout
from cls_runtime.engines.cuda.libraries import preload
from cls_runtime.engines.cuda.memory import CudaRuntime, Device, is_out_of_memory
from cls_runtime.engines.cuda.pool import GpuPool
from cls_runtime.engines.installed import is_installed
from cls_runtime.engines.onnxruntime import WHEELS, check_signature, first_line, import_package
from cls_runtime.errors import BundleError, EngineError, MissingExtraError

if TYPE_CHECKING:
    import onnxruntime

NAME, PROVIDER = "cuda", "CUDAExecutionProvider"
PROVIDER_OPTIONS = {
    # Memory grows by what is needed, not to the next power of two: the card has other users. It stays flat, since batches have few sizes
    # (`shapes.py`) and no more than `WORKERS` of them run at once, so that what one gave back fits the next. No limit is set: a run that
    # finds none is split.
    "arena_extend_strategy": "kSameAsRequested",
    # An exhaustive search for the best convolution would run for each shape, and there are no convolutions.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Its usual kernel for SkipLayerNormalization adds up float16 numbers in float16, squares too; this one does so in float32.
    "enable_skip_layer_norm_strict_mode": "1",
}


def load(bundle: Bundle, *, variant: str, threads: int, devices: Sequence[int] = ()) -> GpuEngine | GpuPool:
    """Loads a variant's graph; see `EngineModule.load`. `threads` are for what the GPUs leave to the CPU.

    Raises:
        MissingExtraError: the installed onnxruntime has no CUDA provider.
        EngineError: no driver, no such device, or the provider did not come up.
        BundleError: the file is not a graph, or not the manifest's.
    """
    ort = import_package()
    _check_wheel(ort)
    check_devices(devices)
    complaints = preload(ort)
    engines: list[GpuEngine] = []
    try:
        for number in devices or (0,):
            engine = _load_on(number, bundle, ort, variant=variant, threads=threads, complaints=complaints)
            engines.append(engine)
    except BaseException:
        for loaded in engines:
            loaded.close()
        raise
    return engines[0] if len(engines) == 1 else GpuPool(engines)


def engine_of(
    session: onnxruntime.InferenceSession,
    manifest: Manifest,
    graph: Path,
    *,
    device: Device,
    open_capturing: Callable[[], onnxruntime.InferenceSession],
    runtime: CudaRuntime | None = None,
) -> GpuEngine:
    """The engine of a loaded graph, which is a packed one or not by its inputs.

    Args:
        session: the graph.
        manifest: that of its bundle.
        graph: its file, for messages.
        device: where it is loaded.
        open_capturing: another session of the graph, in which each run is captured as a CUDA graph; packed graphs have those.
        runtime: CUDA's runtime library, where it is found.

    Raises:
        BundleError: its inputs and outputs are neither those of a packed graph nor the manifest's.
    """
    inputs = tuple(item.name for item in session.get_inputs())
    if "cu_seqlens" not in inputs:
        check_signature(session, manifest, graph)
        return GpuEngine(session, PaddedLayout(inputs), device=device, runtime=runtime)
    _check_packed_signature(session, manifest, graph)
    widths = {output.name: output.width for output in manifest.outputs}
    graphs = CudaGraphs(open_capturing, device=device, name=device_name(device))
    return GpuEngine(session, PackedLayout(inputs, widths), device=device, graphs=graphs, runtime=runtime)


def _load_on(number: int, bundle: Bundle, ort: ModuleType, *, variant: str, threads: int, complaints: Sequence[str]) -> GpuEngine:
    graph = bundle.graph(graph_variant(variant), engine=NAME)
    held = HeldGraph(graph)
    device = Device(number=number)
    options = _provider_options(number, variant)

    def open_session(path: Path, **more: str) -> onnxruntime.InferenceSession:
        providers = [(PROVIDER, {**options, **more}), "CPUExecutionProvider"]
        # Its own fallback would print lines to standard output and load the graph a second time, on the CPU.
        session: onnxruntime.InferenceSession = ort.InferenceSession(
            str(path), _session_options(ort, threads), providers=providers, enable_fallback=False
        )
        return session

    def open_capturing() -> onnxruntime.InferenceSession:
        with contextlib.closing(held), held.path() as path:
            session = open_session(path, enable_cuda_graph="1")
        _check_provider(ort, session, complaints)
        return session

    try:
        with PROCESS.load(), path_for_libraries(graph) as path:
            session = open_session(path)
    except (ort.capi.onnxruntime_pybind11_state.EPFail, MemoryError) as error:
        raise EngineError(f"{device_name(device)} cannot load {graph}: {first_line(error)}") from error
    except Exception as error:  # its exceptions have no common base class
        if is_out_of_memory(error):
            raise EngineError(f"{device_name(device)} has no memory for {graph}; see nvidia-smi for who uses it") from error
        raise BundleError(
            f"{graph} is not a graph that ONNX Runtime reads ({first_line(error)}); copy or export the bundle again"
        ) from error
    _check_provider(ort, session, complaints)
    return engine_of(session, bundle.manifest, graph, device=device, open_capturing=open_capturing, runtime=CudaRuntime.found(ort, number))


def _provider_options(number: int, variant: str) -> dict[str, str]:
    options = PROVIDER_OPTIONS | {"use_tf32": "1" if variant == "tf32" else "0"}
    # Said of the first GPU too, the number would make ONNX Runtime write a line of its own to standard error.
    return options | ({"device_id": str(number)} if number else {})


def _session_options(ort: ModuleType, threads: int) -> onnxruntime.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A memory pattern is kept for each input shape, and allocates one block for it.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return options


def _check_provider(ort: ModuleType, session: onnxruntime.InferenceSession, complaints: Sequence[str]) -> None:
    """A provider whose libraries are missing is left out by ONNX Runtime with no more than a line in its log."""
    if PROVIDER not in session.get_providers():
        built_for = getattr(ort, "cuda_version", "") or "of its release notes"
        why = complaints[0] if complaints else "its libraries are missing or of another version"
        raise EngineError(
            f"engine {NAME}: {PROVIDER} did not come up ({why}); onnxruntime {ort.__version__} was built for CUDA {built_for}, "
            "run: pip install 'cls-export[gpu]' for its libraries"
        )


def _check_packed_signature(session: onnxruntime.InferenceSession, manifest: Manifest, graph: Path) -> None:
    """Compares a packed graph's inputs with those that there are, and its outputs with the manifest's."""
    unknown = sorted(item.name for item in session.get_inputs() if item.name not in packing.INPUTS)
    found = {item.name for item in session.get_outputs()}
    expected = {GRAPH_OUTPUTS[name] for name in manifest.recorded_outputs}
    if unknown:
        raise BundleError(f"{graph} has the inputs {', '.join(unknown)}, expected some of {', '.join(packing.INPUTS)}; export it again")
    if found != expected:
        raise BundleError(f"{graph} has outputs {', '.join(sorted(found))}, expected {', '.join(sorted(expected))}; export it again")


def _check_wheel(ort: ModuleType) -> None:
    available = ort.get_available_providers()
    if PROVIDER not in available:
        # Both where both are there: uninstalling one takes files of the other along, and pip would not bring them back.
        held = " ".join(wheel for wheel in WHEELS if is_installed(wheel))
        swap = f"pip uninstall -y {held} && " if is_installed("onnxruntime") else ""
        raise MissingExtraError(
            f"engine {NAME} needs {PROVIDER}, the installed onnxruntime has {', '.join(available)}; run: {swap}pip install cls-export[gpu]"
        )
