"""CTranslate2, int8. `sorted` sorts by length by hand into batches of 1024 tokens on one replica a thread; `defaults` is batches of 32."""

from peer_protocol import arguments, serve, sorted_batches

from concurrent.futures import ThreadPoolExecutor

import ctranslate2
import numpy as np
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer

options = arguments()
converted = options.work / "int8"
if not converted.exists():
    TransformersConverter(str(options.checkpoint)).convert(str(converted), quantization="int8")
workers = options.threads if options.settings == "sorted" else 1
encoder = ctranslate2.Encoder(
    str(converted), device="cpu", compute_type="int8", inter_threads=workers, intra_threads=options.threads // workers
)
tokenizer = Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(256)
pool = ThreadPoolExecutor(workers)


def embed(texts):
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    if options.settings == "sorted":
        batches = sorted_batches([len(row) for row in ids])
    else:
        batches = [list(range(start, min(start + 32, len(ids)))) for start in range(0, len(ids), 32)]
    first = list(pool.map(lambda batch: np.array(encoder.forward_batch([ids[index] for index in batch]).last_hidden_state)[:, 0], batches))
    rows = np.empty((len(texts), first[0].shape[1]), dtype=np.float32)
    for batch, vectors in zip(batches, first, strict=True):
        rows[batch] = vectors
    return rows


serve(embed, settings=f"int8, {options.settings}", packages=["ctranslate2"])
