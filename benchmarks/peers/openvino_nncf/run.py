"""OpenVINO, the full model quantized by NNCF with SmoothQuant. `sorted`: by length by hand, 1024 tokens, a stream a thread; `fp32` the same
without quantization; `defaults`: one latency stream, batches of 32.
"""

from peer_protocol import arguments, serve, sorted_batches

import nncf
import numpy as np
import openvino as ov
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

CALIBRATION = """The committee will meet again on Thursday to discuss the budget. A man is playing a guitar on the stage.
She bought three apples and a loaf of bread at the market. The new law was passed by a narrow majority last night.
Scientists have found evidence of water below the surface. Two dogs are running through the snow.
How do I reset my password? The company reported a loss of four million dollars in the second quarter.
It rained all day, so the match was moved to Sunday. Children are swimming in the river.
The bridge was closed after the storm damaged one of its pillars. Please send me the report by noon.""".replace("\n", " ").split(". ")

options = arguments()
tokenizer = Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(256)
core = ov.Core()


class FirstRow(torch.nn.Module):
    """The whole model, then its first row."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        """int64 [B, S] each -> float32 [B, H]."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]


def convert(path, *, quantize):
    example = {name: torch.ones((2, 8), dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    module = FirstRow(AutoModel.from_pretrained(options.checkpoint, attn_implementation="eager").eval())
    model = ov.convert_model(
        module, example_input=example, input=[("input_ids", [-1, -1], ov.Type.i64), ("attention_mask", [-1, -1], ov.Type.i64)]
    )
    if quantize:
        texts = [tokenizer.encode(text).ids for text in CALIBRATION]
        samples = [{"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), dtype=np.int64)} for ids in texts]
        model = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples))
    ov.save_model(model, path, compress_to_fp16=False)


path = options.work / ("fp32.xml" if options.settings == "fp32" else "int8.xml")
if not path.exists():
    convert(path, quantize=options.settings != "fp32")
streams = 1 if options.settings == "defaults" else options.threads
compiled = core.compile_model(
    path, "CPU", {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": options.threads, "INFERENCE_PRECISION_HINT": "f32"}
)
queue = ov.AsyncInferQueue(compiled, streams)


def embed(texts):
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    if options.settings == "defaults":
        batches = [list(range(start, min(start + 32, len(ids)))) for start in range(0, len(ids), 32)]
    else:
        batches = sorted_batches([len(row) for row in ids])
    rows = np.empty((len(texts), compiled.output(0).partial_shape[1].get_length()), dtype=np.float32)
    queue.set_callback(lambda request, batch: rows.__setitem__(batch, request.get_output_tensor(0).data))
    for batch in batches:
        width = max(len(ids[index]) for index in batch)
        inputs, mask = np.zeros((len(batch), width), dtype=np.int64), np.zeros((len(batch), width), dtype=np.int64)
        for row, index in enumerate(batch):
            inputs[row, : len(ids[index])] = ids[index]
            mask[row, : len(ids[index])] = 1
        queue.start_async({"input_ids": inputs, "attention_mask": mask}, batch)
    queue.wait_all()
    return rows


serve(embed, settings=f"{path.stem}, {streams} stream(s), {options.settings}", packages=["openvino", "nncf"])
