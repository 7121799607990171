"""This project: an Encoder. The settings are `engine:variant`."""

from peer_protocol import arguments, serve

from cls_runtime import Encoder

options = arguments()
engine, variant = options.settings.split(":")
encoder = Encoder.load(options.checkpoint, engine=engine, variant=variant, threads=options.threads, on_overflow="truncate")
packages = ["numpy", "tokenizers", "openvino" if encoder.info.engine == "openvino" else "onnxruntime"]
serve(encoder.encode, settings=f"{encoder.info.engine}, {encoder.info.variant}", packages=packages)
