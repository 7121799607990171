"""Vectors of sentence-transformers folders against that library's own `encode`, for each family: poolings, modules, prompts, sizes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import HIDDEN, add_sentence_modules, edit_json
from numpy.typing import NDArray

from cls_exporter import ExportConfig, export
from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.reference import checkpoint_vectors
from cls_exporter.checkpoint.sentence_oracle import check_against_sentence_transformers
from cls_exporter.config import Layout
from cls_runtime import Encoder
from cls_runtime.bundle.token_sample import sampled_positions

library = pytest.importorskip("sentence_transformers")

MAX_ABS = 5e-5  # contract's for fp32; measured 9e-7
TEXTS = ["The CAT sat, on a mat!", "a [SEP] b", "x", "", "hello world " * 60]
PROMPTS = {
    "query": "the cat: ",
    "passage": "on a mat, ",
    "empty": "",
    "special": "a [SEP]",
    "unknown": "the ☃",
    "long": "hello world " * 60,
}
SWITCHES = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """(family) -> a random model of it, whose tokenizer takes 32 tokens."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = checkpoints.make_checkpoint(tmp_path_factory.mktemp(family) / "model", family)
            edit_json(made[family] / "tokenizer_config.json", {"model_max_length": 32})
        return made[family]

    return make


def modelled(
    folder: Path, pooling: str, *, include_prompt: bool = True, dense: Sequence[int] = (), normalize: bool = False, **root: Any
) -> Path:
    """Makes a plain checkpoint one of sentence-transformers; `dense` are the widths of its Dense modules."""
    modules = [("Dense", f"{place}_Dense") for place in range(2, 2 + len(dense))]
    modules += [("Normalize", f"{2 + len(dense)}_Normalize")] if normalize else []
    switches = {name: mode == pooling for mode, name in SWITCHES.items()}
    add_sentence_modules(folder, pooling={**switches, "include_prompt": include_prompt}, modules=modules)
    widths = [HIDDEN, *dense]
    for (_, path), inner, outer in zip(modules, widths, dense, strict=False):
        generator = torch.Generator().manual_seed(outer)
        activation = "torch.nn.modules.activation.Tanh" if outer % 2 else "torch.nn.modules.linear.Identity"
        entries = {"in_features": inner, "out_features": outer, "bias": bool(outer % 2), "activation_function": activation}
        edit_json(folder / path / "config.json", entries)
        bias = {"linear.bias": torch.randn(outer, generator=generator)} if outer % 2 else {}
        checkpoints.write_weights_of(folder / path, {"linear.weight": torch.randn(outer, inner, generator=generator) / 8, **bias})
    if normalize:
        edit_json(folder / modules[-1][1] / "config.json", {})
    edit_json(folder / "config_sentence_transformers.json", root)
    return folder


def own(checkpoint: Checkpoint, prompt: str) -> NDArray[np.float32]:
    """The vectors as the checkpoint's users get them, of `TEXTS` behind `prompt`."""
    rows = checkpoint_vectors(checkpoint, TEXTS, prompt=prompt)[checkpoint.model.sentence_output]
    if checkpoint.source_pooling.normalize:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:, : checkpoint.use.truncate_dim]


def theirs(model: Any, **options: Any) -> NDArray[np.float32]:
    return np.asarray(model.encode(TEXTS, batch_size=2, show_progress_bar=False, **options))


def opened(folder: Path, config: ExportConfig | None = None) -> tuple[Checkpoint, Any]:
    """The checkpoint that was read of a folder, held to the library as an export does, and the library's own model of it."""
    checkpoint = load_checkpoint(str(folder), config=config)
    notes = check_against_sentence_transformers(checkpoint, lowered=False)
    assert notes == (f"sentence-transformers {library.__version__} gives the same tokens and vectors",)
    arguments = {"dtype": torch.float32, "torch_dtype": None, "attn_implementation": "eager", "device_map": None}
    return checkpoint, library.SentenceTransformer(str(folder), device="cpu", model_kwargs=arguments)


def assert_same(ours: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= MAX_ABS


CASES: dict[str, Mapping[str, Any]] = {
    "mean": {"pooling": "mean"},
    "mean, Dense, Normalize": {"pooling": "mean", "dense": (24, 9), "normalize": True},
    "CLS, Dense, Normalize": {"pooling": "cls", "dense": (9,), "normalize": True},
    "CLS, cut": {"pooling": "cls", "normalize": True, "truncate_dim": 12},
    "mean, cut": {"pooling": "mean", "dense": (24,), "truncate_dim": 12},
    "mean without the prompt": {"pooling": "mean", "include_prompt": False, "normalize": True},
    "CLS without the prompt": {"pooling": "cls", "include_prompt": False, "dense": (9,)},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", checkpoints.families(always=("bert", "roberta", "modernbert")))
def test_vectors_alone_and_behind_prompts(families: Callable[[str], Path], tmp_path: Path, family: str, case: str) -> None:
    folder = shutil.copytree(families(family), tmp_path / "model")
    checkpoint, model = opened(modelled(folder, **CASES[case], prompts=PROMPTS, default_prompt_name="query"))
    assert checkpoint.pooling == CASES[case]["pooling"]
    assert_same(own(checkpoint, PROMPTS["query"]), theirs(model))
    assert_same(own(checkpoint, ""), theirs(model, prompt=""))
    assert_same(own(checkpoint, PROMPTS["passage"]), theirs(model, prompt_name="passage"))
    # Or the prompts that were compared would all be one.
    assert np.abs(own(checkpoint, "") - own(checkpoint, PROMPTS["query"])).max() > 100 * MAX_ABS


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_prompts_that_are_left_out_of_the_pooling(families: Callable[[str], Path], tmp_path: Path, family: str, pooling: str) -> None:
    """Special tokens and unknown ones at a prompt's end, one that leaves nothing of the text, and one that nobody has stored."""
    folder = shutil.copytree(families(family), tmp_path / "model")
    checkpoint, model = opened(modelled(folder, pooling, include_prompt=False, prompts=PROMPTS))
    for prompt in (*PROMPTS.values(), "another"):
        assert_same(own(checkpoint, prompt), theirs(model, prompt=prompt))
    included, _ = opened(modelled(folder, pooling, include_prompt=True, prompts=PROMPTS))
    assert np.abs(own(included, "the cat: ") - own(checkpoint, "the cat: ")).max() > 100 * MAX_ABS


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_another_pooling_than_was_trained(families: Callable[[str], Path], tmp_path: Path, pooling: str, include_prompt: bool) -> None:
    """What the same modules make of it, which a folder with that pooling says."""
    other = {"cls": "mean", "mean": "cls"}[pooling]
    root = {"prompts": PROMPTS, "default_prompt_name": "query"}
    folder = shutil.copytree(families("bert"), tmp_path / "model")
    config = ExportConfig(pooling=other, allow_pooling_mismatch=True)
    checkpoint, _ = opened(modelled(folder, pooling, include_prompt=include_prompt, dense=(9,), normalize=True, **root), config)
    assert (checkpoint.pooling, checkpoint.source_pooling.mode, checkpoint.source_pooling.mismatch_allowed) == (other, pooling, True)
    _, model = opened(modelled(folder, other, include_prompt=include_prompt, dense=(9,), normalize=True, **root))
    assert_same(own(checkpoint, PROMPTS["query"]), theirs(model))
    assert_same(own(checkpoint, ""), theirs(model, prompt=""))


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_rows_of_tokens(families: Callable[[str], Path], tmp_path: Path, family: str) -> None:
    folder = modelled(shutil.copytree(families(family), tmp_path / "model"), "cls", dense=(9,), normalize=True)
    checkpoint, model = opened(folder, ExportConfig(tokens=True))
    assert checkpoint.token_rows
    rows = [np.asarray(item) for item in model.encode(TEXTS, output_value="token_embeddings", show_progress_bar=False)]
    sampled = np.concatenate([item[sampled_positions(len(item))] for item in rows])
    assert_same(checkpoint_vectors(checkpoint, TEXTS)["tokens"], sampled)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["standard", "native", "broadcast"])
@pytest.mark.parametrize("case", ["mean, cut", "mean without the prompt", "CLS, Dense, Normalize", "CLS without the prompt"])
def test_a_bundle_gives_the_same(families: Callable[[str], Path], tmp_path: Path, case: str, layout: Layout) -> None:
    """From the folder to the vectors that a user gets, and what the manifest says of it."""
    said = {"prompts": PROMPTS, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    folder = modelled(shutil.copytree(families("bert"), tmp_path / "model"), **CASES[case], **said)
    edit_json(folder / "config.json", {"matryoshka_dimensions": [8, 4]})
    _, model = opened(folder)
    manifest = export(str(folder), tmp_path / "bundle", config=ExportConfig(layout=layout)).manifest
    assert (manifest.pooling, manifest.truncate_dim) == (CASES[case]["pooling"], CASES[case].get("truncate_dim"))
    assert {name: getattr(manifest, name) for name in said} == said
    assert manifest.matryoshka_dims == (8, 4)
    all_rows = manifest.pooling == "mean" or manifest.leaves_prompt_out
    assert manifest.token_rows == (layout == "standard" and all_rows)
    with Encoder.load(tmp_path / "bundle", on_overflow="truncate") as encoder:
        assert_same(encoder.encode(TEXTS), theirs(model))
        for name in ("query", "passage", "special", "unknown", "long", "empty"):
            assert_same(encoder.encode(TEXTS, prompt_name=name), theirs(model, prompt_name=name))
        assert_same(encoder.encode(TEXTS, prompt="another"), theirs(model, prompt="another"))
        assert_same(encoder.encode(TEXTS, prompt=""), theirs(model, prompt=""))


def test_the_real_model(minilm: Path) -> None:
    checkpoint, model = opened(minilm)
    assert (checkpoint.pooling, checkpoint.token_rows, checkpoint.source_pooling.normalize) == ("mean", True, True)
    assert_same(own(checkpoint, ""), theirs(model))


def test_a_rerankers_prompt_goes_before_the_first_text(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", kind="classifier", labels=3)
    add_sentence_modules(folder, pooling=None)
    edit_json(folder / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
    root = {"model_type": "CrossEncoder", "prompts": {"query": "the cat: ", "other": "on a mat, "}, "default_prompt_name": "query"}
    edit_json(folder / "config_sentence_transformers.json", root)
    checkpoint = load_checkpoint(str(folder), config=ExportConfig(logits=True))
    check_against_sentence_transformers(checkpoint, lowered=False)
    model = library.CrossEncoder(str(folder), device="cpu")
    pairs = [(text, "hello world") for text in TEXTS]
    for prompt, options in (("the cat: ", {}), ("on a mat, ", {"prompt_name": "other"}), ("", {"prompt": ""})):
        scores = model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False, **options)
        assert_same(checkpoint_vectors(checkpoint, pairs, prompt=prompt)["logits"], np.asarray(scores))
