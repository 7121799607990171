"""This project: an Encoder that gives what the graph computes, as the others do. The settings are `engine:variant`."""

from peer_protocol import arguments, serve

from cls_runtime import Encoder
from cls_runtime.verifying.vector_checks import as_computed

options = arguments()
engine, variant = options.settings.split(":")
encoder = Encoder.load(options.checkpoint, engine=engine, variant=variant, threads=options.threads, on_overflow="truncate")
own = {"openvino": "openvino", "native": "cls-export-native"}
packages = ["numpy", "tokenizers", own.get(encoder.info.engine, "onnxruntime")]
serve(lambda texts: as_computed(encoder, texts), settings=f"{encoder.info.engine}, {encoder.info.variant}", packages=packages)
