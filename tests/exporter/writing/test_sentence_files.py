"""What sentence-transformers is told about a bundle: it makes the exported vectors of output 0, and knows the prompts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from checkpoints import HIDDEN, MAX_POSITIONS, add_sentence_modules, edit_json

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.reference import checkpoint_vectors
from cls_exporter.config import Layout
from cls_exporter.errors import UnsupportedError
from cls_exporter.writing.companions import write_companions
from cls_exporter.writing.reading_back import check_sentence_files

CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
ROOT = "config_sentence_transformers.json"
PROMPTS = {"query": "the cat: ", "document": "", "ünï": "\x00 \n"}
OF_SENTENCE = ("modules.json", "sentence_bert_config.json", ROOT)
# What cls-export 0.1 wrote, byte for byte.
POOLING_OF_0_1 = """{
  "word_embedding_dimension": 32,
  "pooling_mode_cls_token": true,
  "pooling_mode_mean_tokens": false,
  "pooling_mode_max_tokens": false,
  "pooling_mode_mean_sqrt_len_tokens": false,
  "pooling_mode_weightedmean_tokens": false,
  "pooling_mode_lasttoken": false,
  "include_prompt": true
}
"""
MODULES_OF_0_1 = """[
  {
    "idx": 0,
    "name": "0",
    "path": "",
    "type": "sentence_transformers.models.Transformer"
  },
  {
    "idx": 1,
    "name": "1",
    "path": "1_Pooling",
    "type": "sentence_transformers.models.Pooling"
  },
  {
    "idx": 2,
    "name": "2",
    "path": "2_Normalize",
    "type": "sentence_transformers.models.Normalize"
  }
]
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoints.make_checkpoint(tmp_path / "model")


def modelled(model: Path, pooling: Mapping[str, Any], *, dense: bool = False, normalize: bool = False, **root: Any) -> Path:
    modules = [*([("Dense", "2_Dense"), ("Dense", "3_Dense")] if dense else []), *([("Normalize", "4_Normalize")] if normalize else [])]
    add_sentence_modules(model, pooling=pooling, modules=modules)
    if dense:
        for path, inner, outer, kind in (("2_Dense", HIDDEN, 12, "activation.Tanh"), ("3_Dense", 12, 8, "linear.Identity")):
            entries = {"in_features": inner, "out_features": outer, "bias": kind != "linear.Identity"}
            edit_json(model / path / "config.json", {**entries, "activation_function": f"torch.nn.modules.{kind}"})
            bias = {"linear.bias": torch.linspace(-1, 1, outer)} if entries["bias"] else {}
            weight = torch.randn(outer, inner, generator=torch.Generator().manual_seed(outer)) / 8
            checkpoints.write_weights_of(model / path, {"linear.weight": weight, **bias})
    if root:
        edit_json(model / ROOT, root)
    return model


def written(model: Path, folder: Path, config: ExportConfig | None = None) -> tuple[Checkpoint, dict[str, bytes]]:
    """The checkpoint, and the files of `folder` that sentence-transformers reads."""
    folder.mkdir()
    checkpoint = load_checkpoint(str(model), config=config)
    write_companions(checkpoint, folder)
    check_sentence_files(checkpoint, folder)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return checkpoint, {name: content for name, content in files.items() if name in OF_SENTENCE or "/" in name}


def kinds_in(files: Mapping[str, bytes]) -> list[str]:
    return [entry["type"].removeprefix("sentence_transformers.models.") for entry in json.loads(files["modules.json"])]


@pytest.mark.parametrize("root", [{}, {"prompts": {"query": "", "document": ""}, "similarity_fn_name": "cosine"}, {"truncate_dim": 512}])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_cls_bundle_without_prompts_is_what_it_was(model: Path, tmp_path: Path, root: dict[str, Any], include_prompt: bool) -> None:
    _, files = written(modelled(model, {**CLS, "include_prompt": include_prompt}, normalize=True, **root), tmp_path / "bundle")
    assert files == {
        "1_Pooling/config.json": POOLING_OF_0_1.encode(),
        "modules.json": MODULES_OF_0_1.encode(),
        "sentence_bert_config.json": b'{\n  "max_seq_length": 64,\n  "do_lower_case": false\n}\n',
    }
    assert (tmp_path / "bundle" / "2_Normalize").is_dir()


def test_a_plain_checkpoint_is_pooled_by_cls(model: Path, tmp_path: Path) -> None:
    _, files = written(model, tmp_path / "bundle")
    assert kinds_in(files) == ["Transformer", "Pooling"]
    assert files["1_Pooling/config.json"] == POOLING_OF_0_1.encode()
    assert json.loads(files["sentence_bert_config.json"]) == {"max_seq_length": MAX_POSITIONS, "do_lower_case": False}


@pytest.mark.parametrize("layout", ["standard", "native", "broadcast"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_dense_modules_are_written_where_output_0_is_before_them(model: Path, tmp_path: Path, pooling: str, layout: Layout) -> None:
    config = ExportConfig(layout=layout)
    _, files = written(modelled(model, {"cls": CLS, "mean": MEAN}[pooling], dense=True, normalize=True), tmp_path / "bundle", config)
    settings = json.loads(files["1_Pooling/config.json"])
    assert [name for name, value in settings.items() if value is True] == [
        {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}[pooling],
        "include_prompt",
    ]
    if pooling == "cls" or layout != "standard":
        assert kinds_in(files) == ["Transformer", "Pooling", "Normalize"]
        assert settings["word_embedding_dimension"] == 8
        assert not any("Dense" in name for name in files)
        return
    assert kinds_in(files) == ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
    assert settings["word_embedding_dimension"] == HIDDEN
    for name in ("2_Dense", "3_Dense"):
        assert json.loads(files[f"{name}/config.json"]) == json.loads((model / name / "config.json").read_text())
        stored, source = (checkpoints.read_weights_of(folder / name) for folder in (tmp_path / "bundle", model))
        assert stored.keys() == source.keys()
        assert all(torch.equal(stored[key], source[key]) for key in source)
    assert (tmp_path / "bundle" / "4_Normalize").is_dir()


def test_tokens_of_a_cls_bundle_come_with_dense_modules(model: Path, tmp_path: Path) -> None:
    _, files = written(modelled(model, CLS, dense=True), tmp_path / "bundle", ExportConfig(tokens=True))
    assert kinds_in(files) == ["Transformer", "Pooling", "Dense", "Dense"]


def test_the_same_checkpoint_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    modelled(model, MEAN, dense=True, normalize=True, prompts=PROMPTS)
    assert written(model, tmp_path / "one")[1] == written(model, tmp_path / "two")[1]


@pytest.mark.parametrize("pooling", [CLS, MEAN])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_prompts(model: Path, tmp_path: Path, pooling: dict[str, Any], include_prompt: bool) -> None:
    root = {"prompts": PROMPTS, "default_prompt_name": "query", "truncate_dim": 8, "similarity_fn_name": "dot"}
    _, files = written(modelled(model, {**pooling, "include_prompt": include_prompt}, **root), tmp_path / "bundle")
    assert json.loads(files[ROOT]) == root
    assert json.loads(files["1_Pooling/config.json"])["include_prompt"] == include_prompt


@pytest.mark.parametrize("layout", ["native", "broadcast"])
@pytest.mark.parametrize("pooling", [CLS, MEAN])
def test_a_sentences_vector_has_no_prompt_to_leave_out(model: Path, tmp_path: Path, pooling: dict[str, Any], layout: Layout) -> None:
    modelled(model, {**pooling, "include_prompt": False}, dense=True, prompts=PROMPTS)
    _, files = written(model, tmp_path / "bundle", ExportConfig(layout=layout))
    assert json.loads(files["1_Pooling/config.json"])["include_prompt"]


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ({"prompts": {"query": "q: "}}, {"prompts": {"query": "q: "}, "default_prompt_name": None}),
        ({"prompts": {"other": None}}, {"prompts": {"other": ""}, "default_prompt_name": None}),
        ({"truncate_dim": 8}, {"prompts": {}, "default_prompt_name": None, "truncate_dim": 8}),
        ({"similarity_fn_name": "dot"}, {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "dot"}),
        ({"truncate_dim": 8, "default_prompt_name": "query"}, {"prompts": {}, "default_prompt_name": None, "truncate_dim": 8}),
    ],
)
def test_what_there_is_to_say(model: Path, tmp_path: Path, root: dict[str, Any], said: dict[str, Any]) -> None:
    assert json.loads(written(modelled(model, CLS, **root), tmp_path / "bundle")[1][ROOT]) == said


def test_a_rerankers_prompts_are_not_those_of_a_sentence(tmp_path: Path) -> None:
    model = checkpoints.make_checkpoint(tmp_path / "model", kind="classifier", labels=1)
    add_sentence_modules(model, pooling=None)
    edit_json(model / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
    edit_json(model / ROOT, {"model_type": "CrossEncoder", "prompts": {"a": "x: "}, "default_prompt_name": "a"})
    assert ROOT not in written(model, tmp_path / "bundle", ExportConfig(logits=True))[1]


@pytest.mark.parametrize("pooling", [CLS, MEAN])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_sentence_transformers_makes_the_exported_vectors_of_a_bundle(
    model: Path, tmp_path: Path, pooling: dict[str, Any], include_prompt: bool
) -> None:
    """With the checkpoint's weights in the place of the graph, which gives the same rows."""
    library = pytest.importorskip("sentence_transformers")
    root = {"prompts": PROMPTS, "default_prompt_name": "query", "truncate_dim": 5}
    modelled(model, {**pooling, "include_prompt": include_prompt}, dense=True, normalize=True, **root)
    checkpoint, _ = written(model, tmp_path / "bundle", ExportConfig(tokens=True))
    (tmp_path / "bundle" / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    texts = ["the cat sat on a mat", "x", "hello world " * 40]
    rows = torch.from_numpy(checkpoint_vectors(checkpoint, texts, prompt=PROMPTS["query"])[checkpoint.model.sentence_output])
    read = library.SentenceTransformer(str(tmp_path / "bundle"), device="cpu")
    assert torch.allclose(torch.nn.functional.normalize(rows)[:, :5], read.encode(texts, convert_to_tensor=True), atol=1e-5)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "pooling": lambda folder: edit_json(folder / "1_Pooling" / "config.json", CLS),
    "include_prompt": lambda folder: edit_json(folder / "1_Pooling" / "config.json", {"include_prompt": True}),
    "Dense": lambda folder: edit_json(folder / "2_Dense" / "config.json", {"activation_function": "torch.nn.modules.linear.Identity"}),
    "Normalize": lambda folder: (folder / "modules.json").write_text(json.dumps(json.loads((folder / "modules.json").read_text())[:-1])),
    "prompts": lambda folder: edit_json(folder / ROOT, {"prompts": {"query": "the cat:"}}),
    "no file": lambda folder: (folder / ROOT).unlink(),
    "default": lambda folder: edit_json(folder / ROOT, {"default_prompt_name": None}),
    "truncate_dim": lambda folder: edit_json(folder / ROOT, {"truncate_dim": None}),
    "similarity": lambda folder: edit_json(folder / ROOT, {"similarity_fn_name": "cosine"}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_files_that_sentence_transformers_reads_another_way_are_no_bundle(model: Path, tmp_path: Path, damage: str) -> None:
    pytest.importorskip("sentence_transformers")
    root = {"prompts": PROMPTS, "default_prompt_name": "query", "truncate_dim": 8 - 1, "similarity_fn_name": "dot"}
    checkpoint, _ = written(modelled(model, {**MEAN, "include_prompt": False}, dense=True, normalize=True, **root), tmp_path / "bundle")
    DAMAGE[damage](tmp_path / "bundle")
    expected = (
        "its modules make" if damage in ("pooling", "include_prompt", "Dense", "Normalize") else "its prompts, default prompt, truncate"
    )
    with pytest.raises(UnsupportedError, match=f"reads the bundle of model differently: {expected}") as caught:
        check_sentence_files(checkpoint, tmp_path / "bundle")
    assert str(caught.value).isprintable()


def test_where_sentence_transformers_is_not_installed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    written(modelled(model, MEAN, prompts=PROMPTS), tmp_path / "bundle")
