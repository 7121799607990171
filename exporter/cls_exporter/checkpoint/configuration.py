"""config.json: as it is stored, as transformers reads it, and the architecture that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from cls_exporter.checkpoint.architectures import Architecture, architecture_of
from cls_exporter.checkpoint.config_fields import check_sizes, read_fields
from cls_exporter.checkpoint.family_settings import check_family_settings
from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.modernbert_words import in_words_that_are_read
from cls_exporter.errors import CheckpointError, UnsupportedError, as_checkpoint_error

# How weights were stored and where, what is computed beside the vectors, and labels, which `heads` reads itself: transformers acts on them,
# by files of other names or a loop over a million labels, and an encoder's vectors have nothing to do with them.
_NOT_THE_ENCODERS = (
    "attn_implementation",
    "chunk_size_feed_forward",
    "configuration_files",
    "dtype",
    "id2label",
    "label2id",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "quantization_config",
    "torch_dtype",
    "torchscript",
)


@dataclass(frozen=True)
class Configuration:
    """What config.json says.

    Attributes:
        architecture: its line in the table of architectures.
        loaded: transformers' configuration, with the defaults of its class.
        stored: the object in the file, its numbers read as what they mean, with what replaces parts of it.
        runs_code: its model is made by code of the checkpoint's own, which the caller trusts.
        unchanged: as `loaded`, of the file alone; None where nothing replaces any of it.
    """

    architecture: Architecture
    loaded: PretrainedConfig
    stored: Mapping[str, Any]
    runs_code: bool
    unchanged: PretrainedConfig | None = None

    @property
    def hidden(self) -> int:
        """The encoder's hidden size, H."""
        return int(self.loaded.hidden_size)


def read_configuration(
    folder: CheckpointFolder, name: str, *, trust_remote_code: bool, changes: Mapping[str, Any] = MappingProxyType({})
) -> Configuration:
    """Reads the folder's config.json; `name` is the checkpoint's in errors.

    `changes` are fields that sentence-transformers replaces: as there, after the defaults of transformers' class have been taken.

    Raises:
        CheckpointError: the file is missing or broken, a field makes no sense, or the checkpoint brings code that was not allowed to run.
        UnsupportedError: an adapter, or an architecture that is not in the table.
    """
    in_file = _stored(folder, name, trust_remote_code=trust_remote_code)
    where = f"{name} with what sentence-transformers replaces of it" if changes else name
    architecture = architecture_of({**in_file, **changes}, where=where)
    in_file = read_fields(in_file, name=name)
    stored = read_fields({**in_file, **changes}, name=where)
    changes = {key: stored[key] for key in changes if key in stored}
    runs_code = bool(stored.get("auto_map"))
    loaded = _loaded(folder, in_file, changes, runs_code=runs_code)
    if not runs_code:
        check_sizes(loaded, architecture, name=where)
        check_family_settings(loaded, stored, name=where)
    if not changes:
        return Configuration(architecture, loaded, stored, runs_code)
    own_names = {type(loaded).attribute_map.get(key, key): value for key, value in changes.items()}
    unchanged = _loaded(folder, in_file, {}, runs_code=runs_code)
    return Configuration(architecture, loaded, {**in_file, **own_names}, runs_code, unchanged)


def _stored(folder: CheckpointFolder, name: str, *, trust_remote_code: bool) -> dict[str, Any]:
    if folder.has("adapter_config.json"):
        raise UnsupportedError(
            f"{name} is an adapter (adapter_config.json); merge it into its base model with peft's merge_and_unload() and export that"
        )
    if not folder.has("config.json"):
        raise CheckpointError(f"{name} has no config.json; expected a checkpoint as save_pretrained() writes it")
    stored = folder.json_object("config.json")
    custom = [file for file in ("config.json", "tokenizer_config.json") if folder.json_object(file).get("auto_map")]
    if custom and not trust_remote_code:
        raise CheckpointError(
            f"{name} comes with Python code of its own (auto_map in {' and '.join(custom)}), which would run on this machine; "
            "read it, then use --trust-remote-code"
        )
    return stored


def _loaded(folder: CheckpointFolder, stored: Mapping[str, Any], changes: Mapping[str, Any], *, runs_code: bool) -> PretrainedConfig:
    with as_checkpoint_error(
        lambda reason: f"config.json in {folder.name} is not a configuration that transformers reads ({reason}); correct it"
    ):
        if runs_code:
            config: Any = AutoConfig.from_pretrained(folder.path, trust_remote_code=True, local_files_only=True, **changes)
        else:
            fields, replaced = _of_the_encoder(stored), _of_the_encoder(changes)
            if stored["model_type"] == "modernbert":
                fields, replaced = (in_words_that_are_read(words, name=folder.name) for words in (fields, replaced))
            config = CONFIG_MAPPING[stored["model_type"]].from_dict(fields, **replaced)
        config.return_dict = True
        config.use_cache = False
        if hasattr(config, "reference_compile"):
            # ModernBERT would otherwise compile itself on some machines.
            config.reference_compile = False
    return config  # type: ignore[no-any-return]


def _of_the_encoder(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in _NOT_THE_ENCODERS and not key.startswith("_")}
