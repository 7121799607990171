"""What only a GPU can show: `pytest -m gpu` on a machine with one. Everywhere else these skip, and say why."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from made_once import made_once

from cls_runtime import Bundle, Encoder, EngineError, EngineWarning
from cls_runtime.commands.verify import main as verify
from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.cuda import driver
from cls_runtime.engines.cuda import load as cuda
from cls_runtime.engines.cuda.graphs import SMALL_BATCHES_FIRST
from cls_runtime.engines.cuda.memory import CudaRuntime

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

LONG = 120  # seconds
WORDS = "a young child is riding on the back of an old brown horse near some trees by a wide river in summer".split()
# float16 rounds by 5e-4, and another batch adds up in another order: what the gate allows between batches, for unit vectors.
BATCHES_DIFFER = 2e-3
P50_MS = 0.5  # one text, from its characters to its vector


@pytest.fixture(scope="session", params=["cls", "mean"])
def fp16_bundle(request, gpu, minilm, shared) -> Path:
    """all-MiniLM-L6-v2 with fp32 and fp16, whose vector is its CLS row or the mean."""
    from cls_exporter import ExportConfig, export

    config = ExportConfig(precisions=("fp32", "fp16"), allow_pooling_mismatch=request.param == "cls")
    name = "all-MiniLM-L6-v2"
    return made_once(shared / f"minilm-fp16-{request.param}", lambda folder: export(str(minilm), folder / name, config=config)) / name


@pytest.fixture
def encoder(fp16_bundle):
    with warnings.catch_warnings(), Encoder.load(fp16_bundle, engine="cuda", variant="fp16", on_overflow="truncate") as encoder:
        warnings.simplefilter("error", EngineWarning)
        yield encoder


def sentences(count: int, *, seed: int = 0, most: int = 60) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, size)) for size in random.integers(1, most, count)]


def engine_of(encoder):
    return encoder._runner._engine


def batches(*sizes: tuple[int, int], seed: int = 0) -> list[TokenBatch]:
    random = np.random.default_rng(seed)
    return [
        TokenBatch(
            random.integers(1000, 20_000, texts * length).astype(np.int32),
            np.full(texts, length, dtype=np.int32),
            np.zeros(texts * length, dtype=np.int32),
        )
        for texts, length in sizes
    ]


def free_bytes() -> int:
    """Free memory of the first GPU, which nobody else may use meanwhile."""
    import onnxruntime

    major = onnxruntime.cuda_version.partition(".")[0]
    runtime = ctypes.CDLL(f"cudart64_{major}.dll" if sys.platform == "win32" else f"libcudart.so.{major}")
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value


def replayed(graphs, laid_out, outputs):
    """The rows by the batch's graph. The graphs' thread takes a moment from one batch to being free for the next."""
    end = time.monotonic() + LONG
    while (rows := graphs.run(laid_out.bucket, laid_out.feeds, outputs)) is None:
        assert graphs._desk.failure is None
        assert time.monotonic() < end
        time.sleep(0.001)
    return rows


def with_graphs(encoder, text="a young child"):
    """Encodes until the text's shape has a graph."""
    graphs = engine_of(encoder)._graphs
    end = time.monotonic() + LONG
    before = graphs.count
    for _ in range(SMALL_BATCHES_FIRST + 1):
        encoder.encode([text])
    while graphs.count == before:
        assert graphs._desk.failure is None
        assert time.monotonic() < end
        encoder.encode([text])
    return graphs


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_parity_with_pytorchs_vectors(fp16_bundle, variant):
    assert verify([str(fp16_bundle), "--engine", "cuda", "--variant", variant]) == 0


def test_fp16_runs_packed(encoder):
    assert not engine_of(encoder).batching.pads


def test_attention_runs_no_slow_kernel(fp16_bundle):
    """ONNX Runtime writes which kernel ran to standard output. MATH keeps all scores in memory, and is what a bias or a mask leads to."""
    script = f"""
from cls_runtime import Encoder
with Encoder.load({str(fp16_bundle)!r}, engine="cuda", variant="fp16") as encoder:
    encoder.encode(["a young child is riding a horse", "a"] * 40)
"""
    environment = {**os.environ, "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    kernels = set(re.findall(r"SdpaKernel=(\w+)", done.stdout + done.stderr))
    assert kernels, done.stdout + done.stderr
    assert kernels == {"FLASH_ATTENTION"}


def test_loading_and_encoding_write_no_line(fp16_bundle):
    script = f"""
from cls_runtime import Encoder
with Encoder.load({str(fp16_bundle)!r}, engine="cuda", variant="fp16") as encoder:
    for _ in range(40):
        encoder.encode(["a young child is riding a horse"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_graphs_give_bit_for_bit_what_plain_runs_give(encoder):
    graphs, engine = with_graphs(encoder), engine_of(encoder)
    outputs = ["sentence_embedding"]
    for batch in batches((1, 9), (1, 30), (1, 100), (3, 20), (8, 26), (30, 30)):
        engine._graphs = None
        plain = engine.run(batch, outputs)[0]
        engine._graphs = graphs
        end = time.monotonic() + LONG
        shape = engine._layout.lay_out(batch).bucket
        while not any(key.shape == shape for key in graphs._desk.captured):
            assert graphs._desk.failure is None
            assert time.monotonic() < end
            engine.run(batch, outputs)
        for _ in range(3):
            rows = replayed(graphs, engine._layout.lay_out(batch), outputs)
            np.testing.assert_array_equal(rows[0][: batch.texts], plain)
        assert np.isfinite(plain).all()


def test_captures_are_not_disturbed_by_runs_of_other_threads(encoder):
    engine, stop, wrong = engine_of(encoder), threading.Event(), []
    (large,) = batches((400, 40))
    wanted = engine.run(large, ["sentence_embedding"])[0]

    def work():
        while not stop.is_set():
            rows = engine.run(large, ["sentence_embedding"])[0]
            if not np.array_equal(rows, wanted):
                wrong.append(rows)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + LONG
        while engine._graphs.count < 6 and engine._graphs._desk.failure is None and time.monotonic() < end:
            for batch in batches(*[(1, length) for length in (5, 40, 70, 100, 140, 200)]):
                engine.run(batch, ["sentence_embedding"])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert engine._graphs._desk.failure is None
    assert engine._graphs.count == 6


def test_16_threads_and_asyncio_at_once_give_the_same_vectors(encoder):
    texts = sentences(200)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    wrong = []

    def work(seed):
        # One text alone has one shape, whether it has a graph or not.
        places = np.random.default_rng(seed).permutation(len(texts))
        wrong.extend(texts[place] for place in places if not np.array_equal(encoder.encode([texts[place]])[0], alone[place]))

    async def ask():
        for _ in range(5):
            rows = np.concatenate(await asyncio.gather(*(encoder.aencode([text]) for text in texts)))
            wrong.extend(np.flatnonzero(np.abs(rows - alone).max(axis=1) > BATCHES_DIFFER).tolist())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    asyncio.run(ask())
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_text_has_the_same_vector_in_any_batch(encoder):
    texts = sentences(3000)
    together = encoder.encode(texts)
    for places in (slice(0, 1), slice(0, 7), slice(100, 140), slice(0, 1500)):
        np.testing.assert_allclose(encoder.encode(texts[places]), together[places], rtol=0, atol=BATCHES_DIFFER)
    assert np.isfinite(together).all()


@pytest.mark.slow
def test_memory_stays_flat_over_100_000_texts_of_random_lengths(encoder):
    free = []
    for turn in range(10):
        encoder.encode(sentences(10_000, seed=turn, most=250))
        free.append(free_bytes())
    # The first rounds meet the largest runs; what a run gave back fits the next.
    assert free[4] - min(free[4:]) <= 64 * 2**20, free


def test_a_gpu_without_memory_for_a_batch_runs_it_as_two(fp16_bundle, monkeypatch):
    (batch,) = batches((600, 100))
    with Encoder.load(fp16_bundle, engine="cuda", variant="fp16") as encoder:
        wanted = engine_of(encoder).run(batch, ["sentence_embedding"])[0]
    # Enough for half of its activations and not for all: 60,000 tokens of MiniLM take about 0.6 GB.
    for limit_mb in (500, 450, 400, 350, 300, 250):
        monkeypatch.setitem(cuda.PROVIDER_OPTIONS, "gpu_mem_limit", str(limit_mb * 10**6))
        with Encoder.load(fp16_bundle, engine="cuda", variant="fp16") as encoder, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                rows = engine_of(encoder).run(batch, ["sentence_embedding"])[0]
            except EngineError as error:
                assert "lower token_budget" in str(error)  # noqa: PT017
                continue
        if told:
            assert "it is run as two" in str(told[0].message)
            np.testing.assert_allclose(rows, wanted, rtol=0, atol=BATCHES_DIFFER)
            return
    pytest.fail("no limit lets half of the batch run and not all of it")


def test_host_memory_is_page_locked(gpu):
    import onnxruntime

    cuda.preload(onnxruntime)
    found = CudaRuntime.found(onnxruntime, 0)
    assert found is not None
    array = np.zeros(1 << 16, dtype=np.int32)
    found.lock(array)
    major = onnxruntime.cuda_version.partition(".")[0]
    runtime = ctypes.CDLL(f"cudart64_{major}.dll" if sys.platform == "win32" else f"libcudart.so.{major}")
    already_registered = 712
    status = runtime.cudaHostRegister(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), ctypes.c_uint(1))
    runtime.cudaGetLastError()
    assert status == already_registered


def test_several_gpus_give_the_vectors_of_one(fp16_bundle, encoder):
    if driver.device_count() < 2:
        pytest.skip("one GPU only")
    texts = sentences(5000)
    with Encoder.load(fp16_bundle, engine="cuda", variant="fp16", device="all") as several:
        assert several.info.workers == driver.device_count() * encoder.info.workers
        np.testing.assert_allclose(several.encode(texts), encoder.encode(texts), rtol=0, atol=BATCHES_DIFFER)


def test_fp32_is_no_tf32(fp16_bundle):
    """TF32 products leave errors of 7e-4."""
    texts = sentences(100)
    with Encoder.load(fp16_bundle, engine="onnxruntime", variant="fp32") as encoder:
        reference = encoder.encode(texts)
    with Encoder.load(fp16_bundle, engine="cuda", variant="fp32") as encoder:
        np.testing.assert_allclose(encoder.encode(texts), reference, rtol=0, atol=5e-5)


@pytest.mark.timing
def test_one_text_takes_half_a_millisecond(encoder):
    text = "a young child is riding a horse near the river"
    with_graphs(encoder, text)
    times = []
    for _ in range(2000):
        start = time.perf_counter()
        encoder.encode([text])
        times.append((time.perf_counter() - start) * 1e3)
    assert statistics.median(times[200:]) <= P50_MS, statistics.quantiles(times[200:], n=20)


def test_the_padded_form_of_another_engine_gives_the_same(fp16_bundle, encoder):
    """fp16 on the CPU reads the padded file."""
    texts = sentences(50)
    assert Bundle.open(fp16_bundle).manifest.variants["fp16"].engine_files["cuda"]
    with Encoder.load(fp16_bundle, engine="onnxruntime", variant="fp16") as padded:
        rows = padded.encode(texts)
    cosines = (rows * encoder.encode(texts)).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(encoder.encode(texts), axis=1)
    assert cosines.min() >= 0.9999
