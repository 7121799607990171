"""The bundle's own files as transformers and sentence-transformers read them: they must mean there what was read of the checkpoint."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.checkpoint.reference import PROMPT_MASK
from cls_exporter.checkpoint.sentence_model import CannotAskError, behind_the_encoder, version
from cls_exporter.checkpoint.sentence_use import UNSAID_PROMPTS
from cls_exporter.checkpoint.tokenizer_probes import PROBES, Difference, first_difference
from cls_exporter.errors import UnsupportedError, shown


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
        raise UnsupportedError(f"the tokenizer of {checkpoint.name} changes when it is read from the bundle: {words}; please report it")


def _first_difference_in_python(own: Tokenizer, read: Any) -> Difference | None:
    for text in PROBES:
        parts = (text,) if isinstance(text, str) else text
        if any(not unicodedata.is_normalized("NFC", part) for part in parts):
            continue  # this form puts a letter and its accent together first, of every checkpoint
        encoding, ids = own.encode(*parts), read(*parts)["input_ids"]
        if encoding.ids != list(ids):
            return Difference(text, tuple(encoding.tokens), tuple(read.convert_ids_to_tokens(ids)))
    return None


def check_sentence_files(checkpoint: Checkpoint, folder: Path) -> None:
    """Holds what sentence-transformers, where it is installed, makes of the files in `folder` to the checkpoint.

    That is what it does to rows of the last layer, and what it knows of prompts and vectors; of a checkpoint of its own kind only.

    Raises:
        UnsupportedError: it reads anything else.
    """
    if checkpoint.source_pooling.mode is None:
        return
    try:
        with behind_the_encoder(folder) as model:
            differences = [words for words in (_rows_in_words(checkpoint, model), _use_in_words(checkpoint, model)) if words]
    except CannotAskError:
        return  # the report says already that it was not asked
    if differences:
        raise UnsupportedError(
            f"sentence-transformers {version()} reads the bundle of {checkpoint.name} differently: {'; '.join(differences)}; "
            "please report it"
        )


def _rows_in_words(checkpoint: Checkpoint, model: Any) -> str:
    """What is wrong with what its modules make of output 0 of two texts, of five tokens and of three; a prompt takes the first two."""
    hidden, ours = int(checkpoint.config.hidden_size), checkpoint.model
    mask, prompt_length = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]), {} if ours.include_prompt else {"prompt_length": 2}
    rows = torch.arange(2 * 5 * hidden).reshape(2, 5, hidden).sin()
    marked = mask.clone()
    if not ours.include_prompt:
        marked[:, :2] = PROMPT_MASK
    with torch.inference_mode():
        expected = ours.sentence(rows, rows[:, 0], marked)
        given = rows if checkpoint.token_rows else expected[:, None]
        features: dict[str, Any] = {
            "token_embeddings": given,
            "attention_mask": mask,
            **prompt_length,
        }
        for module in model:
            features = module(features)
        if checkpoint.source_pooling.normalize:
            expected = torch.nn.functional.normalize(expected)
        found = features["sentence_embedding"]
    same = found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5)
    return "" if same else f"its modules make {shown(found[0].tolist())} of what the graph gives, expected {shown(expected[0].tolist())}"


def _use_in_words(checkpoint: Checkpoint, model: Any) -> str:
    """What is wrong with what it knows of texts and vectors."""
    use, prompts = checkpoint.use, {**model.prompts}
    found = (prompts, prompts.get(model.default_prompt_name, ""), model.truncate_dim, model.similarity_fn_name)
    unsaid = dict.fromkeys(prompts.keys() & {*UNSAID_PROMPTS}, "")
    expected = ({**unsaid, **use.prompts}, use.default_prompt, use.truncate_dim, use.similarity_fn_name or "cosine")
    return (
        ""
        if found == expected
        else f"its prompts, default prompt, truncate_dim and similarity are {shown(found)}, expected {shown(expected)}"
    )
