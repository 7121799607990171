"""Small random checkpoints of every family, with a tokenizer each, for tests.

They are as transformers saves them, so what a test does to one (a prefix, a missing file) is all that is wrong with it. Hidden size 32,
two layers, a vocabulary of a few hundred tokens; every parameter is moved off its initial value, so that none is mistaken for another.
"""

from __future__ import annotations

import json
import string
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from cls_exporter.graph.families import FAMILIES

Kind = Literal["encoder", "masked_lm", "pretraining", "classifier"]
HIDDEN = 32
MAX_POSITIONS = 64
WORDS = ("the", "cat", "sat", "on", "mat", "dog", "runs", "fast", "a", "hello", "world", "model", "vector", "of", "text")

# What the families' models are known to do, for tests: they take token_type_ids, their first two positions are taken.
TAKE_TOKEN_TYPES = ("bert", "electra", "ernie", "roformer", "albert")
SHORTER_BY_TWO = ("roberta", "xlm-roberta", "camembert", "mpnet")

_ROBERTA_LIKE = SHORTER_BY_TWO  # their tokenizers are alike too
_TOKEN_TYPES = ("bert", "electra", "ernie", "roformer", "albert", "deberta-v2")


def small_config(model_type: str, *, changes: Mapping[str, Any] | None = None) -> Any:
    """A configuration of the family, small enough for a test; `changes` are further fields."""
    size: dict[str, Any] = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": MAX_POSITIONS,
    }
    if model_type == "distilbert":
        size = {"dim": HIDDEN, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": MAX_POSITIONS}
    special = special_ids(model_type)
    size |= {"vocab_size": len(_tokenizer(model_type).get_vocab()) + 3, "pad_token_id": special["pad"]}
    if model_type in ("roberta", "xlm-roberta", "camembert"):
        size |= {"type_vocab_size": 1}
    if model_type in ("electra", "albert"):
        size |= {"embedding_size": 24}
    if model_type == "electra":
        size |= {"num_hidden_layers": 3}
    if model_type == "deberta-v2":
        size |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "max_relative_positions": -1}
        size |= {"position_biased_input": False, "type_vocab_size": 0, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
        size |= {"pooler_hidden_size": HIDDEN}
    if model_type == "modernbert":
        # A layer that sees all tokens, one with a window that is whole, one with a window and one query.
        size |= {"num_hidden_layers": 3, "global_attn_every_n_layers": 3, "local_attention": 8}
        size |= {"cls_token_id": special["cls"], "sep_token_id": special["sep"]}
        size |= {"bos_token_id": special["cls"], "eos_token_id": special["sep"]}
    return AutoConfig.for_model(model_type, **{**size, **(changes or {})})


def special_ids(model_type: str) -> dict[str, int]:
    """The ids of `pad`, `cls`, `sep` and `unk` in the family's tokenizer."""
    vocabulary = _tokenizer(model_type).get_vocab()
    pad, cls, sep, unk = _special_tokens(model_type)[:4]
    return {"pad": vocabulary[pad], "cls": vocabulary[cls], "sep": vocabulary[sep], "unk": vocabulary[unk]}


def make_tokenizer(model_type: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the family's kind: WordPiece, byte-level BPE or Unigram, with the family's special tokens and inputs."""
    pad, cls, sep, unk, mask = _special_tokens(model_type)
    kinds = ["token_type_ids"] if model_type in _TOKEN_TYPES else []
    fast: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = fast(
        tokenizer_object=_tokenizer(model_type),
        pad_token=pad,
        cls_token=cls,
        sep_token=sep,
        unk_token=unk,
        mask_token=mask,
        model_input_names=["input_ids", *kinds, "attention_mask"],
    )
    return tokenizer


def make_checkpoint(
    folder: Path,
    model_type: str = "bert",
    *,
    kind: Kind = "encoder",
    labels: int = 2,
    trained: bool = True,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Writes a checkpoint with its tokenizer, as save_pretrained() does, and returns `folder`.

    `trained=False` leaves every parameter as transformers initializes it.
    """
    config = small_config(model_type, changes={"num_labels": labels, **(changes or {})} if kind == "classifier" else changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model_class(kind).from_config(config)
        if trained:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.05)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    make_tokenizer(model_type).save_pretrained(folder)
    return folder


def _model_class(kind: Kind) -> Any:
    return {
        "encoder": AutoModel,
        "masked_lm": AutoModelForMaskedLM,
        "pretraining": transformers.AutoModelForPreTraining,
        "classifier": AutoModelForSequenceClassification,
    }[kind]


def read_weights_of(folder: Path) -> dict[str, Tensor]:
    """The checkpoint's state dict as stored."""
    return load_file(folder / "model.safetensors")


def write_weights_of(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replaces the checkpoint's state dict."""
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")


def edit_json(path: Path, changes: Mapping[str, Any], *, remove: Sequence[str] = ()) -> None:
    """Sets and removes fields of a JSON object; the file may be new."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content = {name: value for name, value in {**content, **changes}.items() if name not in remove}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def add_sentence_modules(folder: Path, *, pooling: Mapping[str, Any] | None, modules: Sequence[tuple[str, str]] = ()) -> None:
    """Makes `folder` a sentence-transformers one in the older schema; `modules` are (class name, path) after a pooling, if any."""
    listed = [("Transformer", ""), *([] if pooling is None else [("Pooling", "1_Pooling")]), *modules]
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(listed)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    if pooling is not None:
        edit_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, **pooling})


def all_families() -> tuple[str, ...]:
    """The model types of the table."""
    return tuple(FAMILIES)


def families(*, always: Collection[str]) -> list[Any]:
    """Every family as a test's parameter; those that are not in `always` are slow."""
    return [name if name in always else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


def _special_tokens(model_type: str) -> tuple[str, str, str, str, str]:
    if model_type in _ROBERTA_LIKE:
        return ("<pad>", "<s>", "</s>", "[UNK]" if model_type == "mpnet" else "<unk>", "<mask>")
    if model_type == "albert":
        return ("<pad>", "[CLS]", "[SEP]", "<unk>", "[MASK]")
    return ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")


def _tokenizer(model_type: str) -> Tokenizer:
    pad, cls, sep, unk, mask = _special_tokens(model_type)
    special = [cls, pad, sep, unk, mask] if model_type in _ROBERTA_LIKE else [pad, unk, cls, sep, mask]
    if model_type in ("roberta", "modernbert"):
        tokenizer = _byte_level(special)
    elif model_type in ("xlm-roberta", "camembert", "albert", "deberta-v2"):
        tokenizer = _unigram(special, unk)
    else:
        tokenizer = _word_piece(special, unk)
    second = 1 if model_type in _TOKEN_TYPES else 0
    middle = f"{sep} {sep}" if model_type in _ROBERTA_LIKE else sep
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 " + " ".join(f"{token}:0" for token in middle.split()) + f" $B:{second} {sep}:{second}",
        special_tokens=[(cls, special.index(cls)), (sep, special.index(sep))],
    )
    return tokenizer


def _word_piece(special: list[str], unk: str) -> Tokenizer:
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = [*special, *letters, *(f"##{letter}" for letter in string.ascii_lowercase + string.digits), *WORDS]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _byte_level(special: list[str]) -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("o", "n"), ("Ġ", "a")]
    tokens = [*special, *letters, *(left + right for left, right in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _unigram(special: list[str], unk: str) -> Tokenizer:
    pieces = [*((token, 0.0) for token in special)]
    pieces += [(f"▁{word}", -2.0) for word in WORDS] + [("▁", -3.0)]
    pieces += [(letter, -5.0) for letter in string.ascii_letters + string.digits + string.punctuation]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special.index(unk), byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer
