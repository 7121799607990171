"""`SentenceTransformer` and `CrossEncoder` of cls_runtime where PyTorch is not: what they import, what they refuse, and in which words.

That they give what sentence-transformers gives is held by tests/test_drop_in.py.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from bundle_builder import build_bundle
from hub_server import Hub, files_of_folder

from cls_runtime import BundleError, Encoder, HubError, MissingExtraError, UsageError
from cls_runtime.integrations import sentence_transformers
from cls_runtime.integrations.sentence_transformers import CrossEncoder, SentenceTransformer
from cls_runtime.integrations.sentence_transformers.embedder import OutputValue

HEAVY = ("torch", "transformers", "sentence_transformers", "onnx", "huggingface_hub")
TEXTS = ["the cat sleeps", "a dog", "", "the cat runs " * 20]
PROMPTS = {"query": "the cat, ", "passage": "a dog: "}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with all outputs, prompts and two variants."""
    folder = tmp_path_factory.mktemp("drop-in") / "bundle"
    return build_bundle(
        folder, normalize=True, prompts=PROMPTS, variants={"fp32": None, "int8": None}, token_rows=True, similarity_fn_name="dot"
    )


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with one logit."""
    return build_bundle(tmp_path_factory.mktemp("drop-in") / "reranker", label_count=1, logits_activation="sigmoid")


@pytest.fixture(scope="module")
def model(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(folder)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


# ---------------------------------------------------------------- the modules that are loaded


def imported(program: str) -> list[str]:
    """Those of HEAVY that a new process has imported after a program."""
    code = f"import sys\n{program}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_nothing_heavy_is_imported(folder: Path, reranker: Path) -> None:
    program = f"""
from cls_runtime.integrations.sentence_transformers import CrossEncoder, SentenceTransformer
model = SentenceTransformer({str(folder)!r}, device="cpu", prompts={{"query": "q: "}})
rows = model.encode(["the cat", "a dog"], normalize_embeddings=True, batch_size=8)
assert model.similarity(rows, model.encode_query("the cat")).shape == (2, 1)
assert model.similarity_pairwise(rows, rows).shape == (2,)
model.encode(["the cat", "a dog"], precision="int8"), model.encode("the cat", output_value=None)
CrossEncoder({str(reranker)!r}).rank("the cat", ["a dog", "the cat"])
"""
    assert imported(program) == []


def test_the_test_above_can_fail() -> None:
    assert "onnx" in imported("import onnx")


def test_the_package_offers_what_it_lists_and_nothing_else() -> None:
    assert {"SentenceTransformer", "CrossEncoder", "ClsEncoderModule", "sentence_transformer"} == set(sentence_transformers.__all__)
    assert set(sentence_transformers.__all__) <= set(dir(sentence_transformers))
    with pytest.raises(AttributeError, match="has no attribute 'SparseEncoder'"):
        sentence_transformers.SparseEncoder  # noqa: B018


# ---------------------------------------------------------------- how a bundle is loaded


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What `Encoder.load` is asked for by a constructor's arguments."""

    def ask(name: Any, **arguments: Any) -> dict[str, Any]:
        class AskedError(Exception):
            pass

        def load(name: Any, **options: Any) -> Encoder:
            raise AskedError({"name": name, **options})

        with monkeypatch.context() as patched:
            patched.setattr(Encoder, "load", load)
            with pytest.raises(AskedError) as caught:
                SentenceTransformer(name, **arguments)
        found: dict[str, Any] = caught.value.args[0]
        return found

    return ask


DEFAULTS = {"engine": "auto", "variant": "auto", "device": None, "on_overflow": "truncate"}
LOADED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"device": "cpu", "trust_remote_code": True, "local_files_only": True, "token": True, "model_kwargs": {}}, {}),
    ({"device": "cuda"}, {"engine": "cuda"}),
    ({"device": "cuda:1", "backend": "onnx"}, {"engine": "cuda", "device": "cuda:1"}),
    ({"backend": "onnx"}, {"engine": "onnxruntime"}),
    ({"backend": "openvino", "device": "cpu"}, {"engine": "openvino"}),
    ({"model_kwargs": {"file_name": "onnx/model_int8.onnx"}}, {"variant": "int8"}),
    ({"model_kwargs": {"file_name": "model.onnx", "export": False}, "backend": "onnx"}, {"variant": "fp32", "engine": "onnxruntime"}),
    ({"model_kwargs": {"torch_dtype": "float16"}, "device": "cuda"}, {"variant": "fp16", "engine": "cuda"}),
    ({"model_kwargs": {"dtype": "auto"}}, {}),
    ({"model_kwargs": {"provider": "CUDAExecutionProvider"}}, {"engine": "cuda"}),
    ({"model_kwargs": {"provider": "CPUExecutionProvider"}, "device": "cpu"}, {"engine": "onnxruntime"}),
]


@pytest.mark.parametrize(("arguments", "expected"), LOADED, ids=[str(arguments) for arguments, _ in LOADED])
def test_what_an_encoder_is_loaded_with(asked: Any, folder: Path, arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    assert asked(folder, **arguments) == {"name": folder, **DEFAULTS, **expected}


def test_a_revision_goes_with_the_name(asked: Any) -> None:
    assert asked("org/name", revision="v2")["name"] == "org/name@v2"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"modules": []}, "modules are of PyTorch"),
    ({"device": "mps"}, "device is 'mps', expected 'cpu', 'cuda'"),
    ({"cache_folder": "cache"}, "set HF_HUB_CACHE"),
    ({"token": "hf_secret"}, "set HF_TOKEN"),
    ({"use_auth_token": False}, "set HF_TOKEN"),
    ({"processor_kwargs": {"model_max_length": 4}}, "processor_kwargs changes the model"),
    ({"tokenizer_kwargs": {"model_max_length": 4}}, "processor_kwargs changes the model"),
    ({"tokenizer_kwargs": None, "processor_kwargs": None}, "tokenizer_kwargs is the older name of processor_kwargs"),
    ({"config_kwargs": {"num_labels": 4}}, "config_kwargs changes the model"),
    ({"model_card_data": ["a card"]}, "model_card_data changes the model"),
    ({"backend": "torch"}, "backend is 'torch', expected 'onnx', 'openvino', or None"),
    ({"model_kwargs": {"attn_implementation": "sdpa"}}, "model_kwargs has 'attn_implementation'"),
    ({"model_kwargs": {"export": True}}, "run cls-export"),
    ({"model_kwargs": {"dtype": "float64"}}, "dtype 'float64', expected one of float32"),
    ({"model_kwargs": {"dtype": "float32", "file_name": "model.onnx"}}, "both choose a precision"),
    ({"model_kwargs": {"file_name": "model_O4.onnx"}}, "this bundle has onnx/model.onnx, onnx/model_int8.onnx"),
    ({"model_kwargs": {"provider": "TensorrtExecutionProvider"}}, "provider 'TensorrtExecutionProvider', expected one of"),
    ({"model_kwargs": {"provider": "CPUExecutionProvider"}, "device": "cuda"}, "do not agree"),
    ({"model_kwargs": {"provider": "CPUExecutionProvider"}, "backend": "openvino"}, "do not agree"),
    ({"device": "cuda", "backend": "openvino"}, "do not agree"),
    ({"revision": "v2"}, "revision v2 names a commit"),
    ({"similarity_fn_name": "maxsim"}, "similarity_fn_name is 'maxsim'"),
    ({"truncate_dim": 0}, "truncate_dim is 0"),
    ({"prompts": {"query": 3}}, "prompts has 3 as 'query', expected a str"),
    ({"prompts": "query"}, "prompts is a str, expected a dict"),
    ({"default_prompt_name": "title"}, "prompt_name is 'title', this model has query, document, passage"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[str(list(arguments.items())) for arguments, _ in REFUSED])
def test_an_argument_that_a_bundle_cannot_honour_is_refused(folder: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        SentenceTransformer(folder, **arguments)
    assert "\n" not in str(caught.value)
    assert "hf_secret" not in str(caught.value)


def test_what_is_no_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model_name_or_path is None"):
        SentenceTransformer()
    with pytest.raises(BundleError, match="a bundle is a folder made by cls-export"):
        SentenceTransformer(tmp_path)
    with pytest.raises(TypeError, match="unexpected keyword argument 'modle_kwargs'"):
        SentenceTransformer(tmp_path, modle_kwargs={})  # type: ignore[call-arg]


def test_an_encoder_is_taken_as_it_was_loaded(folder: Path) -> None:
    with Encoder.load(folder, variant="fp32", threads=1, on_overflow="raise") as encoder:
        model = SentenceTransformer(encoder)
        assert model.encoder is encoder
        with pytest.raises(UsageError, match="backend says how a bundle is loaded, and an Encoder is given"):
            SentenceTransformer(encoder, backend="onnx")
        with pytest.raises(ValueError, match="text 3 has"):
            model.encode(TEXTS)


# ---------------------------------------------------------------- a bundle of the hub, from the cache alone


def test_local_files_only_asks_no_network(hub: Hub, folder: Path) -> None:
    hub.add("org/name", files_of_folder(folder))
    with pytest.raises(HubError, match="the cache does not have the bundle org/name"):
        SentenceTransformer("org/name", local_files_only=True)
    assert hub.files_asked() == []
    model = SentenceTransformer("org/name", model_kwargs={"file_name": "model.onnx"})
    asked = len(hub.files_asked())
    again = SentenceTransformer("org/name", local_files_only=True, model_kwargs={"file_name": "model.onnx"})
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))
    assert SentenceTransformer(str(folder), local_files_only=True).encoder.bundle.folder == folder
    with pytest.raises(HubError, match=r"the cache lacks onnx/model_int8.onnx of org/name@"):
        SentenceTransformer("org/name", local_files_only=True, model_kwargs={"file_name": "model_int8.onnx"})
    assert len(hub.files_asked()) == asked


# ---------------------------------------------------------------- vectors


def test_vectors_are_the_encoders(folder: Path, model: SentenceTransformer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a text that is cut is no news to sentence-transformers
        rows = model.encode(TEXTS)
    encoder = model.encoder
    np.testing.assert_array_equal(rows, encoder.encode(TEXTS, on_overflow="truncate"))
    np.testing.assert_array_equal(model.encode(TEXTS[0]), encoder.encode(TEXTS[:1])[0])
    np.testing.assert_array_equal(model.encode(sentences=TEXTS[:2]), encoder.encode(TEXTS[:2]))
    np.testing.assert_array_equal(model.encode_query(TEXTS[:2]), encoder.encode_query(TEXTS[:2]))
    np.testing.assert_array_equal(model.encode_document(TEXTS[:2]), encoder.encode(TEXTS[:2], prompt=""))
    np.testing.assert_array_equal(model.encode([("the cat", "a dog")]), encoder.encode([("the cat", "a dog")]))
    for held, expected in zip(
        model.encode(TEXTS[:2], output_value="token_embeddings"), encoder.encode(TEXTS[:2], output="tokens"), strict=True
    ):
        np.testing.assert_array_equal(held, expected)
    np.testing.assert_array_equal(model.tokenize(["a dog"])["input_ids"][0], encoder.tokens(["a dog"])[0].ids)
    assert model.encode([]).shape == (0,)
    assert model.encode([], convert_to_tensor=False, output_value="token_embeddings") == []


def test_a_generator_and_an_array_are_lists_of_texts(model: SentenceTransformer) -> None:
    expected = model.encode(TEXTS)
    np.testing.assert_array_equal(model.encode(text for text in TEXTS), expected)
    np.testing.assert_array_equal(model.encode(np.array(TEXTS)), expected)


CALLS: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 0}, "batch_size is 0, expected a whole number"),
    ({"device": "cuda"}, "device is 'cuda', this model computes on 'cpu'; load it again with device='cuda'"),
    ({"device": ["cpu", "cpu"]}, "asks for several processes"),
    ({"pool": {}}, "asks for several processes"),
    ({"precision": "float16"}, "precision is 'float16', expected one of float32, int8"),
    ({"precision": "int8", "output_value": None}, "expected one without the other"),
    ({"output_value": "all"}, "output_value is 'all'"),
    ({"truncate_dim": -1}, "truncate_dim is -1"),
    ({"prompt_name": "title"}, "prompt_name is 'title', this model has query, document, passage"),
    ({"processing_kwargs": {"text": {}}}, "processing_kwargs change the tokenizer"),
]


@pytest.mark.parametrize(("arguments", "words"), CALLS, ids=[str(arguments) for arguments, _ in CALLS])
def test_a_call_that_a_bundle_cannot_answer_is_refused(model: SentenceTransformer, arguments: dict[str, Any], words: str) -> None:
    for call in (model.encode, model.encode_query, model.encode_document):
        with pytest.raises(UsageError, match=words):
            call(TEXTS, **arguments)


class Frame:
    """Iterates over its columns, as a data frame of pandas does."""

    columns = ("first", "second")
    shape = (3, 2)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


NO_TEXTS = [{"a": "b", "c": "d"}, {"a", "b"}, [3], b"ab", [["a"]], 3, None, Frame(), np.array("a")]


@pytest.mark.parametrize("inputs", NO_TEXTS, ids=[f"{place}-{type(inputs).__name__}" for place, inputs in enumerate(NO_TEXTS)])
def test_what_is_no_text_is_a_type_error(model: SentenceTransformer, reranker: Path, inputs: Any) -> None:
    for value in (*get_args(OutputValue), None):
        with pytest.raises(TypeError, match="expected|pass"):
            model.encode(inputs, output_value=value)
    scorer = CrossEncoder(reranker)
    with pytest.raises(TypeError, match="expected|pass"):
        scorer.predict(inputs)
    with pytest.raises(TypeError, match="expected|pass"):
        scorer.rank("the cat", inputs)


def test_an_array_of_two_columns_is_pairs(model: SentenceTransformer, reranker: Path) -> None:
    pairs = [("the cat", "a dog"), ("a dog", "")]
    for kind in (str, object):
        array: Any = np.array(pairs, dtype=kind)
        np.testing.assert_array_equal(model.encode(array), model.encode(pairs))
        np.testing.assert_array_equal(model.tokenize(array)["input_ids"], model.tokenize(pairs)["input_ids"])
        np.testing.assert_array_equal(CrossEncoder(reranker).predict(array), CrossEncoder(reranker).predict(pairs))


def test_numbers_of_numpy_and_the_one_cpu_are_taken(model: SentenceTransformer) -> None:
    numbers: dict[str, Any] = {"batch_size": np.int64(2), "truncate_dim": np.int32(4)}
    np.testing.assert_array_equal(model.encode(TEXTS, device="cpu:0", **numbers), model.encode(TEXTS, truncate_dim=4))
    assert model.to("cpu:0") is model.to(device="cpu", non_blocking=True) is model.to() is model


def test_int8_of_one_text_says_what_to_do(model: SentenceTransformer) -> None:
    with pytest.raises(UsageError, match="precision is 'int8' for one text"):
        model.encode("a dog", precision="int8")


@pytest.mark.usefixtures("no_torch")
def test_tensors_without_pytorch_name_the_pip_command(model: SentenceTransformer, reranker: Path) -> None:
    pair = ("the cat", "a dog")
    scorer = CrossEncoder(reranker)
    for call in (model.encode, scorer.predict):
        with pytest.raises(MissingExtraError, match=r"convert_to_tensor=True needs PyTorch.*pip install torch"):
            call([pair], convert_to_tensor=True)
        with pytest.raises(MissingExtraError, match="convert_to_numpy=False needs PyTorch"):
            call([pair], convert_to_numpy=False)
    with pytest.raises(MissingExtraError, match="a function as activation_fn needs PyTorch"):
        scorer.predict([pair], activation_fn=np.tanh)
    assert model.similarity(model.encode(TEXTS), model.encode(TEXTS)).shape == (4, 4)


def test_a_bundle_without_rows_of_tokens_says_how_to_get_them(bundle: Path) -> None:
    for value in ("token_embeddings", None):
        with pytest.raises(UsageError, match="export it with --tokens"):
            SentenceTransformer(bundle).encode("a dog", output_value=value)  # type: ignore[arg-type]


# ---------------------------------------------------------------- attributes


def test_what_a_model_says_of_itself(folder: Path, model: SentenceTransformer) -> None:
    assert (model.get_embedding_dimension(), model.get_sentence_embedding_dimension()) == (8, 8)
    assert (model.max_seq_length, model.get_max_seq_length(), model.device, model.similarity_fn_name) == (16, 16, "cpu", "dot")
    assert model.prompts == {"query": "the cat, ", "document": "", "passage": "a dog: "}
    assert (model.default_prompt_name, model.modalities) == (None, ["text"])
    assert model.get_backend() == model.encoder.info.engine
    assert model.eval() is model.cpu() is model.to("cpu") is model
    with model.truncate_embeddings(4):
        assert model.get_embedding_dimension() == 4
        assert model.encode(TEXTS).shape == (4, 4)
    assert model.encode(TEXTS).shape == (4, 8)
    own = SentenceTransformer(folder, prompts={"query": "q: "}, default_prompt_name="query", similarity_fn_name="euclidean", truncate_dim=4)
    assert own.prompts["query"] == "q: "
    assert SentenceTransformer(folder, prompts={"query": None, "title": None}).prompts == {**model.prompts, "title": ""}
    np.testing.assert_array_equal(own.encode("a dog"), model.encode("a dog", prompt="q: ")[:4])
    assert own.similarity_fn_name == "euclidean"
    own.similarity_fn_name = "manhattan"
    assert own.similarity([1.0, 2.0], [2.0, 4.0]).tolist() == [[-3.0]]


def test_what_pytorch_has_and_a_bundle_has_not_is_told(model: SentenceTransformer) -> None:
    for name in (
        "fit",
        "train",
        "parameters",
        "half",
        "start_multi_process_pool",
        "save_pretrained",
        "push_to_hub",
        "tokenizer",
        "compile",
        "_first_module",
    ):
        assert not hasattr(model, name)
        with pytest.raises(UsageError, match=f"SentenceTransformer of cls_runtime has no '{name}', since it computes without PyTorch; "):
            getattr(model, name)
    with pytest.raises(UsageError, match="cannot be called"):
        model({"input_ids": []})
    with pytest.raises(UsageError, match="cannot be called"):
        model.forward(input={}, task="x")
    for use in (lambda: model[0], lambda: list(model), lambda: "a" in model):
        with pytest.raises(UsageError, match="no modules"):
            use()
    with pytest.raises(UsageError, match="device is 'cuda:0'"):
        model.to("cuda:0")
    with pytest.raises(UsageError, match="max_seq_length is 8, this bundle cuts texts at 16 tokens; export it again with --max-length"):
        model.max_seq_length = 8
    model.max_seq_length = 16


def test_what_would_have_no_effect_cannot_be_set(model: SentenceTransformer, reranker: Path) -> None:
    for name in ("tokenizer", "_target_device"):
        with pytest.raises(UsageError, match=f"has no '{name}'"):
            setattr(model, name, "x")
    with pytest.raises(UsageError, match="device of SentenceTransformer cannot be set"):
        setattr(model, "device", "cuda")  # noqa: B010
    for size in (0, -1, "4"):
        with pytest.raises(UsageError, match="truncate_dim is"):
            setattr(model, "truncate_dim", size)  # noqa: B010
    assert model.encode(TEXTS).shape == (4, 8)
    scorer = CrossEncoder(reranker)
    with pytest.raises(UsageError, match="num_labels of CrossEncoder cannot be set"):
        setattr(scorer, "num_labels", 2)  # noqa: B010
    for wrong in ("argmax", 3):
        with pytest.raises(UsageError, match="activation_fn is"):
            setattr(scorer, "activation_fn", wrong)  # noqa: B010
    setattr(scorer, "default_activation_function", None)  # noqa: B010
    assert (scorer.activation_fn, scorer.default_activation_function) == ("identity", "identity")
    scorer.name = "a program's own"
    assert scorer.name == "a program's own"


def test_pickled_it_is_loaded_again(model: SentenceTransformer) -> None:
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).encode(TEXTS), model.encode(TEXTS))


def test_threads_get_their_own_vectors(model: SentenceTransformer) -> None:
    inputs = [[f"{text} {number}" for text in TEXTS[:2]] for number in range(32)]
    expected = [model.encode(texts, normalize_embeddings=True) for texts in inputs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda texts: model.encode(texts, normalize_embeddings=True), inputs))
    for rows, others in zip(found, expected, strict=True):
        np.testing.assert_allclose(rows, others, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- pairs


class Renumbered(list[str]):
    """Its first text is not number 0, as of a filtered series of pandas."""

    def __getitem__(self, place: Any) -> Any:
        raise KeyError(place)


def test_a_reranker(reranker: Path) -> None:
    model = CrossEncoder(reranker, max_length=16, num_labels=1)
    assert (model.num_labels, model.max_length, model.activation_fn, model.config.num_labels) == (1, 16, "sigmoid", 1)
    documents = ["a dog", "the cat", "a dog"]
    scores = model.predict([("the cat", document) for document in documents])
    np.testing.assert_array_equal(model.predict(("the cat", "a dog")), scores[0])
    ranks = model.rank("the cat", documents, return_documents=True)
    assert [item["score"] for item in ranks] == sorted(scores.tolist(), reverse=True)
    places = [item["corpus_id"] for item in ranks]
    assert places.index(0) < places.index(2)  # of two that are alike, the first first
    assert all(item["text"] == documents[item["corpus_id"]] for item in ranks)
    assert len(model.rank("the cat", documents, top_k=1)) == 1
    assert model.rank("the cat", []) == []
    assert model.rank("the cat", documents, apply_softmax=True, convert_to_tensor=True, num_workers=2, return_documents=True) == ranks
    assert model.rank("the cat", iter(documents), return_documents=True) == ranks  # type: ignore[arg-type]
    assert model.rank("the cat", Renumbered(documents), return_documents=True) == ranks
    raw = model.predict([("the cat", "a dog")], activation_fn="identity")
    np.testing.assert_allclose(scores[0], 1 / (1 + np.exp(-raw[0])), rtol=1e-6)


PAIRS: list[tuple[dict[str, Any], str]] = [
    ({"num_labels": 2}, "num_labels is 2, this bundle has 1"),
    ({"max_length": 8}, "max_length is 8, this bundle cuts texts at 16 tokens"),
    ({"activation_fn": "argmax"}, "activation_fn is 'argmax', expected one of identity, sigmoid"),
    ({"keep_in_fp32_modules": ["0.model"]}, "keep_in_fp32_modules names modules of PyTorch"),
    ({"automodel_args": {"attn_implementation": "sdpa"}}, "model_kwargs has 'attn_implementation'"),
]


@pytest.mark.parametrize(("arguments", "words"), PAIRS, ids=[str(arguments) for arguments, _ in PAIRS])
def test_what_a_reranker_cannot_honour_is_refused(reranker: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        CrossEncoder(reranker, **arguments)


def test_several_labels_do_not_rank(folder: Path) -> None:
    model = CrossEncoder(folder)
    assert (model.num_labels, model.activation_fn) == (3, "identity")
    assert model.predict([("the cat", "a dog")] * 2, apply_softmax=True).sum(axis=1) == pytest.approx([1, 1])
    with pytest.raises(UsageError, match="this bundle has 3 labels; use predict"):
        model.rank("the cat", ["a dog"])
    with pytest.raises(UsageError, match="device is 'cuda'"):
        model.predict([("the cat", "a dog")], device="cuda")


def test_a_bundle_without_logits_is_told(tmp_path: Path) -> None:
    folder = build_bundle(tmp_path / "plain", outputs=("sentence_embedding",))
    with pytest.raises(UsageError, match="export it with --logits"):
        CrossEncoder(folder)
