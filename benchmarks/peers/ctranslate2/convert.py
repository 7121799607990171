"""Converts the checkpoint with CTranslate2's own converter, to int8 and to fp32."""

from peer_protocol import arguments

from ctranslate2.converters import TransformersConverter

options = arguments()
for quantization in ("int8", "float32"):
    TransformersConverter(str(options.checkpoint)).convert(str(options.work / quantization), quantization=quantization)
