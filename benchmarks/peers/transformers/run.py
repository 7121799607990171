"""The loop that people write: tokenize, pad, run, pool; fp32, batches of 32. `sorted` sorts the texts by length first."""

from peer_protocol import arguments, full_batches, in_sorted_order, pooled, serve

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
    rows = []
    for batch in full_batches(texts, BATCH):
        inputs = tokenizer(list(batch), padding=True, truncation=True, max_length=options.max_length, return_tensors="pt")
        rows.append(pooled(model(**inputs).last_hidden_state, inputs["attention_mask"].float(), options.pooling).numpy())
    return np.concatenate(rows)


def embed_sorted(texts):
    return in_sorted_order(embed, texts, width=model.config.hidden_size)


way = {"as_given": embed, "sorted": embed_sorted}[options.settings]
serve(way, settings=f"fp32, batches of {BATCH}, {options.settings}", packages=["transformers", "torch"])
