"""OpenVINO, the full model. `int8` (NNCF): one stream, batches of 32 in the order given. `int8_sorted` and `fp32_sorted`: sorted by length
by hand into batches of 1024 tokens, a stream a thread.
"""

from peer_protocol import arguments, batches_of, serve, sorted_batches

import numpy as np
import openvino as ov
from tokenizers import Tokenizer

options = arguments()
precision, _, by_length = options.settings.partition("_")
streams = options.threads if by_length else 1
tokenizer = Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(options.max_length)
properties = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": options.threads}
if precision == "fp32":
    # Left alone, OpenVINO computes in bf16 where the CPU can. In the int8 model that is its default for the rest, and the faster way.
    properties["INFERENCE_PRECISION_HINT"] = "f32"
compiled = ov.Core().compile_model(options.work / f"{precision}.xml", "CPU", properties)
queue = ov.AsyncInferQueue(compiled, streams)


def embed(texts):
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    lengths = [len(row) for row in ids]
    rows = np.empty((len(texts), compiled.output(0).partial_shape[1].get_length()), dtype=np.float32)
    queue.set_callback(lambda request, batch: rows.__setitem__(batch, request.get_output_tensor(0).data))
    for batch in sorted_batches(lengths) if by_length else batches_of(32, lengths):
        width = max(lengths[index] for index in batch)
        inputs, mask = np.zeros((len(batch), width), dtype=np.int64), np.zeros((len(batch), width), dtype=np.int64)
        for row, index in enumerate(batch):
            inputs[row, : lengths[index]] = ids[index]
            mask[row, : lengths[index]] = 1
        queue.start_async({"input_ids": inputs, "attention_mask": mask}, batch)
    queue.wait_all()
    return rows


serve(embed, settings=f"{precision}, {streams} stream(s), {by_length or 'batches of 32'}", packages=["openvino"])
