"""The checkpoint's tokenizer, as one whose whole behaviour fits in tokenizer.json."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.tokenizer_checks import check_first_token, check_settings, check_words, readable
from cls_exporter.checkpoint.tokenizer_choice import chosen_tokenizer, with_backend
from cls_exporter.checkpoint.tokenizer_files import FILE, SETTINGS, staged_tokenizer, vocabulary_files
from cls_exporter.errors import CheckpointError, UnsupportedError, as_checkpoint_error, shown
from cls_runtime.bundle.manifest import TokenizerChoice

# transformers writes 1e30 for "no limit".
_NO_LIMIT = 10**9
_SEVERAL_HAN = re.compile(r"[\u4e00-\u9fff]{2}")


@dataclass(frozen=True)
class LoadedTokenizer:
    """A fast tokenizer that pads on the right, the serialized form that a bundle gets, and notes for the report.

    `emits_token_types` says that its output has token_type_ids; `largest_token_type` is the largest that a pair of texts gets.
    """

    tokenizer: PreTrainedTokenizerFast
    serialized: str
    emits_token_types: bool
    largest_token_type: int
    limit: int | None
    notes: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of the bundle's tokenizer.json."""
        return hashlib.sha256(self.serialized.encode()).hexdigest()


def load_tokenizer(
    folder: CheckpointFolder, *, trust_remote_code: bool, lowercase: bool, choice: TokenizerChoice | None = None
) -> LoadedTokenizer:
    """Loads the tokenizer, converting a slow one.

    Args:
        folder: the checkpoint's.
        trust_remote_code: run the checkpoint's own code, where it has a tokenizer in it.
        lowercase: sentence-transformers lowercases texts before this tokenizer sees them.
        choice: which is taken where tokenizer.json and transformers give texts other tokens.

    Raises:
        CheckpointError: there is none, it cannot be read or converted, it has no vocabulary, it does not put one fixed token first, or it
            is two in one and `choice` is None.
        UnsupportedError: what it does cannot be written in tokenizer.json.
    """
    # Code of the checkpoint's own is trusted with everything, and reads the files that it came with.
    runs_code = trust_remote_code and any(folder.json_object(name).get("auto_map") for name in (SETTINGS, "config.json"))
    if not vocabulary_files(folder) and not runs_code:
        found = f"no vocabulary beside {SETTINGS}" if folder.has(SETTINGS) else "no tokenizer"
        raise CheckpointError(f"{folder.name} has {found}; expected tokenizer.json or vocab.txt beside the weights; save it there")
    with (
        staged_tokenizer(folder) as (stage, notes),
        as_checkpoint_error(
            lambda reason: (
                f"the tokenizer of {folder.name} cannot be loaded ({reason}); expected one that transformers' "
                "AutoTokenizer loads; save it again with save_pretrained()"
            ),
            hidden=f"{stage}/",
        ),
    ):
        made = _load(folder.path if runs_code else stage, folder, trust_remote_code=runs_code)
        made.backend_tokenizer.no_truncation()
        made.backend_tokenizer.no_padding()
        check_settings(made, folder.name)
        tokenizer = chosen_tokenizer(made, folder, choice)
        return _understood(tokenizer, folder, lowercase=lowercase, notes=notes)


def _understood(
    tokenizer: PreTrainedTokenizerFast, folder: CheckpointFolder, *, lowercase: bool, notes: tuple[str, ...]
) -> LoadedTokenizer:
    """Makes the tokenizer pad on the right, tries it on a few texts, and takes from it what a bundle needs."""
    backend = readable(tokenizer.backend_tokenizer.to_str().encode(), folder.name)
    if not folder.has(FILE):
        notes += ("tokenizer.json was missing and was made from the other tokenizer files",)
    if tokenizer.padding_side != "right":
        notes += ("the tokenizer padded on the left; a bundle pads on the right, so that row 0 is the CLS token",)
        tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        raise CheckpointError(
            f"the tokenizer of {folder.name} has no pad_token, so texts cannot be batched; add it to tokenizer_config.json"
        )
    check_words(tokenizer, folder.name)
    check_first_token(tokenizer, folder.name)
    if lowercase and (backend.normalizer is None or backend.normalizer.normalize_str("A") != "a"):
        raise CheckpointError(
            "sentence-transformers lowercases texts before this tokenizer (do_lower_case in sentence_bert_config.json) and the "
            "tokenizer does not; vectors of texts with capitals would differ; add a Lowercase normalizer to tokenizer.json"
        )
    pair = tokenizer("a", "a")
    types = pair.get("token_type_ids")
    limit = tokenizer.model_max_length
    return LoadedTokenizer(
        tokenizer=tokenizer,
        serialized=backend.to_str(pretty=True),
        emits_token_types=types is not None,
        largest_token_type=max(types or [0]),
        limit=int(limit) if limit is not None and 0 < limit < _NO_LIMIT else None,
        notes=notes,
    )


def _load(files: Path, folder: CheckpointFolder, *, trust_remote_code: bool) -> PreTrainedTokenizerFast:
    """The tokenizer that transformers makes of the folder `files`; `folder` is the checkpoint's own, for what it says and its name."""
    kind = folder.json_object(SETTINGS).get("tokenizer_class") or ""
    if kind.startswith("RoFormer") or (not kind and folder.json_object("config.json").get("model_type") == "roformer"):
        return _load_roformer(files, folder.name)
    if kind == "TokenizersBackend":
        # transformers 5 writes this name, transformers 4 does not know it.
        backend: Any = PreTrainedTokenizerFast
        tokenizer: PreTrainedTokenizerFast = backend.from_pretrained(files, local_files_only=True)
        return tokenizer
    loaded: Any = AutoTokenizer.from_pretrained(files, trust_remote_code=trust_remote_code, local_files_only=True)
    return loaded if isinstance(loaded, PreTrainedTokenizerFast) else _converted(loaded, folder.name)


def _converted(slow: Any, name: str) -> PreTrainedTokenizerFast:
    from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS, convert_slow_tokenizer

    if type(slow).__name__ not in SLOW_TO_FAST_CONVERTERS:
        raise UnsupportedError(
            f"the tokenizer of {name} is a {type(slow).__name__}, written in Python, which cannot be converted to tokenizer.json; "
            "expected a fast tokenizer"
        )
    return with_backend(convert_slow_tokenizer(slow), slow)


def _load_roformer(files: Path, name: str) -> PreTrainedTokenizerFast:
    """RoFormer's own tokenizer cuts Chinese words with Jieba, which no tokenizer.json can say; characters alone need no Jieba."""
    # Any: transformers 5 exports this name at run time only.
    library: Any = transformers
    tokenizer: PreTrainedTokenizerFast = library.BertTokenizerFast.from_pretrained(files, local_files_only=True)
    words = [token for token in tokenizer.get_vocab() if _SEVERAL_HAN.search(token)]
    if words:
        raise UnsupportedError(
            f"the tokenizer of {name} cuts Chinese words with Jieba (its vocabulary has {len(words)} of them, such "
            f"as {shown(words[0])}), which tokenizer.json cannot express; supported are RoFormer models whose vocabulary holds single "
            "Chinese characters"
        )
    return tokenizer
