"""Exports the checkpoint with optimum, and quantizes it dynamically: the two files that infinity looks for in a model's folder."""

from peer_protocol import arguments

from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from transformers import AutoTokenizer

options = arguments()
ORTModelForFeatureExtraction.from_pretrained(options.checkpoint, export=True).save_pretrained(options.work)
tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
tokenizer.model_max_length = options.max_length
tokenizer.save_pretrained(options.work)
ORTQuantizer.from_pretrained(options.work, file_name="model.onnx").quantize(
    save_dir=options.work, quantization_config=AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
)
