"""Who computes: this project's Encoder, its engine alone on batches that are ready, sentence-transformers, and PyTorch sorted by hand."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime import Encoder
from cls_runtime.bundle.folder import Bundle
from cls_runtime.encoding.options import EncoderOptions
from cls_runtime.engines.choice import engine_module

Float32 = NDArray[np.float32]
Encodes = Callable[[Sequence[str]], Float32]
PEER_BATCH = 256


class RecordedEngine:
    """An engine that remembers what it is given, so that the same runs can be repeated without all that an Encoder does."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.runs: list[tuple[Any, tuple[str, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, batch: Any, outputs: Sequence[str]) -> Any:
        """Runs the batch, and keeps it."""
        self.runs.append((batch, tuple(outputs)))
        return self._engine.run(batch, outputs)

    def repeat(self, pool: ThreadPoolExecutor) -> None:
        """Runs every batch again, on the threads of `pool`."""
        for _ in pool.map(lambda run: self._engine.run(*run), self.runs):
            pass


@contextlib.contextmanager
def loaded(bundle: Path, *, engine: str, variant: str, token_budget: int | None = None) -> Iterator[Encoder]:
    """An Encoder; `token_budget` None is the engine's own."""
    given: dict[str, Any] = {} if token_budget is None else {"token_budget": token_budget}
    with Encoder.load(bundle, engine=engine, variant=variant, on_overflow="truncate", **given) as encoder:
        yield encoder


@contextlib.contextmanager
def without_cuda_graphs(load: Callable[[], contextlib.AbstractContextManager[Encoder]]) -> Iterator[Encoder]:
    """An Encoder that makes no CUDA graphs, for which there is no option: their number is 0 meanwhile."""
    graphs: Any = importlib.import_module("cls_runtime.engines.cuda.graphs")
    most, graphs.MOST_GRAPHS = graphs.MOST_GRAPHS, 0
    try:
        with load() as encoder:
            yield encoder
    finally:
        graphs.MOST_GRAPHS = most


@contextlib.contextmanager
def recorded(bundle: Path, texts: Sequence[str], *, engine: str, variant: str, threads: int) -> Iterator[RecordedEngine]:
    """The engine alone, with the batches that an Encoder made of `texts`, or of a part of them."""
    opened = Bundle.open(bundle)
    recording = RecordedEngine(engine_module(engine).load(opened, variant=variant, threads=threads))
    options = EncoderOptions(variant=variant, threads=threads, on_overflow="truncate")
    with Encoder.of(opened, recording, options) as encoder:
        encoder.encode(texts)
        yield recording


def sentence_transformers(checkpoint: Path, *, device: str, max_length: int) -> Encodes:
    """sentence-transformers with the CLS row, in float16 on a GPU. It sorts by length itself."""
    from sentence_transformers import SentenceTransformer

    models: Any = importlib.import_module("sentence_transformers.models")
    transformer = models.Transformer(str(checkpoint), max_seq_length=max_length)
    width: Any = transformer.auto_model.config.hidden_size
    model = SentenceTransformer(modules=[transformer, models.Pooling(width, pooling_mode="cls")], device=device)
    if device != "cpu":
        model.half()
    return lambda texts: np.asarray(model.encode(list(texts), batch_size=PEER_BATCH, show_progress_bar=False), dtype=np.float32)


def torch_sorted(checkpoint: Path, tokenizer: Any, *, device: str) -> Encodes:
    """What somebody would write who sorts by length: float16 and PyTorch's fused attention on a GPU, batches of 256, one copy back."""
    import torch
    from transformers import AutoModel

    half = torch.float32 if device == "cpu" else torch.float16
    model: Any = AutoModel.from_pretrained(checkpoint, attn_implementation="sdpa", dtype=half, add_pooling_layer=False)
    model = model.eval().to(device)

    def encode(texts: Sequence[str]) -> Float32:
        ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
        order = np.argsort([-len(item) for item in ids], kind="stable")
        rows = []
        with torch.inference_mode():
            for start in range(0, len(order), PEER_BATCH):
                batch = [ids[index] for index in order[start : start + PEER_BATCH]]
                mask = np.arange(len(batch[0])) < np.array([len(item) for item in batch])[:, None]
                padded = np.zeros(mask.shape, dtype=np.int64)
                padded[mask] = np.concatenate(batch)
                inputs = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
                rows.append(model(**{name: value.to(device) for name, value in inputs.items()}).last_hidden_state[:, 0])
            sorted_rows = torch.cat(rows).float().cpu().numpy()
        vectors = np.empty_like(sorted_rows)
        vectors[order] = sorted_rows
        return vectors

    return encode


def matrix_product(rows: int, inner: int, columns: int, *, device: str) -> Callable[[], None]:
    """A function that multiplies [rows, inner] by [inner, columns] once and waits for it, in float16 on a GPU."""
    import torch

    dtype = torch.float32 if device == "cpu" else torch.float16
    left, right = (torch.randn(shape, device=device, dtype=dtype) for shape in ((rows, inner), (inner, columns)))

    def multiply() -> None:
        torch.matmul(left, right)
        if device != "cpu":
            torch.cuda.synchronize()

    return multiply
