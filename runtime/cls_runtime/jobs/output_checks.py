"""An output that is no input: no job writes over what it reads, into the bundle, or where the same command would read it next time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cls_runtime.bundle.overwriting import names_below, refuse_overwriting
from cls_runtime.errors import UsageError
from cls_runtime.jobs.filesystems import is_uri
from cls_runtime.jobs.inputs import JobInputs


def check_output_file(out: Path, *, bundle: Path, names: Sequence[str], inputs: JobInputs, listed: Path | None) -> None:
    """Checks the file that a job writes, and the list of rows beside it.

    Args:
        out: the file.
        bundle: the bundle's folder.
        names: the inputs as they were given, folders among them.
        inputs: the same looked up.
        listed: where rows that cannot be read would be listed; None where none is.

    Raises:
        UsageError: one of them is an input, or in the bundle; the list would be an input next time.
    """
    files = [_local(file.name) for file in inputs.files]
    for path in (out, listed):
        if path is not None:
            refuse_overwriting(path, what=f"output {path}", files=files, folders=[bundle])
    if listed is not None:
        _refuse_as_input(listed, names, f"output {out}: the list of rows that cannot be read")


def check_output_folder(out: str, *, bundle: Path, names: Sequence[str], inputs: JobInputs) -> None:
    """Checks the folder that a job writes to; the arguments are as for `check_output_file`.

    Raises:
        UsageError: it is the bundle or in it, holds an input, or would be read as an input next time.
    """
    what = f"output {out}"
    if is_uri(_local(out)):
        below = [name for name in (*names, *(file.name for file in inputs.files)) if is_uri(name) and _holds(name, out)]
        within = [file.name for file in inputs.files if is_uri(file.name) and _holds(out, file.name)]
        if below or within:
            raise UsageError(f"{what} is where the input {(below or within)[0]} is; choose another folder")
        return
    folder = Path(_local(out))
    refuse_overwriting(folder, what=what, folders=[bundle])
    for parent in {os.path.dirname(_local(file.name)) or "." for file in inputs.files if not is_uri(_local(file.name))}:  # noqa: PTH120
        if folder.is_dir() and names_below(Path(parent), folder) == ():
            raise UsageError(f"{what} holds inputs of this job, shards would lie among them; choose another folder")
    _refuse_as_input(folder, names, what)


def _refuse_as_input(path: Path, names: Sequence[str], what: str) -> None:
    """Refuses what lies in a folder that is read as a whole, unless its name hides it from readers."""
    for name in names:
        folder = Path(_local(name))
        if folder.is_dir():
            parts = names_below(path, folder)
            if parts is not None and not any(part.startswith((".", "_")) for part in parts):
                raise UsageError(f"{what} is in the input folder {name} and would be read as an input next time; choose another place")


def _local(name: str) -> str:
    """The path of a `file:` or `local:` URI; any other name as it is."""
    scheme, _, rest = name.partition("://")
    if rest and scheme in ("file", "local"):
        return unquote(urlsplit(name).path) if scheme == "file" else rest
    return name


def _holds(folder: str, name: str) -> bool:
    """Whether a URI is another's or lies below it."""
    base = folder.rstrip("/")
    return name.rstrip("/") == base or name.startswith(f"{base}/")
