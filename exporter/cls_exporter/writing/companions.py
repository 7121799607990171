"""The files beside the graph: configuration, tokenizer, and what sentence-transformers reads (`writing.sentence_files`).

They are what other programs read (docs/reference/bundle.md says which reads what), so they are written in the oldest schema that all of
them know, and here alone: what transformers itself writes changes with its versions. The same checkpoint gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.writing.sentence_files import write_json, write_sentence_files

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Machine paths, code, and how the weights were stored: none of it is true of the bundle.
_NOT_OURS = (
    "_name_or_path",
    "auto_map",
    "torch_dtype",
    "dtype",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
)


def write_companions(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes every companion file of the bundle into the existing `folder`."""
    tokenizer = json.loads(checkpoint.tokenizer_json)
    write_json(folder / "config.json", _config(checkpoint))
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8", newline="\n")
    write_json(folder / "tokenizer_config.json", _tokenizer_config(checkpoint, tokenizer))
    write_json(folder / "special_tokens_map.json", _special_tokens(checkpoint))
    if tokenizer["model"].get("type") == "WordPiece":
        _write_vocabulary(folder / "vocab.txt", tokenizer["model"]["vocab"])
    write_sentence_files(checkpoint, folder)


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    fields = {name: value for name, value in checkpoint.stored_config.items() if name not in _NOT_OURS}
    fields["architectures"] = [checkpoint.architecture.encoder_class]
    fields["model_type"] = checkpoint.architecture.model_type
    if checkpoint.labels:
        fields["id2label"] = {str(index): label for index, label in enumerate(checkpoint.labels)}
        fields["label2id"] = {label: index for index, label in enumerate(checkpoint.labels)}
    return fields


def _tokenizer_config(checkpoint: Checkpoint, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    names = ["input_ids", *(["token_type_ids"] if "token_type_ids" in checkpoint.inputs else []), "attention_mask"]
    return {
        **_tokenizer_class(checkpoint, tokenizer),
        **_special_tokens(checkpoint),
        "model_max_length": checkpoint.max_length,
        "model_input_names": names,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
    }


def _tokenizer_class(checkpoint: Checkpoint, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """The class that a reader builds, with the switches that make it build this tokenizer.

    `PreTrainedTokenizerFast` takes tokenizer.json as it is, but for a first blank, which transformers 4 leaves out unless it is told.
    transformers.js makes token_type_ids only for classes that it knows to have them, so a plain BERT tokenizer is called that.
    """
    if _is_plain_bert(checkpoint, tokenizer):
        normalizer = tokenizer["normalizer"]
        return {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": normalizer["lowercase"],
            "strip_accents": normalizer.get("strip_accents"),
            "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
        }
    starts_with_blank = (tokenizer.get("pre_tokenizer") or {}).get("add_prefix_space")
    return {"tokenizer_class": "PreTrainedTokenizerFast", **({"add_prefix_space": True} if starts_with_blank else {})}


def _is_plain_bert(checkpoint: Checkpoint, tokenizer: Mapping[str, Any]) -> bool:
    """Whether transformers 5, which builds a BertTokenizer from its vocabulary, and 4's form in Python both make this tokenizer."""
    normalizer, splitter, model = tokenizer.get("normalizer") or {}, tokenizer.get("pre_tokenizer") or {}, tokenizer["model"]
    return (
        "token_type_ids" in checkpoint.inputs
        and normalizer.get("type") == "BertNormalizer"
        and normalizer.get("clean_text") is True
        and splitter.get("type") == "BertPreTokenizer"
        and model.get("type") == "WordPiece"
        and model.get("unk_token") == checkpoint.tokenizer.unk_token
        and model.get("continuing_subword_prefix") == "##"
        and model.get("max_input_chars_per_word") == 100
        and not any(token.get("single_word") for token in tokenizer.get("added_tokens") or ())
        and _adds_what_bert_adds(checkpoint.tokenizer, tokenizer.get("post_processor") or {})
    )


def _adds_what_bert_adds(tokenizer: PreTrainedTokenizerFast, processor: Mapping[str, Any]) -> bool:
    """Whether a text becomes [CLS] A [SEP] and a pair [CLS] A [SEP] B [SEP], by either post-processor that says so."""
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    ids = {cls: tokenizer.cls_token_id, sep: tokenizer.sep_token_id}
    if processor.get("type") == "BertProcessing":
        return (processor["cls"], processor["sep"]) == ([cls, ids[cls]], [sep, ids[sep]])
    single = [_placed("SpecialToken", cls, 0), _placed("Sequence", "A", 0), _placed("SpecialToken", sep, 0)]
    pair = [*single, _placed("Sequence", "B", 1), _placed("SpecialToken", sep, 1)]
    return (processor.get("single"), processor.get("pair")) == (single, pair) and all(
        processor["special_tokens"][token]["ids"] == [number] for token, number in ids.items()
    )


def _placed(kind: str, name: str | None, type_id: int) -> dict[str, Any]:
    return {kind: {"id": name, "type_id": type_id}}


def _special_tokens(checkpoint: Checkpoint) -> dict[str, str]:
    tokens = {name: getattr(checkpoint.tokenizer, name) for name in _SPECIAL_TOKENS}
    return {name: str(token) for name, token in tokens.items() if token is not None}


def _write_vocabulary(path: Path, vocabulary: Mapping[str, int]) -> None:
    """A line a token, in the order of ids, where the ids leave no gap and no token ends a line: a line's number is its id."""
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    if [vocabulary[token] for token in tokens] == list(range(len(tokens))) and not any({*token} & {*"\r\n"} for token in tokens):
        path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
