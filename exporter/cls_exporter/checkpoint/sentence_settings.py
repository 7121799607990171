"""What sentence_bert_config.json, or one of its older names, says of the Transformer module: how the encoder and its tokenizer are loaded.

sentence-transformers hands three of its entries on to transformers, each under an older and a newer name: what the model, the tokenizer and
the configuration are loaded with. What of it decides vectors is followed here exactly, or refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cls_exporter.checkpoint.config_fields import FOLLOWED_FIELDS, as_integer, is_integer
from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.tokenizer_files import SETTINGS
from cls_exporter.checkpoint.weights import shown_name
from cls_exporter.errors import CheckpointError, UnsupportedError, shown

# sentence-transformers takes the first that holds anything.
TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
# (older name, newer name); where both are there, the older one wins.
_MODEL, _TOKENIZER, _CONFIGURATION = (
    ("model_args", "model_kwargs"),
    ("tokenizer_args", "processor_kwargs"),
    ("config_args", "config_kwargs"),
)
_TASKS = {"feature-extraction": ("last_hidden_state", "token_embeddings"), "sequence-classification": ("logits", "scores")}
# sentence-transformers replaces them by its caller's, so that a folder says nothing with them.
_CALLERS = ("cache_dir", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")
# How weights are stored, where they are computed and by which kernel: an export computes in fp32, the same numbers.
_OF_STORAGE = (
    "add_pooling_layer",
    "attn_implementation",
    "_attn_implementation",
    "device_map",
    "dtype",
    "low_cpu_mem_usage",
    "torch_dtype",
)
# What an encoder gives beside its vectors, and how.
_BESIDE_VECTORS = ("output_attentions", "output_hidden_states", "use_cache")
_PLAIN = ("max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name", "processing_kwargs")
# Without a value they say nothing; with one they change texts of some kind, or where files come from.
_ONLY_EMPTY = ("query_length", "document_length", "query_expansion", "tokenizer_name_or_path", "cache_dir")
_WITHOUT_EFFECT = ("unpad_inputs", "backend")
_KNOWN = {*_MODEL, *_TOKENIZER, *_CONFIGURATION, *_PLAIN, *_ONLY_EMPTY, *_WITHOUT_EFFECT}


@dataclass(frozen=True, kw_only=True)
class TransformerSettings:
    """How sentence-transformers loads the encoder and its tokenizer.

    Attributes:
        file: the file's name, for messages.
        max_length: the longest text in tokens, whatever the tokenizer says; None leaves it to the tokenizer and the model.
        lowercase: texts are lowercased before the tokenizer.
        classifies: the Transformer module gives a classifier's logits, as a CrossEncoder's does.
        changes: fields of config.json that are replaced.
        unknown: entries that are none of those that are known, with their file's name.
    """

    file: str
    max_length: int | None
    lowercase: bool
    classifies: bool
    changes: Mapping[str, Any]
    unknown: tuple[str, ...]


def read_transformer_settings(folder: CheckpointFolder) -> TransformerSettings:
    """Reads the settings in the encoder's folder; where there is no file, nothing is changed.

    Raises:
        CheckpointError: an entry is of no type that it can have.
        UnsupportedError: an entry changes vectors in a way that is not followed.
    """
    file = next((name for name in TRANSFORMER_CONFIGS if folder.has(name) and folder.json_object(name)), TRANSFORMER_CONFIGS[0])
    settings = folder.json_object(file)
    for key in _ONLY_EMPTY:
        if settings.get(key) not in (None, "", {}):
            raise UnsupportedError(f"{file} has {key} {shown(settings[key])}, which a bundle cannot do; expected none")
    task = _task(settings, file)
    _check_processing(settings, file)
    _check_arguments(settings, _MODEL, file, accepts=_says_how_weights_are_stored)
    limit = _limits(settings, file, folder)
    changes = _check_arguments(settings, _CONFIGURATION, file, accepts=_is_followed_or_beside, stored=folder.json_object("config.json"))
    return TransformerSettings(
        file=file,
        max_length=limit,
        lowercase=settings.get("do_lower_case") is not None and switch(settings, "do_lower_case", file, default=False),
        classifies=task == "sequence-classification",
        changes={key: value for key, value in changes.items() if key in FOLLOWED_FIELDS},
        unknown=unknown_keys(settings, _KNOWN, file),
    )


def switch(settings: Mapping[str, Any], key: str, where: str, *, default: bool) -> bool:
    """An entry that is true or false.

    Raises:
        CheckpointError: it is anything else.
    """
    value = settings.get(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"{where} has {key} {shown(value)}; expected true or false")
    return value


def check_sentence_embedding(settings: Mapping[str, Any], where: str) -> None:
    """Refuses a module that reads or writes anything else than the sentence embedding.

    Raises:
        UnsupportedError: it does.
    """
    if any(settings.get(key) not in (None, "sentence_embedding") for key in ("module_input_name", "module_output_name")):
        raise UnsupportedError(f"{where} does not read and write sentence_embedding; supported is only that")


def unknown_keys(settings: Mapping[str, Any], known: set[str], where: str) -> tuple[str, ...]:
    """The entries that are not among `known`, each with the file's name."""
    return tuple(f"{shown_name(key)} in {where}" for key in sorted(settings.keys() - known))


def _arguments(settings: Mapping[str, Any], names: tuple[str, str], file: str) -> tuple[str, dict[str, Any]]:
    """The name that counts, and what it holds."""
    older, newer = names
    name = older if older in settings else newer
    held = settings.get(name)
    held = {} if held is None else held
    if not isinstance(held, dict):
        raise CheckpointError(f"{file} has {name} {shown(held)}; expected an object")
    return name, held


def _check_arguments(
    settings: Mapping[str, Any],
    names: tuple[str, str],
    file: str,
    *,
    accepts: Callable[[str, Any], bool],
    stored: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What is handed on to transformers, and was found to be followed, without effect or what the `stored` file says anyway."""
    name, held = _arguments(settings, names, file)
    for key, value in held.items():
        says_the_same = stored is not None and key in stored and stored[key] == value
        if key not in _CALLERS and not says_the_same and not accepts(key, value):
            raise UnsupportedError(
                f"{file} has {shown_name(key)} {shown(value)} in {name}, which sentence-transformers passes to transformers and cls-export "
                "does not support; remove it in a copy if no vector depends on it, or write it into the file that it changes"
            )
    return held


def _says_how_weights_are_stored(key: str, value: Any) -> bool:
    return key in _OF_STORAGE or (key == "use_safetensors" and value in (True, None))


def _is_followed_or_beside(key: str, _: Any) -> bool:
    return key in FOLLOWED_FIELDS or key in _BESIDE_VECTORS or key in _OF_STORAGE


def _changes_no_tokens(key: str, value: Any) -> bool:
    """The limit is followed, a bundle pads on the right whatever the side, and spaces are cleaned up where tokens become text again."""
    if key == "use_fast":
        return value in (True, None)
    return key in ("model_max_length", "clean_up_tokenization_spaces") or (key == "padding_side" and value in ("left", "right"))


def _limits(settings: Mapping[str, Any], file: str, folder: CheckpointFolder) -> int | None:
    """The tokenizer's own argument before max_seq_length."""
    held = _check_arguments(settings, _TOKENIZER, file, accepts=_changes_no_tokens, stored=folder.json_object(SETTINGS))
    if "model_max_length" in held:
        return _positive(held["model_max_length"], "model_max_length", file)
    limit = settings.get("max_seq_length")
    return None if limit is None else _positive(limit, "max_seq_length", file)


def _positive(value: Any, key: str, file: str) -> int:
    limit = as_integer(value)
    if not is_integer(limit, 1):
        raise CheckpointError(f"{file} has {key} {shown(value)}; expected a positive integer or null")
    return int(limit)


def _task(settings: Mapping[str, Any], file: str) -> str:
    """The module's task, where its output is what that task's is."""
    task = settings.get("transformer_task", "feature-extraction")
    if not isinstance(task, str) or task not in _TASKS:
        raise UnsupportedError(f"{file} has transformer_task {shown(task)}; supported is 'feature-extraction'")
    read, given = _TASKS[task]
    modalities = settings.get("modality_config")
    if modalities is None:
        return task  # sentence-transformers passes over module_output_name then
    if modalities != {"text": {"method": "forward", "method_output_name": read}} or settings.get("module_output_name") != given:
        raise UnsupportedError(
            f"{file} makes vectors in another way (modality_config {shown(modalities)}, module_output_name "
            f"{shown(settings.get('module_output_name'))}); supported is the model's {read} for texts, as {given}"
        )
    return task


def _check_processing(settings: Mapping[str, Any], file: str) -> None:
    processing = settings.get("processing_kwargs")
    if processing and (not isinstance(processing, dict) or any(processing.values())):
        raise UnsupportedError(
            f"{file} changes how texts are tokenized (processing_kwargs "
            f"{shown(processing)}); a bundle does not; expected none, set such options in the tokenizer's own files"
        )
