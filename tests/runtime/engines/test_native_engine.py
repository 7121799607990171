"""The native engine: the vectors of the graph, the same bits whatever runs beside them, and errors in place of crashes."""

import dataclasses
import gc
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from bundle_builder import HIDDEN, LABELS, build_bundle, describe
from native_bundle import NAMES, add_native
from native_library import needs_native, usable_kernels
from native_models import KINDS, random_batch, random_model

from cls_runtime import Bundle, BundleError, ClosedError, Encoder, EngineError, MissingExtraError, UsageError
from cls_runtime.bundle.manifest import read_manifest
from cls_runtime.encoding.tokens import TokenizedTexts
from cls_runtime.engines import onnxruntime
from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.native import engine as native_engine
from cls_runtime.engines.native import library, load
from cls_runtime.engines.native.engine import NativeEngine
from cls_runtime.engines.native.probe import probe, probe_model
from cls_runtime.engines.native.structures import GRAPH_OUTPUT_OF

TEXTS = ["the cat", "a", "dog runs, the cat sleeps", "", "xyz 123", ("the cat", "a dog runs"), "the dog sleeps " * 4]

SENTENCE = ("sentence_embedding",)  # the tiny graph's pooler is of the sentence, and a model's of row 0


def int32(*values):
    return np.array(values, dtype=np.int32)


def threads_here():
    return len(list(Path("/proc/self/task").iterdir()))


def outputs_of(model):
    return [GRAPH_OUTPUT_OF[name] for name in model.widths]


def alone(batch, text):
    """The batch of one of its texts."""
    begin, end = int(batch.lengths[:text].sum()), int(batch.lengths[: text + 1].sum())
    return TokenBatch(
        batch.input_ids[begin:end],
        batch.lengths[text : text + 1],
        token_type_ids=None if batch.token_type_ids is None else batch.token_type_ids[begin:end],
        unpooled=None if batch.unpooled is None else batch.unpooled[text : text + 1],
    )


@needs_native
class TestRuns:
    @pytest.mark.parametrize(
        "options", [{}, {"pooling": "mean", "token_rows": True, "outputs": SENTENCE}, {"type_ids": False}, {"token_rows": True}], ids=str
    )
    def test_the_vectors_are_those_of_the_graph(self, tmp_path, options):
        folder = add_native(build_bundle(tmp_path / "bundle", **options))
        bundle = Bundle.open(folder)
        ids = [[2, 5, 3], [2, 3], [2, *[8] * 14, 3], [2, 6, 7, 3]]
        batch = TokenizedTexts.of(ids, [[0] * len(text) for text in ids]).batch(np.arange(len(ids)), pad_id=0)
        names = [output.name for output in bundle.manifest.outputs if output.name != "last_hidden_state" or bundle.manifest.token_rows]
        with_graph = onnxruntime.load(bundle, variant="fp32", threads=1)
        native = load.load(bundle, variant="fp32", threads=2)
        for name, expected, found in zip(names, with_graph.run(batch, names), native.run(batch, names), strict=True):
            assert found.shape == expected.shape, name
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6, err_msg=name)
        native.close()

    def test_an_encoder_gives_the_vectors_of_the_graph(self, tmp_path):
        folder = add_native(build_bundle(tmp_path / "bundle"))
        with Encoder.load(folder, engine="native") as native, Encoder.load(folder, engine="onnxruntime") as other:
            assert native.info.providers[0].startswith("CPU ")
            for output in native.outputs:
                options = {"on_overflow": "truncate", "output": output}
                np.testing.assert_allclose(native.encode(TEXTS, **options), other.encode(TEXTS, **options), rtol=0, atol=2e-6)
            native.encode(TEXTS, on_overflow="truncate")
            assert native.last_report.padding_tokens == 0

    @pytest.mark.parametrize("include_prompt", [True, False])
    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    def test_a_prompt_is_left_out_of_the_pooling(self, tmp_path, include_prompt, pooling):
        options = {"prompts": {"query": "the cat, "}, "pooling": pooling, "include_prompt": include_prompt}
        folder = add_native(build_bundle(tmp_path / "bundle", **options))
        with Encoder.load(folder, engine="native") as native, Encoder.load(folder, engine="onnxruntime") as other:
            found, expected = (each.encode(["a dog", "b"], prompt_name="query") for each in (native, other))
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
            assert not np.allclose(found, native.encode(["a dog", "b"]))

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_same_bits_alone_in_batches_on_all_kernels_and_threads(self, kind):
        model = random_model(KINDS[kind])
        names = outputs_of(model)
        batch = random_batch(KINDS[kind], 3, 1, 24, 5, 17, 2, unpooled=True)
        reference = NativeEngine(model, threads=1, kernels=usable_kernels()[-1])
        expected = reference.run(batch, names)
        for kernels in usable_kernels():
            for threads in (1, 2, 3):
                engine = NativeEngine(model, threads=threads, kernels=kernels)
                assert engine.providers == (f"CPU {kernels}",)
                with ThreadPoolExecutor(2) as pool:
                    for found in pool.map(lambda _: engine.run(batch, names), range(4)):  # noqa: B023
                        assert [rows.tobytes() for rows in found] == [rows.tobytes() for rows in expected]
                ends = np.cumsum(batch.lengths)
                for text in range(batch.texts):
                    for name, rows, single in zip(names, expected, engine.run(alone(batch, text), names), strict=True):
                        own = rows[ends[text] - batch.lengths[text] : ends[text]] if name == "last_hidden_state" else rows[text : text + 1]
                        assert single.tobytes() == own.tobytes(), (kernels, threads, text, name)
                engine.close()
        reference.close()

    def test_encoders_give_the_same_bits_alone_and_together(self, tmp_path):
        folder = add_native(build_bundle(tmp_path / "bundle", variants={"fp32": None, "int8": None}))
        for variant in NAMES:
            with Encoder.load(folder, engine="native", variant=variant, threads=1, on_overflow="truncate") as one:
                expected = one.encode(TEXTS)
                assert [one.encode([text]).tobytes() for text in TEXTS] == [row.tobytes() for row in expected]
            two = Encoder.load(folder, engine="native", variant=variant, threads=2, on_overflow="truncate", token_budget=9)
            with two, ThreadPoolExecutor(2) as pool:
                for found in pool.map(two.encode, [TEXTS] * 4):
                    assert found.tobytes() == expected.tobytes()

    def test_what_the_model_has_not_is_named(self):
        engine = NativeEngine(random_model(KINDS["float"]), threads=1)
        with pytest.raises(EngineError, match=r"no output 'logits', expected one of sentence_embedding; name another engine"):
            engine.run(random_batch(KINDS["float"], 1), ["logits"])

    @pytest.mark.parametrize(
        "batch",
        [
            TokenBatch(int32(1, 50), int32(2), token_type_ids=int32(0, 0)),
            TokenBatch(int32(1, -1), int32(2), token_type_ids=int32(0, 0)),
            TokenBatch(int32(1, 2), int32(2), token_type_ids=int32(0, 2)),
            TokenBatch(int32(1, 2), int32(2, 0), token_type_ids=int32(0, 0)),
            TokenBatch(int32(1, 2), int32(1), token_type_ids=int32(0, 0)),
            TokenBatch(int32(1, 2), int32(3, -1), token_type_ids=int32(0, 0)),
            TokenBatch(int32(*range(25)), int32(25), token_type_ids=np.zeros(25, np.int32)),
            TokenBatch(int32(1, 2), int32(2), token_type_ids=int32(0, 0), unpooled=int32(-1)),
        ],
        ids=["id", "negative id", "type", "empty text", "too few", "negative length", "too long", "unpooled"],
    )
    def test_a_batch_that_the_model_does_not_take_is_an_error(self, batch):
        engine = NativeEngine(random_model(KINDS["float"]), threads=2)
        good = random_batch(KINDS["float"], 1)
        (before,) = engine.run(good, ["sentence_embedding"])
        with pytest.raises(EngineError, match=r"does not take a batch of \d texts and \d+ tokens: .*out of its range"):
            engine.run(batch, ["sentence_embedding"])
        (after,) = engine.run(good, ["sentence_embedding"])
        assert before.tobytes() == after.tobytes()

    def test_arrays_of_other_sizes_are_not_read(self):
        engine = NativeEngine(random_model(KINDS["float"]), threads=1)
        with pytest.raises(EngineError, match=r"a batch has arrays of 2, 1, 1, 1 numbers, expected 2, 1, 2, 1 \(ids, lengths, types"):
            engine.run(TokenBatch(int32(1, 2), int32(2), token_type_ids=int32(0)), ["sentence_embedding"])

    def test_kernels_by_name(self):
        assert usable_kernels()[-1] == "portable"
        with pytest.raises(EngineError, match=r"there are no kernels 'mmx' on this machine, expected one of .*portable"):
            NativeEngine(probe_model(), threads=1, kernels="mmx")

    def test_the_probe_says_what_computes(self):
        best, *_ = usable_kernels()
        assert probe() == f"CPU {best} of {', '.join(usable_kernels())}"


@needs_native
class TestEnds:
    def test_a_closed_engine_says_so(self):
        engine = NativeEngine(probe_model(), threads=2)
        engine.close()
        engine.close()
        with pytest.raises(ClosedError, match="the engine is closed; load the bundle again"):
            engine.run(TokenBatch(int32(1), int32(1)), ["sentence_embedding"])

    def test_closing_waits_for_runs(self, monkeypatch):
        engine = NativeEngine(random_model(KINDS["float"]), threads=2)
        begun, go_on = threading.Event(), threading.Event()
        output = NativeEngine._output

        def slow(self, *arguments):
            begun.set()
            assert go_on.wait(30)
            return output(self, *arguments)

        monkeypatch.setattr(NativeEngine, "_output", slow)
        with ThreadPoolExecutor(2) as pool:
            run = pool.submit(engine.run, random_batch(KINDS["float"], 1), ["sentence_embedding"])
            assert begun.wait(30)
            closing = pool.submit(engine.close)
            assert not closing.done()
            go_on.set()
            closing.result(30)
            assert np.isfinite(run.result(30)[0]).all()

    def test_a_dropped_engine_is_freed(self, monkeypatch):
        freed = []
        close = native_engine._close
        monkeypatch.setattr(native_engine, "_close", lambda *arguments: (freed.append(arguments[-1]), close(*arguments)))
        engine = NativeEngine(probe_model(), threads=2)
        assert not freed
        del engine
        gc.collect()
        assert freed == [os.getpid()]

    def test_closing_ends_its_threads(self):
        if not Path("/proc/self/task").is_dir():
            pytest.skip("this system does not list threads")
        before = threads_here()
        engines = [NativeEngine(probe_model(), threads=3) for _ in range(3)]
        assert threads_here() == before + 6
        for engine in engines:
            engine.close()
        assert threads_here() == before

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    @pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
    def test_after_a_fork_it_is_refused_and_ends(self):
        engine = NativeEngine(probe_model(), threads=2)
        batch = TokenBatch(int32(1), int32(1))
        child = os.fork()
        if child == 0:
            try:
                engine.run(batch, ["sentence_embedding"])
            except EngineError as error:
                engine.close()
                del engine
                gc.collect()
                os._exit(7 if "was loaded in process" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert engine.run(batch, ["sentence_embedding"])[0].shape == (1, 64)
        engine.close()


@needs_native
class TestLoading:
    @pytest.fixture
    def folder(self, tmp_path):
        return add_native(build_bundle(tmp_path / "bundle"))

    def test_a_damaged_file_is_an_error_of_the_bundle(self, folder):
        path = folder / NAMES["fp32"]
        data = path.read_bytes()
        path.write_bytes(b"\xff" * 16 + data[16:])
        with pytest.raises(BundleError, match=r"is not a file of native weights .*; copy or export the bundle again"):
            Encoder.load(folder, engine="native")
        path.write_bytes(data[:-8])
        with pytest.raises(BundleError, match="the manifest says"):
            Encoder.load(folder, engine="native")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"max_length": 8}, "has max_length 16, the manifest says 8"),
            ({"outputs": 3}, f"has outputs sentence {HIDDEN}, pooler {HIDDEN}, logits {LABELS}, the manifest says"),
        ],
    )
    def test_weights_of_another_model_are_refused(self, folder, change, message):
        manifest = read_manifest(folder)
        if "outputs" in change:
            *others, logits = manifest.outputs
            change = {"outputs": (*others, dataclasses.replace(logits, width=LABELS + 1))}
        bundle = Bundle(folder, dataclasses.replace(manifest, fingerprint="", **change))
        with pytest.raises(BundleError, match=message):
            load.load(bundle, variant="fp32", threads=1)

    def test_a_bundle_without_weights(self, bundle):
        with pytest.raises(UsageError, match="has no fp32 weights for engine native; export it again, or use another engine"):
            load.load(Bundle.open(bundle), variant="fp32", threads=1)

    def test_the_weights_outlive_the_bundles_folder(self, folder):
        encoder = Encoder.load(folder, engine="native")
        expected = encoder.encode(["the cat"])
        (folder / NAMES["fp32"]).unlink()
        gc.collect()
        assert encoder.encode(["the cat"]).tobytes() == expected.tobytes()
        encoder.close()

    def test_a_pickled_encoder_is_on_the_same_engine(self, folder):
        import pickle

        with Encoder.load(folder, engine="native") as encoder, pickle.loads(pickle.dumps(encoder)) as copy:
            assert copy.info.engine == "native"
            assert copy.encode(["the cat"]).tobytes() == encoder.encode(["the cat"]).tobytes()

    def test_the_file_that_the_manifest_names_is_read_and_no_other(self, folder):
        manifest = read_manifest(folder)
        (folder / NAMES["fp32"]).rename(folder / "elsewhere.safetensors")
        fp32 = dataclasses.replace(manifest.variants["fp32"], engine_files={"native": (describe(folder, "elsewhere.safetensors"),)})
        bundle = Bundle(folder, dataclasses.replace(manifest, variants={"fp32": fp32}, fingerprint=""))
        load.load(bundle, variant="fp32", threads=1).close()


class TestLibrary:
    """What is wrong with an installation is an error that says how to mend it."""

    def test_a_library_that_is_not_installed(self, monkeypatch):
        monkeypatch.setattr(library, "PACKAGE", "cls_export_native_that_nobody_has")
        with pytest.raises(MissingExtraError, match=r"cls-export-native is not installed; run: pip install cls-export\[native\]"):
            library.library()

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("", r"is installed but broken \(.* 'library'\); run: pip install --force-reinstall"),
            ("raise ImportError('no such wheel')", r"is installed but broken \(no such wheel\)"),
            ("def library():\n    raise FileNotFoundError('x.so is missing')", r"is installed but broken \(x.so is missing\)"),
            ("def library():\n    return '/nowhere/x.so'", r"/nowhere/x.so cannot be loaded \(.*\); run: pip install --force-reinstall"),
            ("def library():\n    return None", r"is installed but broken \(.*NoneType"),
            ("def library(:", r"is installed but broken \(invalid syntax"),
            ("import a_module_that_nobody_has", r"is installed but broken \(No module named 'a_module_that_nobody_has'\)"),
            ("import _ctypes\ndef library():\n    return _ctypes.__file__", r"cannot be loaded \(.*cls_abi"),
        ],
    )
    def test_a_library_that_is_broken(self, tmp_path, monkeypatch, code, message):
        (tmp_path / "broken_native.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(library, "PACKAGE", "broken_native")
        try:
            with pytest.raises(EngineError, match=message):
                library.library()
        finally:
            sys.modules.pop("broken_native", None)

    def test_a_library_that_lacks_a_function(self, monkeypatch):
        only = SimpleNamespace(cls_abi=Mock(return_value=library.ABI))
        monkeypatch.setattr(library.ctypes, "CDLL", lambda path: only)
        with pytest.raises(EngineError, match=r"x.so lacks a function \(.*cls_all_kernels.*\); run: pip install --force-reinstall"):
            library._loaded(Path("x.so"))

    @needs_native
    def test_a_library_of_another_version(self, monkeypatch):
        monkeypatch.setattr(library, "ABI", library.ABI + 1)
        library._loaded.cache_clear()
        try:
            with pytest.raises(EngineError, match=r"has the interface 1, this version of cls-export expects 2; run: pip install --upgrade"):
                library.library()
        finally:
            library._loaded.cache_clear()

    @needs_native
    def test_its_kernels(self):
        found = library.kernels()
        assert found.differing == ()
        assert set(found.usable) <= set(found.all)
        assert found.all[-1] == found.usable[-1] == "portable"
