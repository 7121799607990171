"""MODEL, a hub id or a local folder -> a folder with the files of one checkpoint."""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path

from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.hub_cache import snapshot_of
from cls_exporter.checkpoint.source_card import SOURCE_CARD
from cls_exporter.errors import CheckpointError, as_checkpoint_error, shown
from cls_runtime.bundle.hub_cache import with_whole_hash
from cls_runtime.bundle.hub_names import HubName, cached_id, hub_name
from cls_runtime.errors import UsageError

# Named one by one, so that a repository's ONNX, TensorFlow, Flax and training files stay where they are.
SMALL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "adapter_config.json",
)
_MODULE_FILES = ("[0-9]_*/*",)
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
_NEVER = ("onnx/*", "openvino/*", "*.onnx", "*.onnx_data", "*.msgpack", "*.h5", "*.ot", "*.tflite", "*.mlmodel", "*.gguf")


@dataclass(frozen=True, kw_only=True)
class SourceFolder:
    """Where the files are, and what the checkpoint is called: a hub id with its commit, or a folder's last part."""

    name: str
    revision: str | None
    folder: CheckpointFolder


def find_source(model: str, *, revision: str | None, trust_remote_code: bool) -> SourceFolder:
    """Finds MODEL on disk or on the hub (through its cache; `HF_HUB_OFFLINE` and `HF_HOME` are honoured).

    An existing folder wins over a hub id of the same name, as in transformers. Of a repository's folder in the cache it is the main
    snapshot, or that of `revision`; `hub_name` says what else may name one of the hub.

    Raises:
        CheckpointError: there is no such folder, repository or revision, or the hub cannot be reached and the cache does not have it.
        UsageError: a revision for a local folder, two revisions, or an address that is no model's.
    """
    with as_checkpoint_error(lambda reason: f"{shown(model)} is neither a hub id nor a folder ({reason})"):
        path = Path(model).expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    if model and is_folder:
        repository = cached_id(path)
        if repository is not None:
            snapshot = snapshot_of(path, revision)
            return SourceFolder(name=repository, revision=snapshot.name, folder=CheckpointFolder.of(snapshot))
        if revision is not None:
            raise UsageError(f"{model} is a local folder, --revision {revision} names a commit of a hub repository; leave one of them out")
        return SourceFolder(name=_in_utf8(path.resolve().name), revision=None, folder=CheckpointFolder.of(path))
    if model and is_there:
        raise CheckpointError(f"{model} is a file; expected a hub id or the folder that holds config.json and the weights")
    named = hub_name(model)
    if named is None:
        raise CheckpointError(
            f"{model or repr(model)} does not exist; expected a hub id or a folder with config.json, weights and tokenizer"
        )
    return _from_hub(named.at(revision, named_by="--revision"), trust_remote_code=trust_remote_code)


def _in_utf8(name: str) -> str:
    """A file's name as text that can be written; bytes of it that are no UTF-8 are written out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _from_hub(named: HubName, *, trust_remote_code: bool) -> SourceFolder:
    code = ("*.py",) if trust_remote_code else ()
    model, revision = named.id, with_whole_hash(named).revision
    folder = _snapshot(model, revision=revision, patterns=(*SMALL_FILES, *_MODULE_FILES, *SAFETENSORS, SOURCE_CARD, *code))
    commit = folder.name
    encoder = encoder_folder(CheckpointFolder.of(folder))
    if not any(fnmatch.fnmatch(name, "model*.safetensors*") for name in encoder.names()):
        # The commit, not the branch: it may have moved since the first half was fetched.
        folder = _snapshot(model, revision=commit, patterns=PICKLES)
    return SourceFolder(name=model, revision=commit, folder=CheckpointFolder.of(folder))


def _snapshot(model: str, *, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    at = f" at revision {revision}" if revision else ""
    # A network fails in more ways than the hub's client has errors for.
    with as_checkpoint_error(
        lambda reason: (
            f"{model}{at} cannot be fetched from the hub ({reason}); expected a local folder, a hub id "
            "that exists, or one that is in the cache; check the name, the network, HF_HUB_OFFLINE and, for a gated model, `hf auth login`"
        )
    ):
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(_NEVER)))


def encoder_folder(folder: CheckpointFolder) -> CheckpointFolder:
    """The folder with config.json and the weights: `folder`, or the one that modules.json gives for its first module."""
    if not folder.has("modules.json"):
        return folder
    listed = folder.json("modules.json")
    first = listed[0] if isinstance(listed, list) and listed else None
    if not isinstance(first, dict) or not isinstance(first.get("path", ""), str):
        raise CheckpointError(f"modules.json in {folder.name} is not a list of modules with a path; expected sentence-transformers' format")
    return folder.inner(first.get("path", ""), named_by="modules.json")
