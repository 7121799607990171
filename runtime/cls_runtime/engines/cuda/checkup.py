"""What `cls-doctor` finds out about the GPUs: the driver, what is installed beside it, and which kernel computes attention."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

from cls_runtime.engines.cuda.attention_kernel import FAST, attention_kernel
from cls_runtime.engines.cuda.driver import Gpu, cuda_version, driver_version, gpus
from cls_runtime.engines.cuda.libraries import preload
from cls_runtime.engines.cuda.load import PROVIDER
from cls_runtime.engines.onnxruntime import import_package
from cls_runtime.errors import ClsError, EngineError

CUDNN = "cudnn64_9.dll" if sys.platform == "win32" else "libcudnn.so.9"


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """What was found on a machine with GPUs.

    Attributes:
        driver: the driver's version; None where the system does not tell.
        cuda: the newest CUDA that it runs.
        gpus: the GPUs.
        libraries: what CUDA's libraries complained of when they were loaded; None where the installed onnxruntime has no use for them.
        cudnn: whether cuDNN's library loads; None likewise.
        attention: ONNX Runtime's name of the kernel that computes attention; None where none could be run.
        problem: why none could be run, or why it is not the fast one.
    """

    driver: str | None
    cuda: str
    gpus: tuple[Gpu, ...]
    libraries: tuple[str, ...] | None = None
    cudnn: bool | None = None
    attention: str | None = None
    problem: str | None = None


def check_up() -> Checkup | None:
    """Looks at the driver and what is beside it, and runs a batch on the first GPU; None without a driver or a GPU."""
    try:
        found, cuda = gpus(), cuda_version()
    except EngineError:
        return None
    driver = driver_version()
    try:
        ort = import_package()
    except ClsError as error:
        return Checkup(driver=driver, cuda=cuda, gpus=found, problem=str(error))
    if PROVIDER not in ort.get_available_providers():
        problem = f"the installed onnxruntime has no {PROVIDER}; see engine cuda"
        return Checkup(driver=driver, cuda=cuda, gpus=found, problem=problem)
    complaints, cudnn = preload(ort), _loads(CUDNN)
    try:
        kernel = attention_kernel()
    except EngineError as error:
        return Checkup(driver=driver, cuda=cuda, gpus=found, libraries=complaints, cudnn=cudnn, problem=str(error))
    return Checkup(
        driver=driver,
        cuda=cuda,
        gpus=found,
        libraries=complaints,
        cudnn=cudnn,
        attention=kernel,
        problem=None if kernel == FAST else _not_fast(kernel, found[0]),
    )


def _not_fast(kernel: str, gpu: Gpu) -> str:
    if gpu.compute_capability < (8, 0):
        return (
            f"{FAST} needs a compute capability of 8.0, {gpu.name} has {'.'.join(map(str, gpu.compute_capability))}; long texts take longer"
        )
    found = f"{kernel} computes attention" if kernel else "onnxruntime does not say which kernel computes attention"
    return f"{found}, expected {FAST}; long texts take longer, install the newest onnxruntime-gpu"


def _loads(library: str) -> bool:
    """Whether the linker finds a library, or has it already."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
