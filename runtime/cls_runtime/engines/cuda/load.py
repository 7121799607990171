"""Loads a graph onto an NVIDIA GPU, in ONNX Runtime's CUDA provider.

Never a fallback: without a device, a driver or CUDA's libraries, loading is an error that says which of them is missing.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from cls_runtime.bundle.folder import Bundle, path_for_libraries
from cls_runtime.engines.cuda.engine import GpuEngine
from cls_runtime.engines.installed import is_installed
from cls_runtime.engines.onnxruntime import WHEELS, check_signature, first_line, import_package
from cls_runtime.errors import BundleError, EngineError, MissingExtraError

PROVIDER = "CUDAExecutionProvider"
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
PROVIDER_OPTIONS = {
    "device_id": "0",
    # Memory grows by what is needed, not to the next power of two: the card has other users.
    "arena_extend_strategy": "kSameAsRequested",
    # An exhaustive search for the best convolution would run for each shape, and there are no convolutions.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Its usual kernel for SkipLayerNormalization adds up float16 numbers in float16, squares too; this one does so in float32.
    "enable_skip_layer_norm_strict_mode": "1",
}


def load(bundle: Bundle, *, variant: str, threads: int) -> GpuEngine:
    """Loads a variant's graph; see `EngineModule.load`. `threads` are for what the GPU leaves to the CPU."""
    return load_on([(PROVIDER, PROVIDER_OPTIONS)], bundle, name="cuda", variant=variant, threads=threads)


def load_on(providers: Sequence[tuple[str, dict[str, str]]], bundle: Bundle, *, name: str, variant: str, threads: int) -> GpuEngine:
    """Loads a variant's graph on GPU providers, the preferred first.

    Args:
        providers: ONNX Runtime's names and options; all of them must come up.
        bundle: the bundle.
        name: the engine's name, for messages.
        variant: the variant.
        threads: CPU threads for what the GPU leaves to the CPU.

    Raises:
        MissingExtraError: the installed onnxruntime has no such provider.
        EngineError: no driver, no device, or a provider did not come up.
        BundleError: the file is not a graph, or not the manifest's.
    """
    ort = import_package()
    wanted = [provider for provider, _ in providers]
    _check_wheel(ort, wanted, name=name)
    _check_device(name=name)
    graph = bundle.graph(variant, engine=name)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        with path_for_libraries(graph) as path:
            session = ort.InferenceSession(str(path), options, providers=[*providers, "CPUExecutionProvider"])
    except (ort.capi.onnxruntime_pybind11_state.EPFail, MemoryError) as error:
        raise EngineError(f"{name} cannot load {graph}: {first_line(error)}") from error
    except Exception as error:  # its exceptions have no common base class
        raise BundleError(
            f"{graph} is not a graph that ONNX Runtime reads ({first_line(error)}); copy or export the bundle again"
        ) from error
    # A provider whose libraries are missing is left out by ONNX Runtime with no more than a line in its log.
    if absent := [provider for provider in wanted if provider not in session.get_providers()]:
        built_for = getattr(ort, "cuda_version", "") or "of its release notes"
        raise EngineError(
            f"engine {name}: {absent[0]} did not come up, so its libraries are missing or of another version; "
            f"onnxruntime {ort.__version__} was built for CUDA {built_for}, install that and cuDNN"
        )
    session.disable_fallback()
    check_signature(session, bundle.manifest, graph)
    return GpuEngine(session, name=name)


def _check_wheel(ort: ModuleType, wanted: Sequence[str], *, name: str) -> None:
    available = ort.get_available_providers()
    if absent := [provider for provider in wanted if provider not in available]:
        # Both where both are there: uninstalling one takes files of the other along, and pip would not bring them back.
        held = " ".join(wheel for wheel in WHEELS if is_installed(wheel))
        swap = f"pip uninstall -y {held} && " if is_installed("onnxruntime") else ""
        raise MissingExtraError(
            f"engine {name} needs {absent[0]}, the installed onnxruntime has {', '.join(available)}; run: {swap}pip install cls-export[gpu]"
        )


def _check_device(*, name: str) -> None:
    """Asks the driver for its devices. https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html"""
    try:
        driver: Any = ctypes.CDLL(DRIVER)
    except OSError:
        raise EngineError(
            f"engine {name} needs an NVIDIA GPU, this machine has no NVIDIA driver ({DRIVER}); install it, or use engine='onnxruntime'"
        ) from None
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        answer = f"fails with CUDA error {status}" if status else "finds no device"
        raise EngineError(f"engine {name} needs an NVIDIA GPU, the driver {answer}; see nvidia-smi, or use engine='onnxruntime'")
