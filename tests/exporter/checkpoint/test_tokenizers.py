"""Tokenizers: converted, padded on the right, free of their own truncation, and refused where row 0 would not be the CLS token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from checkpoints import edit_json
from refusals import refusal_of
from tokenizers import Tokenizer

from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.errors import CheckpointError, UnsupportedError

TEXTS = ["the cat sat on a mat", "Hello, WORLD 42!", "unknown ☃ letters", ""]
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.make_checkpoint(tmp_path / "model")


def edit_tokenizer(folder: Path, changes: dict[str, Any]) -> None:
    edit_json(folder / "tokenizer.json", changes)


def vocabulary_only(folder: Path) -> list[list[int]]:
    """Leaves a vocab.txt alone, as in 2019; returns what the tokenizer made of the texts before."""
    expected = [encoding.ids for encoding in Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(TEXTS)]
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.get)))
    return expected


def ids_of(serialized: str) -> list[list[int]]:
    return [encoding.ids for encoding in Tokenizer.from_str(serialized).encode_batch(TEXTS)]


@pytest.mark.parametrize("model_type", checkpoints.all_families())
def test_the_serialized_tokenizer_is_the_checkpoints(model_type: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(checkpoints.make_checkpoint(tmp_path / "model", model_type)))
    assert ids_of(checkpoint.tokenizer_json) == [checkpoint.tokenizer(text)["input_ids"] for text in TEXTS]
    first = checkpoints.special_ids(model_type)["cls"]
    assert {ids[0] for ids in ids_of(checkpoint.tokenizer_json)} == {first}


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "electra"])
def test_a_tokenizer_without_tokenizer_json_is_converted(model_type: str, tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", model_type)
    expected = vocabulary_only(folder)
    checkpoint = load_checkpoint(str(folder))
    assert ids_of(checkpoint.tokenizer_json) == expected
    assert "tokenizer.json was missing and was made from the other tokenizer files" in checkpoint.notes


def test_its_own_truncation_and_padding_are_removed(folder: Path) -> None:
    truncation = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    padding = {
        "strategy": {"Fixed": 16},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    edit_tokenizer(folder, {"truncation": truncation, "padding": padding})
    serialized = json.loads(load_checkpoint(str(folder)).tokenizer_json)
    assert serialized["truncation"] is None
    assert serialized["padding"] is None


def test_left_padding_becomes_right_padding(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", {"padding_side": "left"})
    checkpoint = load_checkpoint(str(folder))
    batch = checkpoint.tokenizer(["a", "the cat sat"], padding=True)["input_ids"]
    assert batch[0][0] == batch[1][0] == checkpoints.special_ids("bert")["cls"]
    assert any("padded on the left; a bundle pads on the right" in note for note in checkpoint.notes)


def test_a_tokenizer_that_adds_no_cls_token_is_refused(folder: Path) -> None:
    edit_tokenizer(folder, {"post_processor": None})
    edit_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    with pytest.raises(CheckpointError, match=r"does not put \[CLS\] first: 'a' becomes \['a'\]; row 0 would be a word"):
        load_checkpoint(str(folder))


def test_a_tokenizer_with_an_id_beyond_the_embedding_table_is_refused(folder: Path) -> None:
    rows = checkpoints.small_config("bert").vocab_size
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]
    edit_tokenizer(folder, {"model": {**vocabulary, "vocab": {**vocabulary["vocab"], "newest": rows}}})
    with pytest.raises(CheckpointError, match=f"has the token 'newest' with id {rows}, the embedding table has {rows} rows"):
        load_checkpoint(str(folder))


def test_no_tokenizer_at_all(folder: Path) -> None:
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"model has no tokenizer; expected tokenizer.json or vocab.txt"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "tokenizer.json in model is not a readable vocabulary .it is cut short"),
        ("{}", "the tokenizer of model cannot be loaded"),
        ('{"version": "1.0", "model": {"type": "Nonsense"}}', "the tokenizer of model cannot be loaded"),
    ],
)
def test_a_broken_tokenizer(folder: Path, content: str, message: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}}, r"\(a\+\)\+"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}}, "times as long"),
    ],
)
def test_what_every_reader_of_the_bundle_would_refuse_is_refused_at_once(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_tokenizer(folder, changes)
    with pytest.raises(CheckpointError, match=f"cannot be used in a bundle: .*{message}"):
        load_checkpoint(str(folder))


def test_a_tokenizer_without_padding_token(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", {}, remove=["pad_token"])
    edit_json(folder / "special_tokens_map.json", {}, remove=["pad_token"])
    edit_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}, remove=["added_tokens_decoder"])
    with pytest.raises(CheckpointError, match="has no pad_token"):
        load_checkpoint(str(folder))


def test_roformer_with_single_characters_needs_no_jieba(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", "roformer")
    edit_json(folder / "tokenizer_config.json", {"tokenizer_class": "RoFormerTokenizer"})
    assert "token_type_ids" in load_checkpoint(str(folder)).inputs
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    edit_tokenizer(folder, {"model": {**model, "vocab": {**model["vocab"], "非常": len(model["vocab"])}}})
    with pytest.raises(UnsupportedError, match=r"cuts Chinese words with Jieba .*'非常'"):
        load_checkpoint(str(folder))


def test_token_types_that_the_model_has_no_row_for_are_no_input(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", "roberta")
    names = ["input_ids", "token_type_ids", "attention_mask"]
    edit_json(folder / "tokenizer_config.json", {"model_input_names": names})
    assert load_checkpoint(str(folder)).inputs == ("input_ids", "attention_mask", "token_type_ids")
    second = json.loads((folder / "tokenizer.json").read_text())["post_processor"]
    for item in second["pair"][-2:]:
        next(iter(item.values()))["type_id"] = 1
    edit_tokenizer(folder, {"post_processor": second})
    assert load_checkpoint(str(folder)).inputs == ("input_ids", "attention_mask")


def test_a_tokenizer_saved_by_transformers_5_loads_in_4(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"})
    assert load_checkpoint(str(folder)).tokenizer("a")["input_ids"][0] == checkpoints.special_ids("bert")["cls"]


LEFT = {"max_length": 16, "strategy": "LongestFirst", "stride": 0, "direction": "Left"}


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({"split_special_tokens": True}, {}, "has split_special_tokens true: a text that holds"),
        ({"truncation_side": "left"}, {}, "has truncation_side 'left': it cuts off the beginning of a long text; supported is 'right'"),
        ({}, {"truncation": LEFT}, "has truncation_side 'left': "),
    ],
)
def test_settings_that_no_tokenizer_json_says_are_refused_by_name(
    model_type: str, settings: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", model_type)
    edit_json(folder / "tokenizer_config.json", settings)
    edit_tokenizer(folder, changes)
    assert message in refusal_of(folder)


def no_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def empty_table(folder: Path) -> None:
    no_vocabulary(folder)
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("#version: 0.2\n")


def other_lines(folder: Path) -> None:
    no_vocabulary(folder)
    (folder / "vocab.txt").write_text("the\ncat\nsat\n")


def special_tokens_alone(folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    special = {token: number for token, number in model["vocab"].items() if number < len(checkpoints.special_ids("roberta")) + 1}
    edit_tokenizer(folder, {"model": {**model, "vocab": special, **({"merges": []} if "merges" in model else {})}})


def nothing_is_left(folder: Path) -> None:
    edit_tokenizer(folder, {"normalizer": {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}})


@pytest.mark.parametrize(
    ("model_type", "kind", "change", "message"),
    [
        *((name, None, no_vocabulary, "no vocabulary beside tokenizer_config.json") for name in checkpoints.all_families()),
        ("bert", "BertTokenizer", other_lines, "has no '[UNK]', the token for unknown words"),
        ("distilbert", "DistilBertTokenizer", other_lines, "has no '[UNK]', the token for unknown words"),
        ("roberta", "RobertaTokenizer", empty_table, "has 0 tokens in its vocabulary and no word among them"),
        ("roberta", None, special_tokens_alone, "has 5 tokens in its vocabulary and no word among them"),
        ("bert", None, special_tokens_alone, "has 5 tokens in its vocabulary and no word among them"),
        ("bert", None, nothing_is_left, "makes no word of its vocabulary of any text: 'the cat sat on the mat' becomes ['[CLS]', '[SEP]']"),
        ("xlm-roberta", None, nothing_is_left, "makes no word of its vocabulary of any text"),
    ],
)
def test_a_vocabulary_that_tells_no_texts_apart_is_refused(
    model_type: str, kind: str | None, change: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", model_type)
    if kind is not None:
        edit_json(folder / "tokenizer_config.json", {"tokenizer_class": kind})
    change(folder)
    assert message in refusal_of(folder)
