"""sentence-transformers' own model of a checkpoint, where it is installed: loaded from links to the files that were checked, in a folder of
its own. No code of the checkpoint's runs, and the library is imported when it is asked and not before.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers.utils.logging

from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.load import Checkpoint
from cls_exporter.checkpoint.quiet import quiet
from cls_exporter.checkpoint.sentence_transformers import MODULES, listed_modules
from cls_exporter.checkpoint.sentence_use import ROOT_SETTINGS
from cls_exporter.checkpoint.source import PICKLES, SAFETENSORS, SMALL_FILES
from cls_exporter.errors import as_error, one_line

_LIBRARY = "sentence_transformers"
_STAGE = "cls-export-sentence-transformers-"
_ANY_SIZE = 2**63


class CannotAskError(Exception):
    """Why sentence-transformers cannot be asked, as a short fact."""


def is_reranker(checkpoint: Checkpoint) -> bool:
    """A folder of modules without a pooling among them is one; all others were refused."""
    return checkpoint.source_pooling.mode is None


def version() -> str:
    """Of the library that is installed."""
    return metadata.version("sentence-transformers")


@contextlib.contextmanager
def model_of(checkpoint: Checkpoint) -> Iterator[Callable[[int], Any]]:
    """What loads the model: on the CPU, in fp32, from checked files alone; with a seed for what is drawn, which should be nothing.

    While it lasts the libraries are quiet.

    Raises:
        CannotAskError: sentence-transformers is not there, or would run the checkpoint's own code.
    """
    if checkpoint.stored_config.get("auto_map"):
        raise CannotAskError("it would run the checkpoint's own code")
    with quiet(_LIBRARY, "transformers"), _without_progress_bars():
        library = _imported()
        kind = library.CrossEncoder if is_reranker(checkpoint) else library.SentenceTransformer
        with _staged(checkpoint.folder) as stage:
            yield functools.partial(_load, kind, stage)


def _load(kind: Any, stage: Path, seed: int) -> Any:
    """The model in eval mode. The caller's random state is kept."""
    # The two spellings of one argument: a folder's own would win where only the other was given.
    arguments = {"dtype": torch.float32, "torch_dtype": None, "attn_implementation": "eager", "device_map": None}
    with asked(hidden=f"{stage}/"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(str(stage), device="cpu", trust_remote_code=False, local_files_only=True, model_kwargs=arguments).eval()


@contextlib.contextmanager
def behind_the_encoder(bundle: Path) -> Iterator[Any]:
    """What sentence-transformers makes of a bundle's folder without the Transformer module, which would want weights of PyTorch's.

    Raises:
        CannotAskError: sentence-transformers is not there, or cannot load it.
    """
    with quiet(_LIBRARY, "transformers"), tempfile.TemporaryDirectory(prefix=_STAGE) as name:
        library, stage = _imported(), Path(name)
        for path in bundle.iterdir():
            if path.name == MODULES:
                (stage / MODULES).write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))[1:]), encoding="utf-8")
            elif path.name == ROOT_SETTINGS or path.is_dir():
                _link(stage / path.name, path.resolve())
        with asked(hidden=f"{stage}/"):
            yield library.SentenceTransformer(str(stage), device="cpu", trust_remote_code=False, local_files_only=True).eval()


def _imported() -> Any:
    try:
        with _environment_kept():
            return importlib.import_module(_LIBRARY)
    except ModuleNotFoundError as error:
        if error.name != _LIBRARY:
            raise CannotAskError(f"it cannot be imported, {one_line(error)}") from None
        raise CannotAskError("it is not installed; pip install sentence-transformers") from None
    except Exception as error:  # noqa: BLE001 - a version that does not fit the others of an environment fails in many ways
        raise CannotAskError(f"it cannot be imported, {one_line(error)}") from None


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """scikit-learn, which the library imports, sets variables of OpenMP."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in {*os.environ} - {*before}:
            del os.environ[name]
        os.environ.update(before)


def asked(*, hidden: str = "") -> contextlib.AbstractContextManager[None]:
    """Whatever sentence-transformers raises means that it has no answer: a folder that it cannot load has no vectors of its own."""
    return as_error(lambda reason: CannotAskError(f"version {version()} fails on this folder with {reason}"), hidden=hidden)


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    bars: Any = transformers.utils.logging
    were_shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if were_shown:
            bars.enable_progress_bar()


@contextlib.contextmanager
def _staged(folder: CheckpointFolder) -> Iterator[Path]:
    """A temporary folder of links to the checkpoint's files, by the names that are fetched from a hub and no others."""
    with tempfile.TemporaryDirectory(prefix=_STAGE) as name:
        stage = Path(name)
        folders = {folder.path: folder, **{inner.path: inner for _, inner in listed_modules(folder)}}
        for path, inner in folders.items():
            target = stage / path.relative_to(folder.path)
            target.mkdir(parents=True, exist_ok=True)
            for file in _files(inner.names()):
                _link(target / file, inner.file(file, limit_bytes=_ANY_SIZE))
        yield stage


def _link(path: Path, file: Path) -> None:
    try:
        path.symlink_to(file)
    except OSError as error:
        raise CannotAskError(f"no folder of links can be made for it, {error.strerror or error}") from None


def _files(names: Sequence[str]) -> list[str]:
    """The names that sentence-transformers may read; of pickles, only those without a safer form beside them."""

    def of(patterns: Sequence[str]) -> list[str]:
        return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]

    return of(SMALL_FILES) + (of(SAFETENSORS) or of(PICKLES))
