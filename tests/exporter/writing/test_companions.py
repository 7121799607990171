"""The files beside the graph: what they say, that the programs they are for read them, and that they are always the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.checkpoint.reference import checkpoint_token_ids
from cls_exporter.errors import UnsupportedError
from cls_exporter.writing.companions import write_companions
from cls_exporter.writing.reading_back import check_read_back

TEXTS = ["the cat sat on a mat", "Hello, WORLD 42!", "unknown ☃ letters", "", "a [MASK] <mask> here [SEP] </s>", "  spaces  "]
ALWAYS = [
    "1_Pooling/config.json",
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


def write(model: Path, folder: Path, *, config: ExportConfig | None = None) -> dict[str, bytes]:
    """Writes the companions of the checkpoint `model` into a new `folder` and returns every file's content."""
    folder.mkdir()
    write_companions(load_checkpoint(str(model), config=config), folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("model_type", checkpoints.all_families())
def test_every_family(model_type: str, tmp_path: Path) -> None:
    model = checkpoints.make_checkpoint(tmp_path / "model", model_type, kind="masked_lm")
    checkpoint = load_checkpoint(str(model))
    bundle = tmp_path / "bundle"
    files = write(model, bundle)
    word_piece = json.loads(files["tokenizer.json"])["model"]["type"] == "WordPiece"
    assert sorted(files) == sorted([*ALWAYS, *(["vocab.txt"] if word_piece else [])])
    assert str(tmp_path).encode() not in b"".join(files.values())

    config = AutoConfig.from_pretrained(bundle)
    assert config.model_type == model_type
    assert config.architectures == [checkpoint.architecture.encoder_class]
    read = AutoTokenizer.from_pretrained(bundle)
    assert read.model_max_length == checkpoint.max_length
    assert read.padding_side == "right"
    original = AutoTokenizer.from_pretrained(model)
    for pair in (None, "a second text"):
        expected = original(TEXTS, [pair] * len(TEXTS) if pair else None, padding=True)
        encoded = read(TEXTS, [pair] * len(TEXTS) if pair else None, padding=True)
        assert sorted(encoded) == sorted(checkpoint.inputs)
        assert all(encoded[name] == expected[name] for name in checkpoint.inputs)


def test_the_tokenizer_files_of_a_bert(tmp_path: Path) -> None:
    model = checkpoints.make_checkpoint(tmp_path / "model")
    files = write(model, tmp_path / "bundle", config=ExportConfig(max_length=20))
    config = json.loads(files["tokenizer_config.json"])
    assert config["model_max_length"] == 20
    assert config["tokenizer_class"] == "BertTokenizer"
    assert config["do_lower_case"] is True
    assert json.loads(files["special_tokens_map.json"]) == {
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
    }
    vocabulary = json.loads(files["tokenizer.json"])["model"]["vocab"]
    assert {token: index for index, token in enumerate(files["vocab.txt"].decode().splitlines())} == vocabulary
    tokenizer = json.loads(files["tokenizer.json"])
    assert tokenizer["truncation"] is None
    assert tokenizer["padding"] is None


def test_a_classifier_keeps_its_labels(tmp_path: Path) -> None:
    model = checkpoints.make_checkpoint(tmp_path / "model", kind="classifier", labels=2)
    checkpoints.edit_json(model / "config.json", {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}})
    config = json.loads(write(model, tmp_path / "bundle", config=ExportConfig(logits=True))["config.json"])
    assert config["id2label"] == {"0": "no", "1": "yes"}
    assert config["label2id"] == {"no": 0, "yes": 1}
    assert config["architectures"] == ["BertModel"]


def test_nothing_of_the_machine_or_the_code_is_copied(tmp_path: Path) -> None:
    model = checkpoints.make_checkpoint(tmp_path / "model")
    foreign = {"_name_or_path": "/home/someone/runs/7", "torch_dtype": "float16", "_attn_implementation": "sdpa"}
    checkpoints.edit_json(model / "config.json", foreign)
    config = json.loads(write(model, tmp_path / "bundle")["config.json"])
    assert not foreign.keys() & config.keys()


@pytest.mark.parametrize("model_type", ["bert", "roberta", "albert"])
def test_the_same_checkpoint_gives_the_same_bytes(model_type: str, tmp_path: Path) -> None:
    model = checkpoints.make_checkpoint(tmp_path / "model", model_type)
    assert write(model, tmp_path / "one") == write(model, tmp_path / "two")


def test_the_real_model(minilm: Path, tmp_path: Path) -> None:
    files = write(minilm, tmp_path / "bundle", config=ExportConfig(allow_pooling_mismatch=True))
    assert files["vocab.txt"].rstrip() == (minilm / "vocab.txt").read_bytes().rstrip()
    assert json.loads(files["tokenizer_config.json"])["model_max_length"] == 256
    read = AutoTokenizer.from_pretrained(tmp_path / "bundle")
    original = AutoTokenizer.from_pretrained(minilm)
    texts = [*TEXTS, "Ünïcödé straße 東京 \u200b", "it's e-mail@example.com"]
    assert [read(text)["input_ids"] for text in texts] == [original(text, truncation=False)["input_ids"] for text in texts]


@pytest.mark.parametrize("token", ["two\nlines", "carriage\r", "\r\n"])
def test_a_token_that_ends_a_line_leaves_no_vocabulary_of_lines(tmp_path: Path, token: str) -> None:
    model = checkpoints.make_checkpoint(tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][token] = len(tokenizer["model"]["vocab"])
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "vocab.txt" not in write(model, tmp_path / "bundle")


def one_type(tokenizer: dict[str, Any]) -> None:
    for piece in tokenizer["post_processor"]["pair"]:
        for place in piece.values():
            place["type_id"] = 0


def added_word(tokenizer: dict[str, Any]) -> None:
    token = {"id": len(tokenizer["model"]["vocab"]), "content": "dogs", "lstrip": False, "rstrip": False, "special": False}
    tokenizer["added_tokens"].append({**token, "normalized": False, "single_word": True})


OWN_FILE, BERT = "PreTrainedTokenizerFast", "BertTokenizer"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda tokenizer: tokenizer["post_processor"]["single"].insert(1, tokenizer["post_processor"]["single"][2]), OWN_FILE),
        (lambda tokenizer: tokenizer["post_processor"]["single"].append(tokenizer["post_processor"]["single"][2]), OWN_FILE),
        (lambda tokenizer: tokenizer["post_processor"]["special_tokens"]["[SEP]"].update(ids=[1]), OWN_FILE),
        (one_type, OWN_FILE),
        (added_word, OWN_FILE),
        (lambda tokenizer: tokenizer["normalizer"].update(clean_text=False), OWN_FILE),
        (lambda tokenizer: tokenizer.update(normalizer={"type": "NFKC"}), OWN_FILE),
        (lambda tokenizer: tokenizer.update(pre_tokenizer={"type": "WhitespaceSplit"}), OWN_FILE),
        (lambda tokenizer: tokenizer["model"].update(max_input_chars_per_word=50), OWN_FILE),
        (lambda tokenizer: tokenizer["model"].update(unk_token="[MASK]"), OWN_FILE),
        (lambda tokenizer: tokenizer.update(post_processor={"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}), BERT),
        (lambda tokenizer: tokenizer["normalizer"].update(lowercase=False, strip_accents=True, handle_chinese_chars=False), BERT),
    ],
)
def test_the_class_is_one_that_every_version_of_transformers_reads_alike(
    change: Callable[[dict[str, Any]], None], kind: str, tmp_path: Path
) -> None:
    model = checkpoints.make_checkpoint(tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    change(tokenizer)
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert json.loads(write(model, tmp_path / "bundle")["tokenizer_config.json"])["tokenizer_class"] == kind
    check_read_back(load_checkpoint(str(model)), tmp_path / "bundle")


def test_a_first_blank_is_told_to_transformers_4(tmp_path: Path) -> None:
    model = checkpoints.make_checkpoint(tmp_path / "model", "roberta")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["add_prefix_space"] = True
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = ExportConfig(tokenizer="file")
    assert json.loads(write(model, tmp_path / "bundle", config=config)["tokenizer_config.json"])["add_prefix_space"] is True
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "bundle")("the cat").input_ids
        == Tokenizer.from_str(json.dumps(tokenizer)).encode("the cat").ids
    )


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "cat"},
        {"do_lower_case": False},
        {"tokenize_chinese_chars": False},
        {"strip_accents": False},
    ],
)
def test_files_that_transformers_reads_another_way_are_no_bundle(change: dict[str, Any], tmp_path: Path) -> None:
    model = checkpoints.make_checkpoint(tmp_path / "model")
    bundle = tmp_path / "bundle"
    write(model, bundle)
    checkpoint = load_checkpoint(str(model))
    check_read_back(checkpoint, bundle)
    checkpoints.edit_json(bundle / "tokenizer_config.json", change)
    with pytest.raises(UnsupportedError, match=r"changes when it is read from the bundle: .* by the checkpoint's tokenizer and .* by"):
        check_read_back(checkpoint, bundle)


def test_a_tokenizer_that_has_cut_a_text_is_read_back_as_it_is(tmp_path: Path) -> None:
    """As it has when sentence-transformers was asked for its tokens, and texts that are compared are longer than the model takes."""
    checkpoint = load_checkpoint(str(checkpoints.make_checkpoint(tmp_path / "model")), config=ExportConfig(max_length=12))
    checkpoint_token_ids(checkpoint, ["cat " * 20])
    (tmp_path / "bundle").mkdir()
    write_companions(checkpoint, tmp_path / "bundle")
    check_read_back(checkpoint, tmp_path / "bundle")
