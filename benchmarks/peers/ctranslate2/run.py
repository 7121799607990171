"""CTranslate2. `int8`: batches of 32 in the order given, all threads in one replica. `int8_sorted` and `fp32_sorted`: sorted by length by
hand into batches of 1024 tokens, one replica a thread.
"""

from peer_protocol import arguments, batches_of, pooled, serve, sorted_batches

from concurrent.futures import ThreadPoolExecutor

import ctranslate2
import numpy as np
from tokenizers import Tokenizer

options = arguments()
precision, _, by_length = options.settings.partition("_")
compute_type = {"int8": "int8", "fp32": "float32"}[precision]
replicas = options.threads if by_length else 1
encoder = ctranslate2.Encoder(
    str(options.work / compute_type),
    device="cpu",
    compute_type=compute_type,
    inter_threads=replicas,
    intra_threads=options.threads // replicas,
)
tokenizer = Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(options.max_length)
pool = ThreadPoolExecutor(replicas)


def embed(texts):
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    lengths = [len(row) for row in ids]
    batches = sorted_batches(lengths) if by_length else batches_of(32, lengths)

    def vectors_of(batch):
        states = np.array(encoder.forward_batch([ids[index] for index in batch]).last_hidden_state)
        mask = np.arange(states.shape[1]) < np.array([lengths[index] for index in batch])[:, None]
        return pooled(states, mask.astype(np.float32), options.pooling)

    computed = list(pool.map(vectors_of, batches))
    rows = np.empty((len(texts), computed[0].shape[1]), dtype=np.float32)
    for batch, vectors in zip(batches, computed, strict=True):
        rows[batch] = vectors
    return rows


serve(embed, settings=f"{compute_type}, {replicas} replica(s), {by_length or 'batches of 32'}", packages=["ctranslate2"])
