"""`SentenceTransformer` and `CrossEncoder` of cls_runtime against those of sentence-transformers: the same calls on the same checkpoints.

What comes back has the same values, shapes and types; where sentence-transformers gives a tensor that nobody asked for, an array.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls_exporter import ExportConfig, export
from cls_runtime import Encoder, UsageError
from cls_runtime.integrations.sentence_transformers import CrossEncoder, SentenceTransformer

checkpoints = pytest.importorskip("checkpoints")
library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is the oracle")
torch = pytest.importorskip("torch")

MAX_ABS = 5e-5  # fp32's threshold
PROMPTS = {"query": "search: ", "passage": "text: ", "empty": ""}
TEXTS = ["the cat sat on a mat", "", "x", "fast dog runs: hello, world 42!", "a mat", "the cat sat on a mat", "dog " * 100]
PAIRS = [("the cat", "sat on a mat"), ("x", ""), ("a dog runs", "hello world"), ("the cat", "dog " * 100)]


@dataclass(frozen=True)
class Kind:
    """How a checkpoint is used; `config` is what config_sentence_transformers.json says."""

    pooling: str
    normalize: bool = False
    config: dict[str, Any] = field(default_factory=dict)


KINDS = {
    "mean": Kind("mean", config={"prompts": PROMPTS, "default_prompt_name": "passage", "similarity_fn_name": "dot"}),
    "cls, unit length": Kind("cls", normalize=True),
    "mean, unit length and cut": Kind("mean", normalize=True, config={"truncate_dim": 12, "similarity_fn_name": "euclidean"}),
}


@dataclass(frozen=True)
class Models:
    """The same model twice."""

    ours: Any
    theirs: Any


def made(folder: Path, kind: Kind) -> Path:
    """A sentence-transformers folder of a tiny BERT."""
    checkpoints.make_checkpoint(folder)
    modes = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
    modules = [("Normalize", "2_Normalize")] if kind.normalize else []
    checkpoints.add_sentence_modules(folder, pooling={key: name == kind.pooling for name, key in modes.items()}, modules=modules)
    (folder / "config_sentence_transformers.json").write_text(json.dumps(kind.config))
    return folder


@pytest.fixture(scope="module", params=KINDS)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("drop-in")
    checkpoint = made(folder / "checkpoint", KINDS[request.param])
    bundle = export(str(checkpoint), folder / "bundle", config=ExportConfig(tokens=True)).path
    return Models(SentenceTransformer(str(bundle), device="cpu"), library.SentenceTransformer(str(checkpoint), device="cpu"))


@pytest.fixture(scope="module")
def real(minilm: Path, minilm_mean_bundle: Path) -> Models:
    ours = SentenceTransformer(minilm_mean_bundle, model_kwargs={"file_name": "model.onnx"})
    return Models(ours, library.SentenceTransformer(str(minilm), device="cpu"))


@pytest.fixture(scope="module", params=[1, 3])
def scorers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("drop-in")
    checkpoints.make_checkpoint(folder / "checkpoint", kind="classifier", labels=request.param)
    weights = checkpoints.read_weights_of(folder / "checkpoint")
    spread = {"classifier.weight": weights["classifier.weight"] * 60}  # so that the scores of different pairs are apart
    checkpoints.write_weights_of(folder / "checkpoint", {**weights, **spread})
    bundle = export(str(folder / "checkpoint"), folder / "bundle", config=ExportConfig(logits=True)).path
    return Models(CrossEncoder(str(bundle), device="cpu"), library.CrossEncoder(str(folder / "checkpoint"), device="cpu"))


def same(ours: Any, theirs: Any, *, arrays: bool = False, atol: float = MAX_ABS) -> None:
    """Holds a result to the original's. With `arrays`, tensors may be arrays."""
    if isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for held, expected in zip(ours, theirs, strict=True):
            same(held, expected, arrays=arrays, atol=atol)
        return
    if isinstance(theirs, dict):
        for name in theirs.keys() - {"modality", "prompt_length"}:  # which its own modules read
            same(ours[name], theirs[name], arrays=arrays, atol=atol)
        return
    if isinstance(theirs, (str, int)):
        assert ours == theirs
        return
    assert isinstance(ours, torch.Tensor) == (isinstance(theirs, torch.Tensor) and not arrays)
    found, expected = np.asarray(ours), np.asarray(theirs)
    assert found.shape == expected.shape
    if not isinstance(theirs, float):
        assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=atol)


CALLS: dict[str, Callable[[Any], Any]] = {
    "a list": lambda m: m.encode(TEXTS),
    "a text": lambda m: m.encode(TEXTS[0]),
    "a tuple": lambda m: m.encode(tuple(TEXTS)),
    "an array": lambda m: m.encode(np.array(TEXTS)),
    "nothing": lambda m: m.encode([]),
    "pairs": lambda m: m.encode(PAIRS),
    "an array of pairs": lambda m: m.encode(np.array(PAIRS)),
    "by the older name": lambda m: m.encode(sentences=TEXTS),
    "in place": lambda m: m.encode(
        TEXTS, None, "say: ", 2, False, "sentence_embedding", "float32", True, False, "cpu", True, 8, None, None
    ),
    "queries": lambda m: m.encode_query(TEXTS),
    "documents": lambda m: m.encode_document(TEXTS),
    "a prompt": lambda m: m.encode(TEXTS, prompt="say: "),
    "a document's own prompt": lambda m: m.encode_document(TEXTS, prompt="say: "),
    "no prompt": lambda m: m.encode(TEXTS, prompt=""),
    "an empty prompt by name": lambda m: m.encode(TEXTS, prompt_name="document"),
    "unit length": lambda m: m.encode(TEXTS, normalize_embeddings=True),
    "a size": lambda m: m.encode(TEXTS, truncate_dim=8),
    "a size of unit length": lambda m: m.encode(TEXTS, truncate_dim=8, normalize_embeddings=True),
    "a size above the width": lambda m: m.encode(TEXTS, truncate_dim=1000),
    "a tensor": lambda m: m.encode(TEXTS, convert_to_tensor=True),
    "a tensor of a text": lambda m: m.encode(TEXTS[0], convert_to_tensor=True),
    "a tensor of nothing": lambda m: m.encode([], convert_to_tensor=True),
    "tensors": lambda m: m.encode(TEXTS, convert_to_numpy=False),
    "tensors of nothing": lambda m: m.encode([], convert_to_numpy=False),
    "tensors of tokens": lambda m: m.encode(TEXTS, output_value="token_embeddings", convert_to_numpy=False),
    "tensors of all": lambda m: m.encode(TEXTS, output_value=None, batch_size=1, convert_to_numpy=False),
    "a tensor of similarities": lambda m: m.similarity(m.encode(TEXTS, convert_to_tensor=True), m.encode(TEXTS)),
    "tensors' similarities": lambda m: m.similarity_pairwise(*[m.encode(TEXTS, convert_to_numpy=False)] * 2),
    "a width": lambda m: m.get_embedding_dimension(),
    "a length": lambda m: m.get_max_seq_length(),
    "a function": lambda m: m.similarity_fn_name,
    "prompts": lambda m: m.prompts,
}
# What comes as an array where the original gives a tensor.
CALLS_OF_ARRAYS: dict[str, Callable[[Any], Any]] = {
    "tokens": lambda m: m.encode(TEXTS, output_value="token_embeddings"),
    "a text's tokens": lambda m: m.encode(TEXTS[0], output_value="token_embeddings"),
    "all": lambda m: m.encode(TEXTS, output_value=None, batch_size=1),
    "all of a text": lambda m: m.encode(TEXTS[0], output_value=None, truncate_dim=8),
    "similarity": lambda m: m.similarity(m.encode_query(TEXTS), m.encode_document(TEXTS)),
    "similarity of two": lambda m: m.similarity(m.encode(TEXTS[0]), m.encode(TEXTS[2])),
    "pairwise": lambda m: m.similarity_pairwise(m.encode_query(TEXTS), m.encode_document(TEXTS[::-1])),
    "pairwise of two": lambda m: m.similarity_pairwise(m.encode(TEXTS[0]), m.encode(TEXTS[2])),
    "token ids": lambda m: {**m.preprocess(PAIRS, prompt="say: ")},
}


def check(calls: dict[str, Callable[[Any], Any]], models: Models, **options: Any) -> None:
    for name, call in calls.items():
        try:
            same(call(models.ours), call(models.theirs), **options)
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error


def test_each_call_gives_what_sentence_transformers_gives(models: Models) -> None:
    check(CALLS, models)


def test_what_nobody_asked_to_be_a_tensor_is_an_array(models: Models) -> None:
    check(CALLS_OF_ARRAYS, models, arrays=True, atol=2e-4)  # cdist's own error, at texts that are alike


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean", "manhattan"])
def test_each_function_of_similarity(models: Models, function: str) -> None:
    """Of the same vectors, and set as the original's own enumeration too."""
    first, second = models.theirs.encode(TEXTS[:4]), models.theirs.encode(TEXTS[4:])
    before = models.ours.similarity_fn_name, models.theirs.similarity_fn_name
    try:
        models.theirs.similarity_fn_name = function
        models.ours.similarity_fn_name = library.SimilarityFunction(function)
        assert models.ours.similarity_fn_name == function
        for method in ("similarity", "similarity_pairwise"):
            count = None if method == "similarity" else len(second)
            ours, theirs = (getattr(model, method)(first[:count], second) for model in (models.ours, models.theirs))
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)
    finally:
        models.ours.similarity_fn_name, models.theirs.similarity_fn_name = before


DISTINCT = [*TEXTS[:5], TEXTS[6], "hello", "a dog runs fast, the cat sat"]


@pytest.mark.parametrize("precision", ["int8", "uint8"])
@pytest.mark.parametrize("options", [{}, {"normalize_embeddings": True, "truncate_dim": 8}, {"output_value": "token_embeddings"}], ids=str)
def test_bytes_are_at_most_a_step_from_the_originals(models: Models, precision: str, options: dict[str, Any]) -> None:
    """Both divide the range of the vectors of the call, and the vectors are as far apart as fp32 lets them be."""
    ours, theirs = (model.encode(DISTINCT, precision=precision, **options) for model in (models.ours, models.theirs))
    for found, expected in zip(ours, theirs, strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
@pytest.mark.parametrize("convert_to_tensor", [False, True])
def test_bits_are_the_originals(models: Models, precision: str, convert_to_tensor: bool) -> None:
    options = {"precision": precision, "convert_to_tensor": convert_to_tensor}
    for inputs in (DISTINCT, DISTINCT[0]):
        ours, theirs, vectors = models.ours.encode(inputs, **options), models.theirs.encode(inputs, **options), models.theirs.encode(inputs)
        assert isinstance(ours, torch.Tensor) == isinstance(theirs, torch.Tensor)
        found, expected = np.asarray(ours), np.asarray(theirs)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        bits = np.unpackbits(found.view(np.uint8) ^ expected.view(np.uint8), axis=-1)[..., : vectors.shape[-1]]
        assert (np.abs(vectors[bits.astype(bool)]) < MAX_ABS).all()


@given(
    method=st.sampled_from(["encode", "encode_query", "encode_document"]),
    inputs=st.one_of(st.sampled_from(TEXTS), st.lists(st.sampled_from(TEXTS), max_size=5), st.lists(st.sampled_from(PAIRS), max_size=3)),
    prompt=st.sampled_from([None, "", "say: "]),
    prompt_name=st.sampled_from([None, "query", "document", "passage", "nobody's"]),
    normalize_embeddings=st.booleans(),
    truncate_dim=st.sampled_from([None, 8, 20, 1000]),
    precision=st.sampled_from([None, "float32", "float64"]),
    convert_to_numpy=st.booleans(),
    convert_to_tensor=st.booleans(),
    batch_size=st.sampled_from([0, 1, 3]),
)
def test_arguments_together(models: Models, method: str, inputs: Any, **options: Any) -> None:
    """What the original refuses is refused, with an error of the same kind; all else gives the same."""
    outcomes = []
    for model in (models.ours, models.theirs):
        try:
            outcomes.append(getattr(model, method)(inputs, **options))
        except ValueError as error:
            outcomes.append(type(error))
    ours, theirs = outcomes
    if isinstance(theirs, type):
        assert isinstance(ours, type)
        assert issubclass(ours, ValueError)
    else:
        same(ours, theirs)


def test_threads_get_what_the_original_gives(models: Models) -> None:
    inputs = [TEXTS[place % 5 :] for place in range(24)]
    expected = [models.theirs.encode(texts) for texts in inputs]
    with ThreadPoolExecutor(6) as pool:
        same(list(pool.map(models.ours.encode, inputs)), expected)


@pytest.mark.slow
def test_the_real_model(real: Models) -> None:
    """What holds of the tiny ones holds of it, whose bundle has no rows of tokens."""
    calls = ("a list", "a text", "pairs", "queries", "a size of unit length", "a tensor", "a width", "a length", "a function", "prompts")
    check({name: CALLS[name] for name in calls}, real)
    check({name: CALLS_OF_ARRAYS[name] for name in ("similarity", "pairwise", "token ids")}, real, arrays=True)


# ---------------------------------------------------------------- pairs of texts

SCORES: dict[str, Callable[[Any], Any]] = {
    "pairs": lambda m: m.predict(PAIRS),
    "lists": lambda m: m.predict([list(pair) for pair in PAIRS]),
    "an array": lambda m: m.predict(np.array(PAIRS)),
    "one pair": lambda m: m.predict(PAIRS[0]),
    "one pair as a list": lambda m: m.predict(list(PAIRS[0])),
    "one pair as an array": lambda m: m.predict(np.array(PAIRS[0])),
    "one text": lambda m: m.predict("the cat"),
    "nothing": lambda m: m.predict([]),
    "by the older name": lambda m: m.predict(sentences=PAIRS, num_workers=2),
    "in place": lambda m: m.predict(PAIRS, None, "say: ", 2, False, None, True),
    "a prompt": lambda m: m.predict(PAIRS, prompt="say: "),
    "softmax": lambda m: m.predict(PAIRS, apply_softmax=True),
    "logits": lambda m: m.predict(PAIRS, activation_fn=torch.nn.Identity()),
    "a function by its older name": lambda m: m.predict(PAIRS, activation_fct=torch.tanh),
    "softmax by a function": lambda m: m.predict(PAIRS, activation_fn=torch.nn.Softmax(dim=-1)),
    "a tensor": lambda m: m.predict(PAIRS, convert_to_tensor=True),
    "a tensor of nothing": lambda m: m.predict([], convert_to_tensor=True),
    "a tensor of one pair": lambda m: m.predict(PAIRS[0], convert_to_tensor=True),
    "tensors": lambda m: m.predict(PAIRS, convert_to_numpy=False),
    "tensors of nothing": lambda m: m.predict([], convert_to_numpy=False),
    "labels": lambda m: m.num_labels,
    "labels by number": lambda m: m.config.id2label,
    "a length": lambda m: m.max_seq_length,
    "prompts": lambda m: m.prompts,
}
RANKS: dict[str, Callable[[Any], Any]] = {
    "ranks": lambda m: m.rank("the cat", [second for _, second in PAIRS]),
    "ranks with documents": lambda m: m.rank("the cat", [second for _, second in PAIRS], top_k=2, return_documents=True),
    "ranks by logits": lambda m: m.rank("the cat", [second for _, second in PAIRS], activation_fn=torch.nn.Identity()),
}


def test_each_score_is_the_originals(scorers: Models) -> None:
    check(SCORES, scorers, atol=1e-3)  # the logits are 60 times as large as a model's
    if scorers.theirs.num_labels == 1:
        check(RANKS, scorers, atol=1e-3)
    else:
        for model in (scorers.ours, scorers.theirs):
            with pytest.raises(ValueError, match="predict"):
                model.rank("the cat", ["a dog"])


@pytest.mark.parametrize("function", [lambda logits: logits.numpy(), lambda logits: logits.sum(), lambda _: None])
def test_a_function_that_gives_no_scores_is_told(scorers: Models, function: Callable[[Any], Any]) -> None:
    with pytest.raises(UsageError, match=r"activation_fn gives a .*, expected a tensor with a row for each of 4 pairs"):
        scorers.ours.predict(PAIRS, activation_fn=function)


def test_a_model_is_not_set_to_a_dtype(models: Models) -> None:
    for arguments in ({"device": torch.float16}, {"device": "cpu", "dtype": torch.float16}):
        with pytest.raises(UsageError, match="a dtype cannot be set; choose a precision"):
            models.ours.to(**arguments)


def test_a_function_of_the_model(scorers: Models) -> None:
    for model in (scorers.ours, scorers.theirs):
        model.activation_fn = torch.nn.Tanh()
    try:
        same(scorers.ours.predict(PAIRS), scorers.theirs.predict(PAIRS), atol=1e-3)
    finally:
        for model in (scorers.ours, scorers.theirs):
            model.activation_fn = torch.nn.Sigmoid() if model.num_labels == 1 else torch.nn.Identity()


# ---------------------------------------------------------------- evaluators

CORPUS = {str(place): text for place, text in enumerate([*DISTINCT, "the dog sat on a cat", "world of text", "vector of a model", "mat"])}
QUERIES = {"a": "the cat", "b": "a fast dog", "c": "hello world", "d": "text of a model"}
RELEVANT = {"a": {"0", "4"}, "b": {"3", "7"}, "c": {"6", "9"}, "d": {"10"}}
FIRST, SECOND = [*DISTINCT, "cat"], [*DISTINCT[3:], *DISTINCT[:3], "dog"]
GOLD = [0.1, 0.9, 0.4, 0.7, 0.2, 0.6, 0.3, 0.8, 0.5]


def embedding_evaluators() -> Iterator[Any]:
    from sentence_transformers.sentence_transformer import evaluation

    options = {"write_csv": False, "show_progress_bar": False, "batch_size": 4}
    functions = ["cosine", "dot", "euclidean", "manhattan"]
    for precision in (None, "float32", "int8", "binary"):
        yield evaluation.EmbeddingSimilarityEvaluator(
            FIRST, SECOND, GOLD, precision=precision, similarity_fn_names=None if precision is None else functions, **options
        )
    yield evaluation.InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, corpus_chunk_size=5, **options)
    yield evaluation.InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, truncate_dim=8, query_prompt="search: ", **options)
    yield evaluation.BinaryClassificationEvaluator(FIRST, SECOND, [1, 0, 1, 1, 0, 1, 0, 1, 0], **options)
    yield evaluation.TripletEvaluator(FIRST[:4], SECOND[:4], DISTINCT[4:], **options)


@pytest.mark.filterwarnings("ignore:An input array is constant")  # in so few pairs of so small a model, bits can all agree
def test_evaluators_run_unchanged(models: Models) -> None:
    same_figures(embedding_evaluators, models)


@pytest.mark.slow
def test_evaluators_of_the_real_model(real: Models) -> None:
    same_figures(embedding_evaluators, real)


def scoring_evaluators() -> Iterator[Any]:
    from sentence_transformers.cross_encoder import evaluation

    options = {"write_csv": False, "show_progress_bar": False, "batch_size": 4}
    samples = [
        {"query": "the cat", "positive": ["a mat", "cat"], "negative": ["a dog runs", "hello", "world of text", "x"]},
        {"query": "x", "positive": "y", "negative": ["a"]},
    ]
    yield evaluation.CrossEncoderRerankingEvaluator(samples, **options)
    yield evaluation.CrossEncoderCorrelationEvaluator(list(zip(FIRST, SECOND, strict=True)), GOLD, **options)


def test_evaluators_of_pairs_run_unchanged(scorers: Models) -> None:
    from sentence_transformers.cross_encoder import evaluation

    if scorers.theirs.num_labels == 1:
        same_figures(scoring_evaluators, scorers)
    else:
        pairs, labels = list(zip(FIRST, SECOND, strict=True)), [0, 1, 2] * 3
        make = evaluation.CrossEncoderClassificationEvaluator
        same_figures(lambda: iter([make(pairs, labels, write_csv=False, show_progress_bar=False)]), scorers)


def same_figures(make: Callable[[], Iterator[Any]], models: Models) -> None:
    for of_ours, of_theirs in zip(make(), make(), strict=True):  # one for each: they remember the first model's function
        found, expected = models.ours.evaluate(of_ours), of_theirs(models.theirs)
        assert found.keys() == expected.keys()
        # A number at the border of two bytes falls on either side, and in nine pairs two neighbours that change places move a rank
        # correlation by 0.02.
        tolerance = 5e-2 if getattr(of_ours, "precision", None) in ("int8", "binary") else 1e-4
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=tolerance, nan_ok=True), f"{type(of_ours).__name__} {name}"
        assert models.ours.model_card_data.metrics[-1][0] is of_ours


# ---------------------------------------------------------------- signatures

EMBEDDER = ("__init__", "encode", "encode_query", "encode_document", "similarity", "similarity_pairwise")
METHODS: list[tuple[type, str]] = [
    *[(SentenceTransformer, name) for name in EMBEDDER],
    *[(CrossEncoder, name) for name in ("__init__", "predict", "rank")],
]


@pytest.mark.parametrize(("kind", "method"), METHODS, ids=[f"{kind.__name__}.{method}" for kind, method in METHODS])
def test_arguments_have_the_originals_names_order_and_defaults(kind: type, method: str) -> None:
    """What is ours alone is named: an option that the original takes among others, or one of its next version."""
    theirs = inspect.signature(getattr(getattr(library, kind.__name__), method)).parameters
    ours = inspect.signature(getattr(kind, method)).parameters
    named = {name: value for name, value in theirs.items() if value.kind is not inspect.Parameter.VAR_KEYWORD}
    assert [name for name in ours if name in named] == list(named)
    for name, parameter in named.items():
        assert ours[name].kind == parameter.kind, name
        if name != "backend":  # `torch` there
            assert ours[name].default == parameter.default, name
    assert {ours[name].kind for name in ours.keys() - named.keys()} <= {inspect.Parameter.KEYWORD_ONLY}


def test_an_encoder_takes_the_place_of_a_name(models: Models) -> None:
    with Encoder.load(models.ours.encoder.bundle.folder, threads=1) as encoder:
        same(SentenceTransformer(encoder).encode(TEXTS[:6]), models.theirs.encode(TEXTS[:6]))
