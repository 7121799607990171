"""What a sentence-transformers folder says about prompts, sizes and similarity; what it may not say is in `test_untrusted_values`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints
import pytest
from checkpoints import HIDDEN, add_sentence_modules, edit_json

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.checkpoint.sentence_use import SentenceUse
from cls_exporter.errors import CheckpointError, UnsupportedError

CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
ROOT = "config_sentence_transformers.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = checkpoints.make_checkpoint(tmp_path / "model")
    add_sentence_modules(folder, pooling=CLS)
    return folder


@pytest.fixture
def reranker(tmp_path: Path) -> Path:
    folder = checkpoints.make_checkpoint(tmp_path / "model", kind="classifier", labels=1)
    add_sentence_modules(folder, pooling=None)
    edit_json(folder / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
    return folder


def use_of(folder: Path, **root: Any) -> SentenceUse:
    edit_json(folder / ROOT, root)
    return load_checkpoint(str(folder)).use


def test_a_folder_that_says_nothing(folder: Path) -> None:
    assert load_checkpoint(str(folder)).use == SentenceUse()
    assert use_of(folder, prompts=None, default_prompt_name=None, truncate_dim=None, similarity_fn_name=None) == SentenceUse()
    assert use_of(folder, prompts={}) == SentenceUse()
    (folder / "modules.json").unlink()  # nobody reads the file then
    assert use_of(folder, prompts=7, truncate_dim=-1, similarity_fn_name="none") == SentenceUse()


def test_prompts_are_kept_as_they_are(folder: Path) -> None:
    prompts = {"query": "Instruct: find\nQuery: ", "document": "", "other": None, "": "unnamed ", "ünï\0": "\x00\x1b[2J \u202e"}
    use = use_of(folder, prompts=prompts, default_prompt_name="query")
    assert use.prompts == {**prompts, "other": ""}
    assert list(use.prompts) == list(prompts)
    assert (use.default_prompt_name, use.default_prompt, use.has_prompts) == ("query", "Instruct: find\nQuery: ", True)


def test_as_many_and_as_long_prompts_as_there_may_be(folder: Path) -> None:
    prompts = {str(number): "" for number in range(99)} | {"long": "x" * 10_000}
    assert use_of(folder, prompts=prompts).prompts == prompts


@pytest.mark.parametrize(
    ("prompts", "name", "kept"),
    [
        ({"passage": "p: "}, "passage", "passage"),
        ({"passage": "p: ", "empty": ""}, "empty", "empty"),
        ({"passage": "p: "}, "query", None),  # sentence-transformers has that name, without a text
        ({}, "document", None),
        ({"query": "q: "}, "query", "query"),
    ],
)
def test_a_default_prompt_that_names_something(folder: Path, prompts: dict[str, str], name: str, kept: str | None) -> None:
    assert use_of(folder, prompts=prompts, default_prompt_name=name).default_prompt_name == kept


def test_a_default_prompt_is_told(folder: Path) -> None:
    edit_json(folder / ROOT, {"prompts": {"query": "query: ", "other": "x"}, "default_prompt_name": "query"})
    note = "the prompt 'query: ' goes before every text by default"
    assert note in load_checkpoint(str(folder)).notes
    edit_json(folder / ROOT, {"default_prompt_name": None})
    assert not any("prompt" in note for note in load_checkpoint(str(folder)).notes)


def test_a_rerankers_prompts(reranker: Path) -> None:
    """A CrossEncoder has no names without a text, cuts nothing and compares nothing."""
    root = {"model_type": "CrossEncoder", "prompts": {"a": "x: "}, "default_prompt_name": "a"}
    assert use_of(reranker, truncate_dim=-3, similarity_fn_name="none", **root) == SentenceUse(
        prompts={"a": "x: "}, default_prompt_name="a"
    )
    edit_json(reranker / ROOT, {"default_prompt_name": "query"})
    with pytest.raises(CheckpointError, match=r"default_prompt_name 'query', which is not one of its prompts \(a\)"):
        load_checkpoint(str(reranker))


@pytest.mark.parametrize(
    ("written", "size"), [(8, 8), ("8", 8), (8.0, 8), (HIDDEN - 1, HIDDEN - 1), (HIDDEN, None), (1024, None), (1, 1), (None, None)]
)
def test_sizes_that_vectors_are_cut_to(folder: Path, written: Any, size: int | None) -> None:
    assert use_of(folder, truncate_dim=written).truncate_dim == size
    notes = [note for note in load_checkpoint(str(folder)).notes if "truncate_dim" in note]
    assert notes == ([] if size is None else [f"vectors are cut to {size} numbers by default (truncate_dim)"])


def test_sizes_are_those_behind_a_dense_module(folder: Path) -> None:
    add_sentence_modules(folder, pooling=CLS, modules=[("Dense", "2_Dense")])
    entries = {"in_features": HIDDEN, "out_features": 12, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    edit_json(folder / "2_Dense" / "config.json", entries)
    checkpoints.write_weights_of(folder / "2_Dense", {"linear.weight": checkpoints.torch.ones(12, HIDDEN)})
    edit_json(folder / "config.json", {"matryoshka_dims": [32, 16, 12, 8]})
    use = use_of(folder, truncate_dim=12)
    assert (use.truncate_dim, use.matryoshka_dims) == (None, (12, 8))


@pytest.mark.parametrize("key", ["matryoshka_dimensions", "matryoshka_dims"])
@pytest.mark.parametrize(("written", "sizes"), [([8, 16, 32, 64, 8], (8, 16, 32)), (["16", 8.0], (16, 8)), ([], ()), (None, ())])
def test_sizes_that_were_trained(folder: Path, key: str, written: Any, sizes: tuple[int, ...]) -> None:
    edit_json(folder / "config.json", {key: written})
    assert use_of(folder).matryoshka_dims == sizes
    told = f"vectors were trained to be cut to {', '.join(map(str, sizes))} numbers"
    assert (told in load_checkpoint(str(folder)).notes) == bool(sizes)
    (folder / "modules.json").unlink()  # config.json is read in any folder
    assert load_checkpoint(str(folder)).use.matryoshka_dims == sizes


@pytest.mark.parametrize("written", [8, True, "8", {"8": 1}, [0], [-8], [8.5], [True], [None], ["eight"], [[8]], [8] * 101, [2**40]])
def test_sizes_that_are_none(folder: Path, written: Any) -> None:
    edit_json(folder / "config.json", {"matryoshka_dims": written})
    with pytest.raises(CheckpointError, match=r"config.json has matryoshka_dims .*; expected a list of at most 100 positive integers"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity(folder: Path, name: str) -> None:
    assert use_of(folder, similarity_fn_name=name).similarity_fn_name == name
    notes = [note for note in load_checkpoint(str(folder)).notes if "similarity" in note]
    assert notes == ([] if name == "cosine" else [f"vectors are compared by {name} (similarity_fn_name)"])


def test_a_similarity_that_versions_read_in_two_ways_is_refused(folder: Path) -> None:
    edit_json(folder / ROOT, {"similarity_fn_name": "maxsim"})
    with pytest.raises(
        UnsupportedError, match="similarity_fn_name 'maxsim'; supported are cosine, dot, euclidean, manhattan; set it to one"
    ):
        load_checkpoint(str(folder))


def test_another_pooling_keeps_what_is_said(folder: Path) -> None:
    edit_json(folder / ROOT, {"prompts": {"query": "query: "}, "truncate_dim": 8})
    config = ExportConfig(pooling="mean", allow_pooling_mismatch=True)
    assert load_checkpoint(str(folder), config=config).use == load_checkpoint(str(folder)).use
