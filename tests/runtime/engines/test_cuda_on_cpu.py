"""`engine="cuda"` from the bundle to the vectors without a GPU: ONNX Runtime's CPU provider goes by the CUDA provider's name."""

import asyncio
import shutil
import threading
import time
import types

import numpy as np
import onnxruntime
import pytest
from bundle_builder import build_bundle, describe, write_manifest
from fake_driver import H100, T4, FakeDriver, pretend_driver
from packed_graphs import expected, packed_model, save

from cls_runtime import Bundle, BundleError, Encoder, EngineError, EngineWarning
from cls_runtime.bundle.manifest import Variant
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.cuda import graphs as cuda_graphs
from cls_runtime.engines.cuda import load as cuda
from cls_runtime.engines.cuda.memory import Device

LONG = 60  # seconds
TEXTS = ["a cat sleeps", "the dog runs", "", "the cat " * 4, "a"]


class Sessions:
    """The sessions that were made, and what of the provider's options is not as usual."""

    def __init__(self):
        self.options, self.session_options, self.refused = [], [], ()

    def make(self, path, options, *, providers, enable_fallback):
        (name, given), last = providers
        assert (name, last, enable_fallback) == (cuda.PROVIDER, "CPUExecutionProvider", False)
        self.options.append({key: value for key, value in given.items() if key not in cuda.PROVIDER_OPTIONS})
        self.session_options.append(options)
        if given.get("device_id", "0") in self.refused:
            raise RuntimeError("CUDA failure 2: out of memory")
        return _Renamed(path, options, providers=[last])


class _Renamed(onnxruntime.InferenceSession):
    def get_providers(self):
        return [cuda.PROVIDER, *super().get_providers()]


@pytest.fixture
def sessions(monkeypatch):
    made = Sessions()
    ort = types.SimpleNamespace(**{name: getattr(onnxruntime, name) for name in ("SessionOptions", "capi", "__version__")})
    ort.get_available_providers = lambda: [cuda.PROVIDER, "CPUExecutionProvider"]
    ort.InferenceSession = made.make
    monkeypatch.setattr(cuda, "import_package", lambda: ort)
    monkeypatch.setattr(cuda, "Device", lambda *, number: Device("cpu", 0))
    pretend_driver(monkeypatch, FakeDriver([H100, T4]))
    return made


@pytest.fixture(scope="module", params=["cls", "mean"])
def packed(request, tmp_path_factory):
    """A bundle whose fp16 has a packed form. What its padded form would give is something else."""
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    outputs = ("sentence_embedding",)
    build_bundle(folder, variants={"fp32": None, "fp16": None}, outputs=outputs, type_ids=False, pooling=request.param)
    packed_form = save(folder / "onnx", packed_model(mean=request.param == "mean"))
    manifest = Bundle.open(folder).manifest
    variants = dict(manifest.variants)
    files = (describe(folder, f"onnx/{packed_form.name}"),)
    variants["fp16"] = Variant(**(vars(variants["fp16"]) | {"engine_files": {"cuda": files}}))
    write_manifest(folder, type(manifest)(**(vars_of(manifest) | {"variants": variants, "fingerprint": ""})))
    return folder, request.param == "mean"


def vars_of(manifest):
    return {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}


def rows_of(folder, texts, *, mean):
    """The vectors of the packed graph for these texts, one by one."""
    bundle = Bundle.open(folder)
    tokens = TextTokenizer.from_bundle(bundle)
    rows = []
    for text in texts:
        ids = np.array(tokens.tokenize([text]).ids, dtype=np.int32)
        rows.append(expected(TokenBatch(ids, np.array([len(ids)], dtype=np.int32)), mean=mean)[0])
    return np.concatenate(rows)


def test_vectors_of_a_packed_form(packed, sessions):
    folder, mean = packed
    with Encoder.load(folder, engine="cuda", variant="fp16") as encoder:
        np.testing.assert_array_equal(encoder.encode(TEXTS), rows_of(folder, TEXTS, mean=mean))
        assert encoder.info.providers[0] == cuda.PROVIDER
        assert encoder.info.workers == 4
    assert sessions.options == [{"use_tf32": "0"}]
    assert not sessions.session_options[0].enable_mem_pattern


def test_vectors_of_a_padded_form_are_those_of_the_cpu(packed, sessions):
    folder, _ = packed
    with Encoder.load(folder, engine="cuda", variant="fp32") as encoder, Encoder.load(folder, engine="onnxruntime", variant="fp32") as cpu:
        np.testing.assert_allclose(encoder.encode(TEXTS), cpu.encode(TEXTS), rtol=1e-5, atol=1e-6)


def test_threads_and_asyncio_at_once_give_the_same_vectors(packed, sessions, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "SMALL_BATCHES_FIRST", 0)
    folder, mean = packed
    wanted = rows_of(folder, TEXTS, mean=mean)
    wrong = []
    with Encoder.load(folder, engine="cuda", variant="fp16") as encoder:

        def work(seed):
            for turn in range(30):
                place = (seed + turn) % len(TEXTS)
                if not np.array_equal(encoder.encode([TEXTS[place]])[0], wanted[place]):
                    wrong.append(place)

        async def ask():
            for _ in range(20):
                rows = await asyncio.gather(*(encoder.aencode([text]) for text in TEXTS))
                if not np.array_equal(np.concatenate(rows), wanted):
                    wrong.append("aencode")

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
        for thread in threads:
            thread.start()
        asyncio.run(ask())
        for thread in threads:
            thread.join()
    assert not wrong
    assert {"use_tf32": "0", "enable_cuda_graph": "1"} in sessions.options


def test_a_bundle_that_is_replaced_meanwhile_gives_no_graphs_of_the_new_one(packed, sessions, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "SMALL_BATCHES_FIRST", 1)
    folder, _ = packed
    path = folder / "onnx" / "model_fp16_packed.onnx"
    with Encoder.load(folder, engine="cuda", variant="fp16") as encoder:
        before = encoder.encode(["a"])
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
        encoder.encode(["a"])
        desk, end = encoder._runner._engine._graphs._desk, time.monotonic() + LONG
        while desk.failure is None:
            assert time.monotonic() < end
            time.sleep(0.001)
        with pytest.warns(EngineWarning, match="model_fp16_packed.onnx was replaced or deleted since it was loaded"):
            after = encoder.encode(["a"])
        np.testing.assert_array_equal(after, before)


def test_two_gpus_are_one_engine(packed, sessions):
    folder, mean = packed
    with Encoder.load(folder, engine="cuda", variant="fp16", device="0,1") as encoder:
        np.testing.assert_array_equal(encoder.encode(TEXTS), rows_of(folder, TEXTS, mean=mean))
        assert encoder.info.workers == 8
    assert sessions.options == [{"use_tf32": "0"}, {"use_tf32": "0", "device_id": "1"}]


def test_where_the_second_gpu_has_no_memory_the_first_is_freed(packed, sessions, monkeypatch):
    folder, _ = packed
    closed = []
    monkeypatch.setattr(cuda.GpuEngine, "close", lambda self: closed.append(self))  # noqa: PLW0108  a method
    sessions.refused = ("1",)
    with pytest.raises(EngineError, match="has no memory for .*model_fp16_packed.onnx"):
        Encoder.load(folder, engine="cuda", variant="fp16", device=(0, 1))
    assert len(closed) == 1


def test_a_damaged_packed_form_is_one_line(packed, sessions, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(packed[0], folder)
    path = folder / "onnx" / "model_fp16_packed.onnx"
    data = bytearray(path.read_bytes())
    data[40:90] = bytes(50)
    path.write_bytes(bytes(data))
    with pytest.raises(BundleError) as caught:
        Encoder.load(folder, engine="cuda", variant="fp16")
    assert "\n" not in str(caught.value)
