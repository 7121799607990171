"""The loop that people write: tokenize, pad, run, take the first row; fp32, batches of 32. `sorted` sorts the texts by length first."""

from peer_protocol import arguments, serve

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

BATCH = 32

options = arguments()
torch.set_num_threads(options.threads)
tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
model = AutoModel.from_pretrained(options.checkpoint).eval()


@torch.inference_mode()
def embed(texts):
    order = list(range(len(texts)))
    if options.settings == "sorted":
        order.sort(key=lambda index: -len(texts[index]))
    rows = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(texts), BATCH):
        batch = order[start : start + BATCH]
        inputs = tokenizer([texts[index] for index in batch], padding=True, truncation=True, max_length=256, return_tensors="pt")
        rows[batch] = model(**inputs).last_hidden_state[:, 0].numpy()
    return rows


serve(embed, settings=f"fp32, batches of {BATCH}, {options.settings}", packages=["transformers", "torch"])
