"""sentence-transformers with CLS pooling; it sorts by length itself. `torch`: fp32; `onnx_int8`: its own dynamic quantization."""

from peer_protocol import arguments, serve

import torch
from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model, models

options = arguments()
torch.set_num_threads(options.threads)
folder = options.work / "model"
if not folder.exists():
    transformer = models.Transformer(str(options.checkpoint), max_seq_length=256)
    pooling = models.Pooling(transformer.get_word_embedding_dimension(), pooling_mode="cls")
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder))
if options.settings == "onnx_int8":
    import onnxruntime

    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = options.threads
    arguments_of_model = {"provider": "CPUExecutionProvider", "session_options": session_options}
    if not list(folder.glob("onnx/*qint8*")):
        model = SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs={"export": True})
        model.save(str(folder))
        export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(folder))
    file = next(folder.glob("onnx/*qint8*")).name
    model = SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs={"file_name": f"onnx/{file}", **arguments_of_model})
else:
    model = SentenceTransformer(str(folder), device="cpu")
serve(lambda texts: model.encode(list(texts)), settings=options.settings, packages=["sentence-transformers", "torch", "onnxruntime"])
