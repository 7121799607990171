"""Saves the checkpoint with the bundle's pooling, no prompts and nothing after the pooling, its ONNX file, and that file quantized by
sentence-transformers itself for AVX512-VNNI.
"""

from peer_protocol import arguments

from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model, models

options = arguments()
folder = str(options.work / "model")
transformer = models.Transformer(str(options.checkpoint), max_seq_length=options.max_length)
pooling = models.Pooling(transformer.get_word_embedding_dimension(), pooling_mode=options.pooling)
SentenceTransformer(modules=[transformer, pooling], device="cpu").save(folder)
model = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs={"export": True})
model.save(folder)
export_dynamic_quantized_onnx_model(model, "avx512_vnni", folder)
