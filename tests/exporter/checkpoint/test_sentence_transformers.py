"""sentence-transformers folders: what is read from the old schema and the new one, and what is refused because vectors would differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from checkpoints import HIDDEN, add_sentence_modules, edit_json
from torch import Tensor

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.config import Layout
from cls_exporter.errors import CheckpointError, UnsupportedError
from cls_runtime.errors import UsageError

CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
TANH = "torch.nn.modules.activation.Tanh"
TEXTS = ["the cat sat on a mat", "x", "hello, world"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.make_checkpoint(tmp_path / "model")


def rows_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    batch = checkpoint.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        rows = checkpoint.model(**{name: batch[name] for name in checkpoint.inputs})
    return dict(zip(checkpoint.model.output_names, rows, strict=True))


def write_dense(folder: Path, *, inner: int, outer: int, activation: str = TANH, changes: Mapping[str, Any] | None = None) -> None:
    edit_json(
        folder / "config.json",
        {"in_features": inner, "out_features": outer, "bias": True, "activation_function": activation, **(changes or {})},
    )
    generator = torch.Generator().manual_seed(outer)
    weights = {"linear.weight": torch.randn(outer, inner, generator=generator), "linear.bias": torch.randn(outer, generator=generator)}
    checkpoints.write_weights_of(folder, weights)


def test_a_folder_without_modules_says_nothing(folder: Path) -> None:
    pooling = load_checkpoint(str(folder)).source_pooling
    assert (pooling.mode, pooling.mismatch_allowed, pooling.normalize, pooling.dense) == (None, False, False, ())


def test_fields_that_are_replaced_in_a_folder_without_modules(folder: Path) -> None:
    edit_json(folder / "sentence_bert_config.json", {"config_args": {"num_hidden_layers": 1}})
    words = "sentence_bert_config.json replaces num_hidden_layers of config.json, which takes effect only in a folder with"
    with pytest.raises(UnsupportedError, match=words):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("kind", ["Pooling", "Dense"])
def test_a_module_whose_folder_was_not_fetched(folder: Path, kind: str) -> None:
    add_sentence_modules(folder, pooling=CLS, modules=[("Dense", "2_Dense")])
    write_dense(folder / "2_Dense", inner=HIDDEN, outer=8)
    path = {"Pooling": "1_Pooling", "Dense": "2_Dense"}[kind]
    shutil.rmtree(folder / path)
    with pytest.raises(CheckpointError, match=f"modules.json names {path}, which has no config.json for its {kind} module"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("pooling", [CLS, {"pooling_mode": "cls"}, {"pooling_mode": ["cls"]}])
def test_cls_pooling_in_both_schemas(folder: Path, pooling: dict[str, Any]) -> None:
    add_sentence_modules(folder, pooling=pooling, modules=[("Normalize", "2_Normalize")])
    source_pooling = load_checkpoint(str(folder)).source_pooling
    assert (source_pooling.mode, source_pooling.mismatch_allowed, source_pooling.normalize) == ("cls", False, True)


def test_module_types_of_the_new_schema(folder: Path) -> None:
    add_sentence_modules(folder, pooling={"pooling_mode": "cls"}, modules=[("Normalize", "2_Normalize")])
    types = [
        "sentence_transformers.base.modules.transformer.Transformer",
        "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
        "sentence_transformers.base.modules.normalize.Normalize",
    ]
    listed = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([{**entry, "type": kind} for entry, kind in zip(listed, types, strict=True)]))
    assert load_checkpoint(str(folder)).source_pooling.normalize


POOLINGS = {
    "mean": MEAN,
    "mean by default": {},
    "mean in the newer schema": {"pooling_mode": "mean"},
    "cls": CLS,
    "cls in the newer schema": {"pooling_mode": ["cls"]},
    "lasttoken": {"pooling_mode": "lasttoken"},
    "max": {"pooling_mode_max_tokens": True},
    "weightedmean": {"pooling_mode_weightedmean_tokens": True},
    "mean_sqrt_len_tokens": {"pooling_mode_mean_sqrt_len_tokens": True},
    "cls+mean": {**CLS, "pooling_mode_mean_tokens": True},
}
ASKED: dict[str, Any] = {"auto": {}, "cls": {"pooling": "cls"}, "mean": {"pooling": "mean"}}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", POOLINGS)
def test_which_pooling_is_exported(folder: Path, name: str, asked: str) -> None:
    """What was trained, and with permission what was asked for, the CLS row if nothing was."""
    trained = name.partition(" ")[0]
    add_sentence_modules(folder, pooling=POOLINGS[name])
    wanted = trained if asked == "auto" else asked
    if wanted == trained and trained in ("cls", "mean"):
        checkpoint = load_checkpoint(str(folder), config=ExportConfig(**ASKED[asked]))
        assert (checkpoint.pooling, checkpoint.source_pooling.mode) == (trained, trained)
        assert not checkpoint.source_pooling.mismatch_allowed
    else:
        message = f"^sentence-transformers pools this model by {trained}; supported are cls and mean; .*--allow-pooling-mismatch .*CLS row"
        if asked != "auto":
            message = (
                f"^--pooling {asked}: sentence-transformers pools this model by {trained}; .*add --allow-pooling-mismatch if it is what"
            )
        with pytest.raises((CheckpointError, UnsupportedError), match=message.replace("+", r"\+")) as caught:
            load_checkpoint(str(folder), config=ExportConfig(**ASKED[asked]))
        assert caught.value.exit_code == 2
    allowed = load_checkpoint(str(folder), config=ExportConfig(allow_pooling_mismatch=True, **ASKED[asked]))
    expected = "cls" if asked == "auto" else asked
    assert (allowed.pooling, allowed.source_pooling.mode) == (expected, trained)
    assert allowed.source_pooling.mismatch_allowed == (expected != trained)


@pytest.mark.parametrize(("asked", "pooling"), [("auto", "cls"), ("cls", "cls"), ("mean", "mean")])
def test_a_plain_checkpoint_is_asked_for_nothing(folder: Path, asked: str, pooling: str) -> None:
    checkpoint = load_checkpoint(str(folder), config=ExportConfig(**ASKED[asked]))
    assert (checkpoint.pooling, checkpoint.source_pooling.mode, checkpoint.source_pooling.mismatch_allowed) == (pooling, None, False)


def test_another_pooling_is_refused_before_what_follows_it(folder: Path) -> None:
    add_sentence_modules(folder, pooling=POOLINGS["cls+mean"], modules=[("Dense", "2_Dense")])
    write_dense(folder / "2_Dense", inner=2 * HIDDEN, outer=8)
    with pytest.raises(UnsupportedError, match=r"pools this model by cls\+mean"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("layout", ["standard", "native", "broadcast"])
@pytest.mark.parametrize(
    ("pooling", "prompts", "config", "rows"),
    [
        (CLS, {}, {}, False),
        (CLS, {}, {"tokens": True}, True),
        (MEAN, {}, {}, True),
        ({**CLS, "include_prompt": False}, {"query": ""}, {}, False),
        ({**CLS, "include_prompt": False}, {"query": "query: "}, {}, True),
        ({**MEAN, "include_prompt": False}, {}, {}, True),
    ],
)
def test_output_0_is_every_row_where_all_are_computed(
    folder: Path, layout: Layout, pooling: dict[str, Any], prompts: dict[str, str], config: dict[str, Any], rows: bool
) -> None:
    """Whoever pools it gets a vector that was trained; the other layouts have the sentence's vector there, or no output 0."""
    if config and layout != "standard":
        return
    add_sentence_modules(folder, pooling=pooling)
    edit_json(folder / "config_sentence_transformers.json", {"prompts": prompts})
    checkpoint = load_checkpoint(str(folder), config=ExportConfig(layout=layout, **config))
    assert checkpoint.token_rows == (rows and layout == "standard")
    # A CLS model that leaves prompts out and has none is exported as any other CLS model.
    assert checkpoint.model.include_prompt == (pooling.get("include_prompt", True) or prompts == {"query": ""})


def test_permission_that_was_not_needed_is_not_recorded(folder: Path) -> None:
    add_sentence_modules(folder, pooling=CLS)
    assert not load_checkpoint(str(folder), config=ExportConfig(allow_pooling_mismatch=True)).source_pooling.mismatch_allowed


def test_dense_modules_are_part_of_the_row(folder: Path) -> None:
    expected = rows_of(load_checkpoint(str(folder), config=ExportConfig(pooler=True)))
    add_sentence_modules(folder, pooling=CLS, modules=[("Dense", "2_Dense"), ("Dense", "3_Dense"), ("Normalize", "4_Normalize")])
    write_dense(folder / "2_Dense", inner=HIDDEN, outer=24)
    write_dense(folder / "3_Dense", inner=24, outer=8, activation="torch.nn.modules.linear.Identity")
    checkpoint = load_checkpoint(str(folder), config=ExportConfig(pooler=True))
    row = expected["cls"]
    for name, activation in (("2_Dense", torch.tanh), ("3_Dense", torch.nn.Identity())):
        weights = checkpoints.read_weights_of(folder / name)
        row = activation(row @ weights["linear.weight"].T + weights["linear.bias"])
    rows = rows_of(checkpoint)
    assert torch.allclose(rows["cls"], row, atol=1e-5)
    assert torch.equal(rows["pooler"], expected["pooler"])
    assert checkpoint.model.width == 8
    assert checkpoint.source_pooling.dense == ("Linear(32, 24) + Tanh", "Linear(24, 8) + Identity")
    assert "the Dense module is part of the graph: Linear(32, 24) + Tanh" in checkpoint.notes


def test_dense_weights_count_in_the_hash(folder: Path) -> None:
    add_sentence_modules(folder, pooling=CLS, modules=[("Dense", "2_Dense")])
    write_dense(folder / "2_Dense", inner=HIDDEN, outer=24)
    first = load_checkpoint(str(folder)).weights_sha256
    write_dense(folder / "2_Dense", inner=HIDDEN, outer=16)
    assert load_checkpoint(str(folder)).weights_sha256 != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"activation_function": "torch.nn.modules.activation.Softplus"},
            "activation 'torch.nn.modules.activation.Softplus'; supported are",
        ),
        ({"activation_function": "os.system"}, "activation 'os.system'"),
        ({"use_residual": True}, "has use_residual"),
        ({"module_output_name": "token_embeddings"}, "does not read and write sentence_embedding"),
    ],
)
def test_dense_modules_that_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    add_sentence_modules(folder, pooling=CLS, modules=[("Dense", "2_Dense")])
    write_dense(folder / "2_Dense", inner=HIDDEN, outer=8, changes=changes)
    with pytest.raises(UnsupportedError, match=message):
        load_checkpoint(str(folder))


def test_a_dense_module_of_another_width_is_refused(folder: Path) -> None:
    add_sentence_modules(folder, pooling=CLS, modules=[("Dense", "2_Dense")])
    write_dense(folder / "2_Dense", inner=16, outer=8)
    with pytest.raises(CheckpointError, match="the Dense module in 2_Dense has in_features 16 and out_features 8; expected 32"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([("LayerNorm", "2_LayerNorm")], "the module 'LayerNorm'; supported are Transformer, Pooling, Dense after it"),
        ([("CNN", "2_CNN")], "the module 'CNN'"),
        ([("Normalize", "2_Normalize"), ("Dense", "3_Dense")], "a Dense after Normalize"),
    ],
)
def test_modules_that_are_refused_by_name(folder: Path, modules: list[tuple[str, str]], message: str) -> None:
    add_sentence_modules(folder, pooling=CLS, modules=modules)
    with pytest.raises(UnsupportedError, match=message):
        load_checkpoint(str(folder))


def edit_modules(folder: Path, index: int, changes: dict[str, str]) -> None:
    listed = json.loads((folder / "modules.json").read_text())
    listed[index] |= changes
    (folder / "modules.json").write_text(json.dumps(listed))


def test_foreign_and_misplaced_modules(folder: Path) -> None:
    add_sentence_modules(folder, pooling=CLS)
    edit_modules(folder, 1, {"type": "my_package.MyPooling"})
    with pytest.raises(UnsupportedError, match=r"the custom module 'my_package.MyPooling'"):
        load_checkpoint(str(folder))
    edit_modules(folder, 1, {"type": "sentence_transformers.models.Pooling", "path": "../elsewhere"})
    with pytest.raises(CheckpointError, match=r"modules.json names '../elsewhere', which leaves"):
        load_checkpoint(str(folder))
    edit_modules(folder, 1, {"path": "1_Pooling"})
    edit_modules(folder, 0, {"type": "sentence_transformers.models.StaticEmbedding"})
    with pytest.raises(UnsupportedError, match="starts with StaticEmbedding"):
        load_checkpoint(str(folder))
    (folder / "modules.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a list of modules"):
        load_checkpoint(str(folder))


def test_no_pooling_module_is_refused(folder: Path) -> None:
    add_sentence_modules(folder, pooling=CLS)
    (folder / "modules.json").write_text(json.dumps(json.loads((folder / "modules.json").read_text())[:1]))
    with pytest.raises(UnsupportedError, match="no Pooling module"):
        load_checkpoint(str(folder))


def test_the_encoder_may_be_in_the_folder_of_its_module(folder: Path) -> None:
    expected = rows_of(load_checkpoint(str(folder)))["cls"]
    outer = folder.parent / "outer"
    outer.mkdir()
    folder.rename(outer / "0_Transformer")
    add_sentence_modules(outer, pooling=CLS)
    edit_modules(outer, 0, {"path": "0_Transformer"})
    checkpoint = load_checkpoint(str(outer))
    assert checkpoint.name == "outer"
    assert torch.equal(rows_of(checkpoint)["cls"], expected)


def test_include_prompt_false_without_prompts_is_harmless_and_recorded(folder: Path) -> None:
    add_sentence_modules(folder, pooling={**CLS, "include_prompt": False})
    edit_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "", "document": ""}})
    checkpoint = load_checkpoint(str(folder))
    assert not checkpoint.source_pooling.include_prompt
    assert checkpoint.model.one_row


@pytest.mark.parametrize(
    ("pooling", "words"), [(CLS, "the vector is the first row after it"), (MEAN, "the mean is that of the rows after")]
)
def test_a_prompt_that_is_not_pooled_is_told(folder: Path, pooling: dict[str, Any], words: str) -> None:
    add_sentence_modules(folder, pooling={**pooling, "include_prompt": False})
    edit_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: "}})
    (note,) = (note for note in load_checkpoint(str(folder)).notes if "include_prompt" in note)
    assert note.startswith("a prompt's tokens are read and not pooled (include_prompt is false): ")
    assert words in note


def test_other_tasks_are_refused(folder: Path) -> None:
    add_sentence_modules(folder, pooling=CLS)
    edit_json(folder / "sentence_bert_config.json", {"transformer_task": "fill-mask"})
    with pytest.raises(UnsupportedError, match="transformer_task 'fill-mask'"):
        load_checkpoint(str(folder))


def test_processing_options_are_refused(folder: Path) -> None:
    edit_json(folder / "sentence_bert_config.json", {"processing_kwargs": {"text": {"add_special_tokens": False}}})
    with pytest.raises(UnsupportedError, match="changes how texts are tokenized"):
        load_checkpoint(str(folder))


def test_a_reranker_needs_no_pooling(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", kind="classifier", labels=1)
    add_sentence_modules(folder, pooling={})
    (folder / "modules.json").write_text(json.dumps(json.loads((folder / "modules.json").read_text())[:1]))
    edit_json(folder / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
    edit_json(folder / "config_sentence_transformers.json", {"activation_fn": "torch.nn.modules.activation.Sigmoid"})
    checkpoint = load_checkpoint(str(folder), config=ExportConfig(logits=True))
    assert checkpoint.source_pooling.mode is None
    assert checkpoint.labels == ("LABEL_0",)
    note = "sentence-transformers applies sigmoid to the logits; the graph gives them without it"
    assert note in checkpoint.notes


def test_what_the_installed_version_saves(tmp_path: Path, folder: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    add_sentence_modules(folder, pooling=CLS, modules=[("Dense", "2_Dense"), ("Normalize", "3_Normalize")])
    write_dense(folder / "2_Dense", inner=HIDDEN, outer=8)
    model = library.SentenceTransformer(str(folder), device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    checkpoint = load_checkpoint(str(tmp_path / "saved"))
    vectors = torch.nn.functional.normalize(rows_of(checkpoint)["cls"])
    assert torch.allclose(vectors, torch.from_numpy(model.encode(TEXTS)), atol=1e-6)
    assert checkpoint.source_pooling.normalize

    classifier = checkpoints.make_checkpoint(tmp_path / "classifier", kind="classifier", labels=1)
    reranker = library.CrossEncoder(str(classifier), device="cpu")
    reranker.save_pretrained(str(tmp_path / "reranker"))
    checkpoint = load_checkpoint(str(tmp_path / "reranker"), config=ExportConfig(logits=True))
    pairs = [(text, "a second text") for text in TEXTS]
    batch = checkpoint.tokenizer(pairs, padding=True, return_tensors="pt")
    logits = checkpoint.model(**{name: batch[name] for name in checkpoint.inputs})[1]
    assert torch.allclose(torch.sigmoid(logits)[:, 0], torch.from_numpy(reranker.predict(pairs)), atol=1e-6)


def test_the_limit_is_the_smallest_of_all(folder: Path) -> None:
    assert load_checkpoint(str(folder)).max_length == 64
    edit_json(folder / "tokenizer_config.json", {"model_max_length": 40})
    assert load_checkpoint(str(folder)).max_length == 40
    edit_json(folder / "sentence_bert_config.json", {"max_seq_length": 24})
    assert load_checkpoint(str(folder)).max_length == 24
    edit_json(folder / "sentence_bert_config.json", {"max_seq_length": None})
    assert load_checkpoint(str(folder)).max_length == 40
    edit_json(folder / "tokenizer_config.json", {"model_max_length": int(1e30)})
    assert load_checkpoint(str(folder)).max_length == 64
    edit_json(folder / "sentence_bert_config.json", {"max_seq_length": "many"})
    with pytest.raises(CheckpointError, match="max_seq_length 'many'"):
        load_checkpoint(str(folder))


def test_the_limit_can_only_be_lowered(folder: Path) -> None:
    assert load_checkpoint(str(folder), config=ExportConfig(max_length=10)).max_length == 10
    with pytest.raises(UsageError, match="--max-length 65 is more than the model's 64 tokens"):
        load_checkpoint(str(folder), config=ExportConfig(max_length=65))
    with pytest.raises(UsageError, match="--max-length 2 leaves no room for text: 2 tokens are special"):
        load_checkpoint(str(folder), config=ExportConfig(max_length=2))


def test_lowercasing_before_the_tokenizer(tmp_path: Path, folder: Path) -> None:
    edit_json(folder / "sentence_bert_config.json", {"do_lower_case": True})
    assert load_checkpoint(str(folder)).max_length == 64
    cased = checkpoints.make_checkpoint(tmp_path / "cased", "roberta")
    edit_json(cased / "sentence_bert_config.json", {"do_lower_case": True})
    with pytest.raises(CheckpointError, match="lowercases texts before this tokenizer"):
        load_checkpoint(str(cased))
