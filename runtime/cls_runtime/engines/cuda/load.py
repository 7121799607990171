"""Loads a graph onto an NVIDIA GPU, in ONNX Runtime's CUDA provider.

Never a fallback: without a device, a driver or CUDA's libraries, loading is an error that says which of them is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from cls_runtime.bundle.folder import Bundle, path_for_libraries
from cls_runtime.engines.cuda.driver import check_devices
from cls_runtime.engines.cuda.engine import GpuEngine
from cls_runtime.engines.cuda.libraries import preload
from cls_runtime.engines.installed import is_installed
from cls_runtime.engines.onnxruntime import WHEELS, check_signature, first_line, import_package
from cls_runtime.errors import BundleError, EngineError, MissingExtraError

NAME, PROVIDER = "cuda", "CUDAExecutionProvider"
PROVIDER_OPTIONS = {
    # Memory grows by what is needed, not to the next power of two: the card has other users.
    "arena_extend_strategy": "kSameAsRequested",
    # An exhaustive search for the best convolution would run for each shape, and there are no convolutions.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Its usual kernel for SkipLayerNormalization adds up float16 numbers in float16, squares too; this one does so in float32.
    "enable_skip_layer_norm_strict_mode": "1",
}


def load(bundle: Bundle, *, variant: str, threads: int, devices: Sequence[int] = ()) -> GpuEngine:
    """Loads a variant's graph; see `EngineModule.load`. `threads` are for what the GPU leaves to the CPU.

    Raises:
        MissingExtraError: the installed onnxruntime has no CUDA provider.
        EngineError: no driver, no such device, or the provider did not come up.
        BundleError: the file is not a graph, or not the manifest's.
    """
    ort = import_package()
    _check_wheel(ort)
    check_devices(devices)
    complaints = preload(ort)
    graph = bundle.graph(variant, engine=NAME)
    # Said of the first GPU too, the number would make ONNX Runtime write a line of its own to standard error.
    provider_options = PROVIDER_OPTIONS | ({"device_id": str(devices[0])} if devices and devices[0] else {})
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        with path_for_libraries(graph) as path:
            session = ort.InferenceSession(str(path), options, providers=[(PROVIDER, provider_options), "CPUExecutionProvider"])
    except (ort.capi.onnxruntime_pybind11_state.EPFail, MemoryError) as error:
        raise EngineError(f"{NAME} cannot load {graph}: {first_line(error)}") from error
    except Exception as error:  # its exceptions have no common base class
        raise BundleError(
            f"{graph} is not a graph that ONNX Runtime reads ({first_line(error)}); copy or export the bundle again"
        ) from error
    # A provider whose libraries are missing is left out by ONNX Runtime with no more than a line in its log.
    if PROVIDER not in session.get_providers():
        built_for = getattr(ort, "cuda_version", "") or "of its release notes"
        why = complaints[0] if complaints else "its libraries are missing or of another version"
        raise EngineError(
            f"engine {NAME}: {PROVIDER} did not come up ({why}); onnxruntime {ort.__version__} was built for CUDA {built_for}, "
            "run: pip install 'cls-export[gpu]' for its libraries"
        )
    session.disable_fallback()
    check_signature(session, bundle.manifest, graph)
    return GpuEngine(session, name=NAME)


def _check_wheel(ort: ModuleType) -> None:
    available = ort.get_available_providers()
    if PROVIDER not in available:
        # Both where both are there: uninstalling one takes files of the other along, and pip would not bring them back.
        held = " ".join(wheel for wheel in WHEELS if is_installed(wheel))
        swap = f"pip uninstall -y {held} && " if is_installed("onnxruntime") else ""
        raise MissingExtraError(
            f"engine {NAME} needs {PROVIDER}, the installed onnxruntime has {', '.join(available)}; run: {swap}pip install cls-export[gpu]"
        )
