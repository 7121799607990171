"""The tokenizer's files as transformers reads them from the bundle: they must give its tokens there too."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.checkpoint.tokenizer_probes import PROBES, Difference, first_difference
from cls_exporter.errors import UnsupportedError


def check_read_back(checkpoint: Checkpoint, folder: Path) -> None:
    """Holds what `AutoTokenizer` makes of the files in `folder` to the checkpoint's tokenizer.

    transformers 4 has some tokenizers in a second form, written in Python, for those who ask for `use_fast=False`.

    Raises:
        UnsupportedError: a text gets other tokens.
    """
    own = checkpoint.tokenizer.backend_tokenizer
    own.no_truncation()  # transformers leaves it on a tokenizer that has cut a text, and the file in the bundle has none
    own.no_padding()
    read: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    difference = first_difference(own, read.backend_tokenizer, with_types="token_type_ids" in checkpoint.inputs)
    if difference is None and getattr(read, "slow_tokenizer_class", None) is not None and (folder / "vocab.txt").exists():
        read = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=False)
        difference = _first_difference_in_python(own, read)
    if difference is not None:
        words = difference.in_words("the checkpoint's tokenizer", f"transformers {transformers.__version__} ({type(read).__name__})")
        raise UnsupportedError(
            f"the tokenizer of {checkpoint.name} is not the same when it is read from the bundle: {words}; supported is what one of "
            "transformers' classes reads back; please report it"
        )


def _first_difference_in_python(own: Tokenizer, read: Any) -> Difference | None:
    for text in PROBES:
        parts = (text,) if isinstance(text, str) else text
        if any(not unicodedata.is_normalized("NFC", part) for part in parts):
            continue  # this form puts a letter and its accent together first, of every checkpoint
        encoding, ids = own.encode(*parts), read(*parts)["input_ids"]
        if encoding.ids != list(ids):
            return Difference(text, tuple(encoding.tokens), tuple(read.convert_ids_to_tokens(ids)))
    return None
