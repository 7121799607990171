"""NVIDIA GPUs, through ONNX Runtime's CUDA provider: `load` is the engine's module, the others are what it is made of."""
