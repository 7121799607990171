"""`ClsEncoderModule` in the sentence-transformers that is installed: 6 in .venv, 5 in .venv-transformers4.

It takes seconds to import, so the tests do that: every worker collects this file, and one runs it.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bundle_builder import write_manifest

from cls_runtime import BundleError, Encoder, TruncationWarning, UsageError
from cls_runtime.bundle.manifest import MANIFEST_NAME, read_manifest

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from cls_runtime.integrations.sentence_transformers import ClsEncoderModule

SPEC = find_spec("sentence_transformers")  # without an origin for a folder of that name
pytestmark = pytest.mark.skipif(SPEC is None or SPEC.origin is None, reason="sentence-transformers is not installed")
TEXTS = ["The cat sleeps on the roof.", "", "Rain", "A cat is asleep on top of the house, and nobody knows how it got there."]


@pytest.fixture(scope="module")
def encoder(minilm_bundle: Path) -> Encoder:
    return Encoder.load(minilm_bundle, variant="fp32", threads=1)


def module_of(encoder: Encoder | Path, **options: Any) -> ClsEncoderModule:
    from cls_runtime.integrations.sentence_transformers import ClsEncoderModule

    return ClsEncoderModule(encoder, **options)


def model_of(*modules: Any, **options: Any) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(modules=list(modules), device="cpu", **options)


@pytest.fixture(scope="module")
def oracle(minilm: Path) -> SentenceTransformer:
    """The same weights in PyTorch, pooled by their CLS row, then normalized."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm), device="cpu")
    width = model[0].auto_model.config.hidden_size
    pooling = type(model[1])(width, "cls")
    return model_of(model[0], pooling, model[2])


def test_vectors_are_those_of_the_same_model_in_pytorch(encoder: Encoder, oracle: SentenceTransformer) -> None:
    expected = oracle.encode(TEXTS)
    vectors = model_of(module_of(encoder)).encode(TEXTS, batch_size=2)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=5e-5)
    unnormalized = model_of(module_of(encoder, normalize=False)).encode(TEXTS)
    assert np.abs(unnormalized - expected).max() > 0.1


def test_prompts_go_before_the_text(encoder: Encoder, oracle: SentenceTransformer) -> None:
    model = model_of(module_of(encoder), prompts={"query": "query: "})
    expected = oracle.encode(["query: " + text for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS, prompt_name="query"), expected, rtol=0, atol=5e-5)
    pair = model_of(module_of(encoder)).preprocess([("a", "b")], prompt="query: ")
    assert pair == {"texts": [("a", "b")], "prompt": "query: "}
    np.testing.assert_array_equal(module_of(encoder)(pair)["sentence_embedding"].numpy(), encoder.encode([("query: a", "b")]))


@pytest.fixture(scope="module")
def prompted(minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The same bundle as of a model with prompts, one of them before every text, and vectors of 64 numbers."""
    folder = tmp_path_factory.mktemp("prompted") / "bundle"
    shutil.copytree(minilm_bundle, folder, copy_function=os.link)
    (folder / MANIFEST_NAME).unlink()
    manifest = dataclasses.replace(read_manifest(minilm_bundle), **USE, fingerprint="")
    write_manifest(folder, manifest)
    return Encoder.load(folder, variant="fp32", threads=1)


USE = {
    "prompts": {"query": "query: ", "document": "passage: ", "title": ""},
    "default_prompt_name": "document",
    "truncate_dim": 64,
    "similarity_fn_name": "euclidean",
}
CALLS: dict[str, Callable[[Any], Any]] = {
    "encode": lambda model: model.encode(TEXTS),
    "encode with a prompt's name": lambda model: model.encode(TEXTS, prompt_name="query"),
    "encode with an empty prompt": lambda model: model.encode(TEXTS, prompt_name="title"),
    "encode with a prompt": lambda model: model.encode(TEXTS, prompt="search: "),
    "encode_query": lambda model: model.encode_query(TEXTS),
    "encode_document": lambda model: model.encode_document(TEXTS),
    "a size": lambda model: model.encode(TEXTS, truncate_dim=16),
    "unit length": lambda model: model.encode(TEXTS, normalize_embeddings=True),
    "similarity": lambda model: model.similarity(model.encode_query(TEXTS), model.encode_document(TEXTS)).numpy(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_whole_model_is_used_as_its_source_is(prompted: Encoder, oracle: SentenceTransformer, call: str, tmp_path: Path) -> None:
    """Made of the bundle, saved and loaded; the source is sentence-transformers with the same weights and the same settings."""
    from sentence_transformers import SentenceTransformer

    from cls_runtime.integrations.sentence_transformers import sentence_transformer

    expected = CALLS[call](model_of(*oracle, **USE))
    model = sentence_transformer(prompted)
    np.testing.assert_allclose(CALLS[call](model), expected, rtol=0, atol=5e-5)
    model.save(str(tmp_path / "saved"), create_model_card=False)
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu", local_files_only=True, trust_remote_code=True)
    np.testing.assert_allclose(CALLS[call](loaded), expected, rtol=0, atol=5e-5)
    if call == "encode":
        assert expected.shape == (4, 64)
        assert np.abs(expected - model_of(module_of(prompted)).encode(TEXTS, truncate_dim=64)).max() > 1e-3  # without the prompt


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_prompt_that_the_model_does_not_pool_is_told_apart(make_bundle: Callable[..., Path], include_prompt: bool, pooling: str) -> None:
    options = {"pooling": pooling, "include_prompt": include_prompt, "prompts": {"query": "the cat, "}, "normalize": True}
    with Encoder.load(make_bundle(**options), threads=1) as encoder:
        model = model_of(module_of(encoder), prompts={"query": "the cat, "})
        texts = ["rain", "the dog sleeps", "the dog sleeps " * 20]
        with pytest.warns(TruncationWarning):
            vectors = model.encode(texts, prompt_name="query")
        with pytest.warns(TruncationWarning):
            np.testing.assert_allclose(vectors, encoder.encode_query(texts), rtol=0, atol=1e-6)
        joined = encoder.encode(["the cat, rain"])
        assert np.allclose(vectors[:1], joined, rtol=0, atol=1e-6) == include_prompt
        if include_prompt:
            assert model[0].tokenize(texts) == model[0].preprocess(texts)
        else:
            with pytest.raises(UsageError, match="leaves a prompt out of its vectors, and tokenize is not told which it is"):
                model[0].tokenize(texts)


def test_what_is_no_sentences_vector_is_neither_cut_nor_made_unit_long(prompted: Encoder) -> None:
    from cls_runtime.integrations.sentence_transformers import sentence_transformer

    for model in (sentence_transformer(prompted, output="pooler"), model_of(module_of(prompted, output="pooler"))):
        vectors = model.encode(TEXTS, prompt="")
        np.testing.assert_allclose(vectors, prompted.encode(TEXTS, output="pooler", prompt="", normalize=False), rtol=0, atol=1e-5)
        assert np.linalg.norm(vectors, axis=1).min() > 1.1


def test_what_a_model_is_asked_for(encoder: Encoder) -> None:
    import torch

    module = module_of(encoder)
    model = model_of(module)
    assert (module.get_embedding_dimension(), module.get_sentence_embedding_dimension(), model.max_seq_length) == (384, 384, 256)
    with pytest.raises(UsageError, match="max_seq_length is 128, this bundle cuts texts at 256 tokens"):
        model.max_seq_length = 128
    vectors = model.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(vectors, torch.Tensor)
    similarity = model.similarity(vectors, vectors)
    np.testing.assert_allclose(similarity.diagonal().numpy(), 1, atol=1e-6)
    assert similarity[0, 3] > similarity[0, 2]
    assert model.encode(TEXTS[0]).shape == (384,)
    assert model.encode(TEXTS, truncate_dim=16).shape == (4, 16)
    assert module.tokenize(TEXTS) == module.preprocess(TEXTS)


def test_pooler_output(encoder: Encoder) -> None:
    vectors = model_of(module_of(encoder, output="pooler")).encode(TEXTS)
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS, output="pooler"), rtol=0, atol=1e-5)
    assert np.abs(vectors - encoder.encode(TEXTS, normalize=False)).max() > 0.1


def test_an_output_that_is_not_there_is_told_at_once(encoder: Encoder) -> None:
    for output in ("logits", "tokens"):
        with pytest.raises(UsageError, match=f"output is '{output}'"):
            module_of(encoder, output=output)


def test_a_text_that_is_cut_is_told(encoder: Encoder) -> None:
    with pytest.warns(TruncationWarning):
        model_of(module_of(encoder)).encode(["rain " * 300])


def test_saved_and_loaded_it_gives_the_same_vectors(encoder: Encoder, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from cls_runtime.integrations.sentence_transformers import ClsEncoderModule

    model = model_of(module_of(encoder, output="pooler", normalize=False))
    model.save(str(tmp_path / "saved"), create_model_card=False)
    # sentence-transformers 6 calls every class but its own remote code, also where it is installed.
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu", local_files_only=True, trust_remote_code=True)
    assert isinstance(loaded[0], ClsEncoderModule)
    assert loaded[0].encoder.bundle.folder.is_relative_to(tmp_path / "saved")
    assert loaded[0].encoder.info.variant == "fp32"  # as it was saved, whatever `auto` would take
    np.testing.assert_allclose(loaded.encode(TEXTS), model.encode(TEXTS), rtol=0, atol=1e-6)


def test_what_is_saved_is_the_bundle_that_was_loaded_and_no_more(make_bundle: Any, tmp_path: Path) -> None:
    own, other = make_bundle(), make_bundle(max_length=12)
    (own / "link").symlink_to(tmp_path)  # somebody's, and it leads elsewhere
    module = module_of(own)
    module.save(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "link").exists()
    loaded = type(module).load(str(tmp_path / "saved"))
    assert loaded.encoder.manifest == module.encoder.manifest
    loaded.save(str(tmp_path / "saved"))  # where it is
    type(module).load(str(tmp_path / "saved"))
    own.rename(tmp_path / "aside")
    other.rename(own)
    with pytest.raises(BundleError, match="another bundle is there by now"):
        module.save(str(tmp_path / "later"))


@pytest.mark.parametrize("settings", ["[]", "{}", "[" * 100_000])
def test_a_saved_model_without_its_settings_is_refused(make_bundle: Any, tmp_path: Path, settings: str) -> None:
    from cls_runtime.integrations.sentence_transformers import ClsEncoderModule

    module_of(make_bundle()).save(str(tmp_path))
    (tmp_path / "cls_encoder_module.json").write_text(settings)
    with pytest.raises(BundleError, match="save the model again"):
        ClsEncoderModule.load(str(tmp_path))


def test_pickled_for_another_process_it_loads_its_bundle_again(encoder: Encoder) -> None:
    again = pickle.loads(pickle.dumps(module_of(encoder, normalize=False)))  # what a pool of processes does
    np.testing.assert_array_equal(again({"texts": TEXTS})["sentence_embedding"].numpy(), encoder.encode(TEXTS, normalize=False))


def test_a_folder_is_loaded_as_encoder_does(minilm_bundle: Path) -> None:
    rows = module_of(minilm_bundle)({"texts": TEXTS})["sentence_embedding"].numpy()
    with Encoder.load(minilm_bundle) as encoder:
        np.testing.assert_allclose(rows, encoder.encode(TEXTS, normalize=True), rtol=0, atol=1e-5)


@pytest.mark.parametrize("texts", ["a text", {"a": "b"}, {"a"}, [3], b"a"])
def test_what_is_no_list_of_texts_is_a_type_error(encoder: Encoder, texts: Any) -> None:
    """A str iterates over its characters: each would get a vector."""
    module = module_of(encoder)
    for prompt in (None, "query: "):
        with pytest.raises(TypeError, match="expected"):
            module.preprocess(texts, prompt)
