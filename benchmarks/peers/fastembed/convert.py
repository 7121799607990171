"""Makes the two files that fastembed's models come with: the full model from optimum, and the same quantized dynamically."""

from peer_protocol import arguments

from onnxruntime.quantization import QuantType, quantize_dynamic
from optimum.onnxruntime import ORTModelForFeatureExtraction
from transformers import AutoTokenizer

options = arguments()
ORTModelForFeatureExtraction.from_pretrained(options.checkpoint, export=True).save_pretrained(options.work)
tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
tokenizer.model_max_length = options.max_length
tokenizer.save_pretrained(options.work)
quantize_dynamic(options.work / "model.onnx", options.work / "model_quantized.onnx", weight_type=QuantType.QInt8, per_channel=True)
