"""The checkpoint's tokenizer files, copied where a tokenizer can be loaded from and nothing else is: by known names, with known settings.

transformers hands every entry of tokenizer_config.json and special_tokens_map.json to the tokenizer's class, and several of them name
files, anywhere. Here those two are written anew, from a list of entries that say how texts are cut and none that says what is read.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cls_exporter.checkpoint.config_fields import as_integer, is_integer
from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.json_data import check_whole
from cls_exporter.checkpoint.weights import some_of
from cls_exporter.errors import CheckpointError, one_line, shown
from cls_runtime.bundle.protocol_buffers import messages

FILE = "tokenizer.json"
VOCABULARIES = (FILE, "vocab.txt", "vocab.json", "merges.txt", "*.model")
SETTINGS, SPECIAL_TOKENS, ADDED_TOKENS = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_VOCABULARY_BYTES = 128 * 2**20  # the largest of the hub's have 35 MB
_VOCABULARY_TOKENS = 2**21  # the largest of the hub's have less than a million
_SPARE_ROWS = 1024  # more than any table was padded by
_SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model")
_JSON_OBJECT = re.compile(rb'\s*\{\s*"[^"\n]+"\s*:')
_TOKEN_CHARACTERS = 1000
_TOKEN_BYTES = 4 * _TOKEN_CHARACTERS
_NO_LIMIT = 10**40  # transformers writes 1e30
_TOKEN_SWITCHES = ("lstrip", "rstrip", "single_word", "normalized", "special")


def _is_switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_word(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= _TOKEN_CHARACTERS)


def _are_words(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _is_token(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get("content"), str) and all(isinstance(value.get(name, False), bool) for name in _TOKEN_SWITCHES)
    return _is_word(value)


def _are_tokens(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return value is None or (isinstance(value, (list, dict)) and all(item is not None and _is_token(item) for item in items))


def _are_token_ids(value: Any) -> bool:
    return isinstance(value, dict) and all(key.isdecimal() and isinstance(item, dict) and _is_token(item) for key, item in value.items())


_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SPECIAL: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_TOKENS, _is_token),
    **dict.fromkeys(("additional_special_tokens", "extra_special_tokens"), _are_tokens),
}
_LIMITS = ("model_max_length", "max_len")
_KNOWN: Mapping[str, Callable[[Any], bool]] = {
    **_SPECIAL,
    "added_tokens_decoder": _are_token_ids,
    **dict.fromkeys(("do_lower_case", "do_basic_tokenize", "tokenize_chinese_chars", "handle_chinese_chars", "strip_accents"), _is_switch),
    **dict.fromkeys(("clean_text", "clean_up_tokenization_spaces", "add_prefix_space", "trim_offsets", "legacy"), _is_switch),
    **dict.fromkeys(
        ("split_special_tokens", "keep_accents", "remove_space", "split_by_punct", "add_bos_token", "add_eos_token"), _is_switch
    ),
    **dict.fromkeys(("errors", "padding_side", "truncation_side", "wordpieces_prefix", "tokenizer_class", "vocab_type"), _is_word),
    **dict.fromkeys(("src_lang", "tgt_lang"), _is_word),
    **dict.fromkeys(("model_input_names", "never_split"), _are_words),
    **dict.fromkeys(("unk_id", "pad_token_type_id"), lambda value: value is None or is_integer(as_integer(value), 0)),
    **dict.fromkeys(_LIMITS, lambda value: value is None or is_integer(as_integer(value), 1, _NO_LIMIT)),
}
_INTEGERS = ("unk_id", "pad_token_type_id", *_LIMITS)
_EXPECTED: Mapping[str, str] = dict.fromkeys(_LIMITS, "an integer above 0, or null")
# Written beside the others by some version of transformers; they say where files were, how a chat is written, or what no bundle does.
_WITHOUT_EFFECT = (
    *("auto_map", "backend", "chat_template", "device_map", "fast_tokenizer_files", "is_local", "local_files_only", "max_length"),
    *("name_or_path", "pad_to_multiple_of", "padding", "processor_class", "special_tokens_map_file", "stride", "tokenizer_config_file"),
    *("truncation", "truncation_strategy", "use_fast", "_commit_hash", "_from_auto"),
)
# What a tokenizer's class takes its vocabulary from. Without a value they are common.
_READS = ("vocab", "merges", "init_inputs", "sp_model", "sp_model_kwargs")


@contextlib.contextmanager
def staged_tokenizer(folder: CheckpointFolder) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A temporary folder with the checkpoint's tokenizer files, and notes for the report on what was left out; it is removed afterwards.

    Raises:
        CheckpointError: a file is no regular one inside the checkpoint, an entry is of another type than transformers writes, or an entry
            names a file to read.
    """
    with tempfile.TemporaryDirectory(prefix="cls-export-tokenizer-") as name:
        stage = Path(name)
        for vocabulary in vocabulary_files(folder):
            content = folder.read(vocabulary, limit_bytes=_VOCABULARY_BYTES)
            _check_content(content, vocabulary, folder)
            (stage / vocabulary).write_bytes(content)
        notes = _write(folder, SETTINGS, stage, known=_KNOWN)
        notes += _write(folder, SPECIAL_TOKENS, stage, known=_SPECIAL)
        if folder.has(ADDED_TOKENS):
            added = {token: as_integer(number) for token, number in folder.json_object(ADDED_TOKENS).items()}
            if not all(is_integer(value, 0) for value in added.values()):
                raise CheckpointError(
                    f"{ADDED_TOKENS} in {folder.name} is not an object of tokens and their ids; fetch the checkpoint again"
                )
            _write_json(stage / ADDED_TOKENS, added)
        model = folder.json_object("config.json")
        _write_json(
            stage / "config.json", {key: model[key] for key in ("model_type", "tokenizer_class") if isinstance(model.get(key), str)}
        )
        yield stage, notes


def vocabulary_files(folder: CheckpointFolder) -> list[str]:
    """The names of the files that hold the tokenizer's vocabulary."""
    return [name for name in folder.names() if any(fnmatch.fnmatchcase(name, pattern) for pattern in VOCABULARIES)]


def _check_content(content: bytes, name: str, folder: CheckpointFolder) -> None:
    """Refuses a vocabulary that is cut short or of another form, which libraries would answer with whatever they stumble over."""
    try:
        if name.endswith(".json"):
            check_whole(content)
        elif name in _SENTENCEPIECE:
            list(messages(content, (0, len(content))))
        elif _JSON_OBJECT.match(content):
            raise ValueError("it holds JSON; expected one token per line")
        elif name == "vocab.txt":
            _check_lines(content, folder)
    except (ValueError, RecursionError, IndexError) as error:
        reason = "it is cut short" if isinstance(error, IndexError) else one_line(error)
        raise CheckpointError(f"{name} in {folder.name} is not a readable vocabulary ({reason}); fetch the checkpoint again") from None


def _check_lines(content: bytes, folder: CheckpointFolder) -> None:
    """Holds a list of tokens to what tokens are, and one that ends within a line to the size of the vocabulary in config.json."""
    tokens = content.count(b"\n") + 1
    if tokens > _VOCABULARY_TOKENS:
        raise ValueError(f"it has {tokens:,} lines; expected at most {_VOCABULARY_TOKENS:,}, one token per line")
    longest = max(map(len, content.splitlines()))
    if longest > _TOKEN_BYTES:
        raise ValueError(f"a line has {longest:,} bytes; expected a token of at most {_TOKEN_BYTES:,}")
    if content.endswith(b"\n"):
        return
    rows = as_integer(folder.json_object("config.json").get("vocab_size"))
    if is_integer(rows, 1) and tokens + _SPARE_ROWS < rows:
        raise ValueError(f"it is cut short: it ends within a line, after {tokens} tokens of the {rows} in config.json")


def read_tokenizer_json(folder: CheckpointFolder) -> bytes:
    """The folder's tokenizer.json.

    Raises:
        CheckpointError: it is no regular file inside the checkpoint.
    """
    return folder.read(FILE, limit_bytes=_VOCABULARY_BYTES)


def _write(folder: CheckpointFolder, name: str, stage: Path, *, known: Mapping[str, Callable[[Any], bool]]) -> tuple[str, ...]:
    """Writes what is known of a file's entries, and notes what is not."""
    if not folder.has(name):
        return ()
    kept: dict[str, Any] = {}
    unknown: list[str] = []
    for key, value in folder.json_object(name).items():
        if key in known:
            if not known[key](value):
                expected = _EXPECTED.get(key, "what save_pretrained() writes there")
                raise CheckpointError(f"{name} in {folder.name} has {key} {shown(value)}; expected {expected}")
            kept[key] = as_integer(value) if key in _INTEGERS else value
        elif key not in _WITHOUT_EFFECT:
            if value and (key in _READS or key.endswith("_file")):
                raise CheckpointError(
                    f"{name} in {folder.name} has {shown(key)} {shown(value)}, which names what to read; a tokenizer is read only from the "
                    "files beside it, by their usual names; remove the entry in a copy"
                )
            unknown.append(key)
    _write_json(stage / name, kept)
    without_value = ("_file", *_READS)
    told = sorted(key for key in unknown if not key.endswith(without_value))
    return (f"left out of {name}, not known to change tokens: {some_of(told)}",) if told else ()


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
