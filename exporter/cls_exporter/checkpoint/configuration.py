"""config.json: as it is stored, as transformers reads it, and the architecture that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from cls_exporter.checkpoint.architectures import Architecture, architecture_of
from cls_exporter.checkpoint.source import read_json_object
from cls_exporter.errors import CheckpointError, UnsupportedError, one_line


@dataclass(frozen=True)
class Configuration:
    """What config.json says.

    Attributes:
        architecture: its line in the table of architectures.
        loaded: transformers' configuration, with the defaults of its class.
        stored: the object in the file.
    """

    architecture: Architecture
    loaded: PretrainedConfig
    stored: Mapping[str, Any]

    @property
    def hidden(self) -> int:
        """The encoder's hidden size, H."""
        return int(self.loaded.hidden_size)


def read_configuration(folder: Path, name: str, *, trust_remote_code: bool) -> Configuration:
    """Reads `folder/config.json`; `name` is the checkpoint's in errors.

    Raises:
        CheckpointError: the file is missing or broken, or the checkpoint brings code that was not allowed to run.
        UnsupportedError: an adapter, or an architecture that is not in the table.
    """
    stored = _stored(folder, name, trust_remote_code=trust_remote_code)
    architecture = architecture_of(stored, where=name)
    return Configuration(architecture, _loaded(folder, trust_remote_code=trust_remote_code), stored)


def _stored(folder: Path, name: str, *, trust_remote_code: bool) -> dict[str, Any]:
    if (folder / "adapter_config.json").exists():
        raise UnsupportedError(f"{name} is an adapter (adapter_config.json); merge it into its base model and export that")
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{name} has no config.json; expected a checkpoint as save_pretrained() writes it")
    stored = read_json_object(folder / "config.json")
    custom = [file for file in ("config.json", "tokenizer_config.json") if read_json_object(folder / file).get("auto_map")]
    if custom and not trust_remote_code:
        raise CheckpointError(
            f"{name} comes with Python code of its own (auto_map in {' and '.join(custom)}), which would run on this machine; "
            "read it, then use --trust-remote-code"
        )
    return stored


def _loaded(folder: Path, *, trust_remote_code: bool) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"config.json in {folder.name} is not a configuration that transformers reads ({one_line(error)}); correct it"
        ) from None
    config.return_dict = True
    config.use_cache = False
    if hasattr(config, "reference_compile"):
        # ModernBERT would otherwise compile itself on some machines.
        config.reference_compile = False
    return config  # type: ignore[no-any-return]
