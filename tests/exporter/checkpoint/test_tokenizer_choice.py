"""tokenizer.json and what transformers makes of a folder: where they differ neither is taken in silence, and either can be had."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import transformers
from checkpoints import edit_json
from refusals import refusal_of
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.checkpoint.reference import checkpoint_token_ids, reference_vectors
from cls_exporter.checkpoint.tokenizer_probes import PROBES, first_difference
from cls_exporter.errors import CheckpointError
from cls_exporter.writing.companions import write_companions
from cls_exporter.writing.reading_back import check_read_back
from cls_runtime.bundle.manifest import TokenizerChoice
from cls_runtime.encoding.texts import Text

Json = dict[str, Any]
TRANSFORMERS = int(transformers.__version__.split(".")[0])
TEXTS = [text for text in PROBES if isinstance(text, str) and len(text) < 30]


@dataclass(frozen=True)
class Case:
    """A checkpoint with other steps in its tokenizer.json, or other settings beside it.

    `differs` are the versions of transformers that give some text other tokens than the file does.
    """

    model_type: str
    kind: str | None
    change: Callable[[Json], object] = lambda tokenizer: None
    settings: Json | None = None
    differs: Sequence[int] = (5,)

    def write(self, folder: Path) -> Path:
        checkpoints.make_checkpoint(folder, self.model_type)
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        self.change(tokenizer)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        settings = {**(self.settings or {}), **({} if self.kind is None else {"tokenizer_class": self.kind})}
        edit_json(folder / "tokenizer_config.json", {}, remove=["backend", "tokenizer_class"])
        edit_json(folder / "tokenizer_config.json", settings)
        return folder


def first(step: str, kind: str, *names: str, **options: Any) -> Callable[[Json], object]:
    """Puts a step before the others: a normalizer or a pre-tokenizer."""
    (inner,) = names or (f"{step}s",)

    def change(tokenizer: Json) -> None:
        others = [] if tokenizer[step] is None else [tokenizer[step]]
        tokenizer[step] = {"type": "Sequence", inner: [{"type": kind, **options}, *others]}

    return change


def sets(part: str, **options: Any) -> Callable[[Json], object]:
    return lambda tokenizer: tokenizer[part].update(options)


def marker_behind_cls(tokenizer: Json) -> None:
    tokenizer["post_processor"]["single"].insert(1, tokenizer["post_processor"]["single"][-1])


def two_seps(tokenizer: Json) -> None:
    tokenizer["post_processor"]["single"].append(tokenizer["post_processor"]["single"][-1])


def one_type(tokenizer: Json) -> None:
    for piece in tokenizer["post_processor"]["pair"]:
        for place in piece.values():
            place["type_id"] = 0


BERT, XLM, ROBERTA = "BertTokenizer", "XLMRobertaTokenizer", "RobertaTokenizer"
DIGITS = first("pre_tokenizer", "Digits", "pretokenizers", individual_digits=True)
CASES = {
    "NFKC": Case("bert", BERT, first("normalizer", "NFKC")),
    "NFKC, a BPE": Case("roberta", ROBERTA, first("normalizer", "NFKC")),
    "lower case, a BPE": Case("roberta", ROBERTA, first("normalizer", "Lowercase")),
    "NFKC, a Unigram": Case("xlm-roberta", XLM),
    "another replaced word": Case("xlm-roberta", XLM, lambda tokenizer: tokenizer.update(normalizer=_replace("zebra", "horse"))),
    "accents": Case("albert", "AlbertTokenizer"),
    "digits": Case("distilbert", "DistilBertTokenizer", DIGITS),
    "white space alone": Case("mpnet", "MPNetTokenizer", lambda tokenizer: tokenizer.update(pre_tokenizer={"type": "WhitespaceSplit"})),
    "control characters": Case("bert", BERT, sets("normalizer", clean_text=False)),
    "long words": Case("bert", BERT, sets("model", max_input_chars_per_word=10)),
    "longer words": Case("bert", BERT, sets("model", max_input_chars_per_word=150)),
    "a marker behind [CLS]": Case("bert", BERT, marker_behind_cls),
    "two [SEP]": Case("bert", BERT, two_seps),
    "token types of a pair": Case("bert", BERT, one_type),
    "RoFormer": Case("roformer", "RoFormerTokenizer", DIGITS),
    "cased": Case("bert", BERT, sets("normalizer", lowercase=False), differs=(4, 5)),
    "cased, named Fast": Case("bert", "BertTokenizerFast", sets("normalizer", lowercase=False), differs=(4, 5)),
    "cased, no class named": Case("bert", None, sets("normalizer", lowercase=False), differs=(4, 5)),
    "cased by its settings": Case("bert", BERT, settings={"do_lower_case": False}, differs=(4, 5)),
    "accents by its settings": Case("distilbert", "DistilBertTokenizer", settings={"strip_accents": False}, differs=(4, 5)),
    "Chinese by its settings": Case("bert", None, settings={"tokenize_chinese_chars": False}, differs=(4, 5)),
    "a first blank": Case("roberta", ROBERTA, sets("pre_tokenizer", add_prefix_space=True), differs=(4, 5)),
    "a first blank, no own class": Case(
        "modernbert", "PreTrainedTokenizerFast", sets("pre_tokenizer", add_prefix_space=True), differs=(4,)
    ),
    "nothing": Case("bert", BERT, differs=()),
    "nothing, a BPE": Case("roberta", ROBERTA, differs=()),
    "nothing, no own class": Case("xlm-roberta", "PreTrainedTokenizerFast", first("normalizer", "NFKC"), differs=()),
    "another post-processor of the same tokens": Case(
        "bert",
        BERT,
        lambda tokenizer: tokenizer.update(post_processor={"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}),
        differs=(),
    ),
}


def _replace(pattern: str, content: str, *, kind: str = "String") -> Json:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def ids_of_file(folder: Path, texts: Sequence[Text] = TEXTS) -> list[list[int]]:
    return [encoding.ids for encoding in Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(list(texts))]


def ids_of_transformers(folder: Path, texts: Sequence[Text] = TEXTS) -> list[list[int]]:
    ids: list[list[int]] = AutoTokenizer.from_pretrained(folder)(list(texts))["input_ids"]
    return ids


@pytest.mark.parametrize("name", CASES)
def test_what_is_two_is_refused_until_one_is_chosen(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    folder = case.write(tmp_path / "model")
    if TRANSFORMERS in case.differs:
        message = refusal_of(folder)
        assert message.startswith("model has two tokenizers: ")
        assert "] by tokenizer.json and [" in message
        assert f"] by transformers {transformers.__version__} (" in message
        assert "--tokenizer file or --tokenizer transformers" in message
    else:
        assert load_checkpoint(str(folder)).tokenizer_choice is None
    # Those that some version rebuilds say what the file says, or what transformers says, and so does every reader of the bundle.
    expected = {"file": ids_of_file(folder)}
    if case.kind != "RoFormerTokenizer":  # which transformers 4 does not load without Jieba
        expected["transformers"] = ids_of_transformers(folder)
    choices: tuple[TokenizerChoice, ...] = ("file", "transformers")
    for choice in choices:
        checkpoint = load_checkpoint(str(folder), config=ExportConfig(tokenizer=choice))
        bundle = tmp_path / choice
        bundle.mkdir()
        write_companions(checkpoint, bundle)
        check_read_back(checkpoint, bundle)
        if choice in expected:
            assert checkpoint.tokenizer(TEXTS)["input_ids"] == ids_of_file(bundle) == ids_of_transformers(bundle) == expected[choice]


def test_the_message_shows_both_lists_of_tokens(tmp_path: Path) -> None:
    folder = CASES["cased by its settings"].write(tmp_path / "model")
    message = refusal_of(folder)
    assert "'The CAT sat' becomes ['[CLS]" in message
    assert message.count("'[SEP]") == 2


def test_the_file_that_was_chosen_must_be_there(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.get)))
    edit_json(folder / "tokenizer_config.json", {"tokenizer_class": BERT})
    assert refusal_of(folder, ExportConfig(tokenizer="file")).startswith(
        "--tokenizer file: model has no tokenizer.json; leave the option out"
    )
    assert load_checkpoint(str(folder), config=ExportConfig(tokenizer="transformers")).tokenizer_choice == "transformers"


def test_a_file_that_no_bundle_may_have_is_refused_although_transformers_passes_over_it(tmp_path: Path) -> None:
    folder = Case("roberta", ROBERTA, sets("model", dropout=0.1)).write(tmp_path / "model")
    assert "its dropout is 0.1, which gives a text other tokens each time, expected none" in refusal_of(folder)


def test_added_tokens_of_the_other_files_hold_for_the_file_too(tmp_path: Path) -> None:
    folder = Case("bert", BERT, settings={"additional_special_tokens": ["[NEW]"]}).write(tmp_path / "model")
    load_checkpoint(str(folder))
    tokenizer = load_checkpoint(str(folder), config=ExportConfig(tokenizer="file")).tokenizer
    assert "[NEW]" in tokenizer.tokenize("a [NEW] cat")


def test_live_vectors_are_those_of_the_tokenizer_that_was_chosen(tmp_path: Path) -> None:
    folder = CASES["cased"].write(tmp_path / "model")
    choices: tuple[TokenizerChoice, ...] = ("file", "transformers")
    vectors = {
        choice: reference_vectors(str(folder), ["The CAT sat", "the cat sat"], outputs=["cls"], max_length=16, tokenizer=choice)["cls"]
        for choice in choices
    }
    same = {choice: bool(np.array_equal(*rows)) for choice, rows in vectors.items()}
    assert same == {"file": False, "transformers": True}
    with pytest.raises(CheckpointError, match="has two tokenizers"):
        reference_vectors(str(folder), ["a"], outputs=["cls"], max_length=16)
    checkpoint = load_checkpoint(str(folder), config=ExportConfig(tokenizer="file"))
    assert checkpoint_token_ids(checkpoint, TEXTS) == tuple(map(tuple, ids_of_file(folder)))


PAIRS: dict[str, tuple[str, Callable[[Json], object]]] = {
    "a token that takes the blank before it": ("roberta", lambda tokenizer: tokenizer["added_tokens"][-1].update(lstrip=True)),
    "a token that is no part of a word": ("bert", lambda tokenizer: tokenizer["added_tokens"][-1].update(single_word=True)),
    "a token in capitals": ("bert", lambda tokenizer: tokenizer["added_tokens"][-1].update(normalized=True)),
    "a word that is replaced": ("bert", lambda tokenizer: tokenizer.update(normalizer=_replace("zebra", "horse"))),
    "a pattern that is replaced": ("bert", lambda tokenizer: tokenizer.update(normalizer=_replace("ze(b)ra", "horse", kind="Regex"))),
    "a single letter": ("bert", lambda tokenizer: tokenizer.update(normalizer=_replace("ꙮ", "o"))),
    "a rare form of a letter": ("roberta", lambda tokenizer: tokenizer.update(normalizer=_replace("𝔷", "z"))),
    "another script": ("bert", first("pre_tokenizer", "UnicodeScripts", "pretokenizers")),
    "a delimiter": ("bert", first("pre_tokenizer", "CharDelimiterSplit", "pretokenizers", delimiter="q")),
    "words of 320 letters": ("bert", sets("model", max_input_chars_per_word=320)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_texts_are_found_by_what_tokenizers_say_of_themselves(name: str) -> None:
    model_type, change = PAIRS[name]
    plain = json.loads(checkpoints.make_tokenizer(model_type).backend_tokenizer.to_str())
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": False}
    plain["added_tokens"].append({"id": 1000, "content": "cats", **flags})
    plain["normalizer"] = {"type": "Lowercase"}
    other = json.loads(json.dumps(plain))
    change(other)
    tokenizers = [Tokenizer.from_str(json.dumps(content)) for content in (plain, other)]
    assert first_difference(*tokenizers, with_types=False) is not None
    assert first_difference(tokenizers[0], tokenizers[0], with_types=True) is None
