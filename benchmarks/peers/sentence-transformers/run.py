"""sentence-transformers, which pools as the bundle does; it sorts by length itself, into batches of 32. `torch` and `onnx`: fp32;
`onnx_int8`: its own.
"""

from peer_protocol import arguments, serve

import onnxruntime
import torch
from sentence_transformers import SentenceTransformer

options = arguments()
torch.set_num_threads(options.threads)
folder = options.work / "model"
if options.settings == "torch":
    model = SentenceTransformer(str(folder), device="cpu")
else:
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = options.threads
    file = {"onnx": "model.onnx", "onnx_int8": "model_qint8_avx512_vnni.onnx"}[options.settings]
    model = SentenceTransformer(
        str(folder),
        backend="onnx",
        device="cpu",
        model_kwargs={"file_name": f"onnx/{file}", "provider": "CPUExecutionProvider", "session_options": session_options},
    )
serve(
    lambda texts: model.encode(list(texts), show_progress_bar=False),
    settings=f"{options.settings}, batches of 32, sorted",
    packages=["sentence-transformers", "torch", "onnxruntime"],
)
