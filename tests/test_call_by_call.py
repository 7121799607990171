"""`Encoder` against sentence-transformers, one call after the other, on bundles of the same checkpoints; what holds of the tiny ones holds
of the real one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cls_exporter import ExportConfig, export
from cls_runtime import DimensionsWarning, Encoder

checkpoints = pytest.importorskip("checkpoints")
library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is the oracle")

MAX_ABS = 5e-5  # fp32's threshold
PROMPTS = {"query": "search: ", "passage": "text: ", "empty": ""}
TEXTS = ["the cat sat on a mat", "", "x", "fast dog runs: hello, world 42!", "a mat", "the cat sat on a mat", "dog " * 400]
PAIRS = [("the cat", "sat on a mat"), ("x", "")]


@dataclass(frozen=True)
class Case:
    """How a checkpoint is used. `dense` and `normalize` are modules behind its pooling."""

    pooling: str
    include_prompt: bool = True
    normalize: bool = False
    dense: bool = False
    truncate_dim: int | None = None
    default_prompt_name: str | None = None
    prompts: bool = True
    similarity: str | None = None


CASES = {
    "mean": Case("mean", normalize=True, default_prompt_name="passage"),
    "mean, without the prompt": Case("mean", include_prompt=False, default_prompt_name="query"),
    "mean, dense and cut": Case("mean", dense=True, normalize=True, truncate_dim=12, similarity="dot"),
    "mean, cut": Case("mean", truncate_dim=12, similarity="euclidean", prompts=False),
    "cls": Case("cls", normalize=True, truncate_dim=12, similarity="manhattan"),
    "cls, without the prompt": Case("cls", include_prompt=False, default_prompt_name="passage", normalize=True),
}


def make(folder: Path, case: Case) -> Path:
    """A sentence-transformers folder of a tiny BERT, with trained-looking weights."""
    checkpoints.make_checkpoint(folder)
    modules = []
    if case.dense:
        (folder / "2_Dense").mkdir()
        library.models.Dense(checkpoints.HIDDEN, 24).save(str(folder / "2_Dense"))
        modules.append(("Dense", "2_Dense"))
    if case.normalize:
        modules.append(("Normalize", f"{len(modules) + 2}_Normalize"))
    mode = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
    pooling = {key: kind == case.pooling for kind, key in mode.items()}
    checkpoints.add_sentence_modules(folder, pooling={**pooling, "include_prompt": case.include_prompt}, modules=modules)
    said = {
        "prompts": PROMPTS if case.prompts else {},
        "default_prompt_name": case.default_prompt_name,
        "truncate_dim": case.truncate_dim,
        "similarity_fn_name": case.similarity,
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps({key: value for key, value in said.items() if value is not None}))
    return folder


@dataclass(frozen=True)
class Pair:
    """The same model twice."""

    encoder: Encoder
    model: Any

    @property
    def prompts(self) -> bool:
        return any(self.encoder.manifest.prompts.values())


def opened(checkpoint: Path, bundle: Path) -> Iterator[Pair]:
    # The folder itself: what sentence-transformers does with it is what a bundle must do.
    model = library.SentenceTransformer(str(checkpoint), device="cpu")
    with Encoder.load(bundle, threads=2, on_overflow="truncate") as encoder:
        model.max_seq_length = encoder.manifest.max_length
        yield Pair(encoder, model)


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("call-by-call")
    checkpoint = make(folder / "checkpoint", CASES[request.param])
    report = export(str(checkpoint), folder / "bundle", config=ExportConfig(tokens=True))
    yield from opened(checkpoint, report.path)


@pytest.fixture(scope="module")
def real(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """all-MiniLM-L6-v2 with its own pooling and unit length, and with prompts and a cut that others have."""
    folder = tmp_path_factory.mktemp("real")
    checkpoint = Path(shutil.copytree(minilm, folder / "all-MiniLM-L6-v2"))
    said = json.loads((checkpoint / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    said |= {"prompts": PROMPTS, "default_prompt_name": "passage", "truncate_dim": 256}
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps(said), encoding="utf-8")
    yield from opened(checkpoint, export(str(checkpoint), folder / "bundle").path)


def same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=MAX_ABS)


# Each way to ask for vectors: ours, and theirs.
CALLS: dict[str, tuple[Callable[[Encoder], np.ndarray], Callable[[Any], np.ndarray]]] = {
    "as trained": (lambda e: e.encode(TEXTS), lambda m: m.encode(TEXTS)),
    "queries": (lambda e: e.encode_query(TEXTS), lambda m: m.encode_query(TEXTS)),
    "documents": (lambda e: e.encode_document(TEXTS), lambda m: m.encode_document(TEXTS)),
    "pairs": (lambda e: e.encode(PAIRS), lambda m: m.encode(PAIRS)),
    "a prompt": (lambda e: e.encode(TEXTS, prompt="say: "), lambda m: m.encode(TEXTS, prompt="say: ")),
    "a prompt before pairs": (lambda e: e.encode(PAIRS, prompt="say: "), lambda m: m.encode(PAIRS, prompt="say: ")),
    "no prompt": (lambda e: e.encode(TEXTS, prompt=""), lambda m: m.encode(TEXTS, prompt="")),
    "a query's own prompt": (lambda e: e.encode_query(TEXTS, prompt="x "), lambda m: m.encode_query(TEXTS, prompt="x ")),
    "query by name": (lambda e: e.encode(TEXTS, prompt_name="query"), lambda m: m.encode(TEXTS, prompt_name="query")),
    "unit length": (lambda e: e.encode(TEXTS, normalize=True), lambda m: m.encode(TEXTS, normalize_embeddings=True)),
    "fewer numbers": (
        lambda e: e.encode(TEXTS, dimensions=8),
        lambda m: m.encode(TEXTS, truncate_dim=8, normalize_embeddings=True),
    ),
    "a prompt over the maximum": (lambda e: e.encode(["x"], prompt="dog " * 600), lambda m: m.encode(["x"], prompt="dog " * 600)),
}


def check_calls(pair: Pair) -> None:
    for name, (ours, theirs) in CALLS.items():
        try:
            expected = theirs(pair.model)
            if name == "fewer numbers":
                with pytest.warns(DimensionsWarning):
                    found = ours(pair.encoder)
            else:
                found = ours(pair.encoder)
            same(found, expected)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def check_bytes(pair: Pair) -> None:
    """Of the same numbers and ranges, the same bytes; of theirs, at most a step or the sign of what is nearly zero."""
    vectors, theirs, ranges = pair.encoder.encode(TEXTS), pair.model.encode(TEXTS), pair.encoder.ranges()
    quantize = library.util.quantize_embeddings
    for dtype in ("int8", "uint8", "binary", "ubinary"):
        ours = pair.encoder.encode(TEXTS, dtype=dtype)
        given = ranges if dtype.endswith("int8") else None
        np.testing.assert_array_equal(ours, quantize(vectors, dtype, ranges=given))
        if given is not None:
            assert np.abs(ours.astype(int) - quantize(theirs, dtype, ranges=given)).max() <= 1
        else:
            bits = np.unpackbits(ours.view(np.uint8) ^ quantize(theirs, dtype).view(np.uint8), axis=-1)[:, : theirs.shape[1]]
            assert (np.abs(theirs[bits.astype(bool)]) < MAX_ABS).all()


def check_the_rest(pair: Pair) -> None:
    a, b = pair.encoder.encode(TEXTS[:3]), pair.encoder.encode(TEXTS[3:6])
    np.testing.assert_allclose(pair.encoder.similarity(a, b), pair.model.similarity(a, b).numpy(), rtol=1e-5, atol=2e-5)
    for rows, expected in zip(
        pair.encoder.encode(TEXTS, output="tokens"), pair.model.encode(TEXTS, output_value="token_embeddings"), strict=True
    ):
        same(rows, expected.numpy())
    for text, found in zip(TEXTS, pair.encoder.tokens(TEXTS, prompt=""), strict=True):
        expected = pair.model.tokenizer(text, truncation=True, max_length=pair.encoder.manifest.max_length, return_offsets_mapping=True)
        assert list(found.ids) == expected["input_ids"]
        assert list(found.tokens) == pair.model.tokenizer.convert_ids_to_tokens(expected["input_ids"])
        assert list(found.offsets) == expected["offset_mapping"]


def test_each_call_gives_the_vectors_of_sentence_transformers(pair: Pair) -> None:
    check_calls(pair)


def test_fewer_bytes_are_those_of_sentence_transformers(pair: Pair) -> None:
    check_bytes(pair)


def test_tokens_and_similarities_are_those_of_sentence_transformers(pair: Pair) -> None:
    check_the_rest(pair)


@pytest.mark.slow
def test_the_real_model(real: Pair) -> None:
    assert real.encoder.manifest.pooling == "mean"
    check_calls(real)
    check_bytes(real)
    check_the_rest(real)


CALLS_OF_A_MODEL: dict[str, Callable[[Any], Any]] = {
    "as trained": lambda m: m.encode(TEXTS),
    "pairs": lambda m: m.encode(PAIRS),
    "a prompt": lambda m: m.encode(TEXTS, prompt="say: "),
    "queries": lambda m: m.encode_query(TEXTS),
    "documents of unit length": lambda m: m.encode_document(TEXTS, normalize_embeddings=True),
    "similarity": lambda m: m.similarity(m.encode_query(TEXTS), m.encode_document(TEXTS)).numpy(),
}


@pytest.mark.parametrize("call", CALLS_OF_A_MODEL)
def test_a_sentence_transformer_of_the_bundle_is_used_as_its_source(pair: Pair, call: str) -> None:
    from cls_runtime.integrations.sentence_transformers import sentence_transformer

    ours, theirs = (CALLS_OF_A_MODEL[call](model) for model in (sentence_transformer(pair.encoder), pair.model))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=MAX_ABS)
