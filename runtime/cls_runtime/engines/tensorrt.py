"""TensorRT through ONNX Runtime; what TensorRT does not take runs on the CUDA provider, on the same GPU."""

from __future__ import annotations

from cls_runtime.bundle.folder import Bundle
from cls_runtime.engines.cuda import load as cuda
from cls_runtime.engines.cuda.engine import GpuEngine

PROVIDER = "TensorrtExecutionProvider"


def load(bundle: Bundle, *, variant: str, threads: int) -> GpuEngine:
    """Loads a variant's graph; see `EngineModule.load`. TensorRT builds its engine at the first batch, which takes minutes."""
    options = {"device_id": cuda.PROVIDER_OPTIONS["device_id"], "trt_fp16_enable": str(variant == "fp16")}
    providers = [(PROVIDER, options), (cuda.PROVIDER, cuda.PROVIDER_OPTIONS)]
    return cuda.load_on(providers, bundle, name="tensorrt", variant=variant, threads=threads)
