"""The check `files`: every file that the manifest names is there, whole, and the one that was exported."""

from __future__ import annotations

from collections.abc import Sequence

from cls_runtime.bundle.files import sha256
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.manifest import BundleFile
from cls_runtime.bundle.stand_ins import stand_in_at
from cls_runtime.errors import BundleError
from cls_runtime.quantities import size
from cls_runtime.verifying.vector_checks import Finding

_SHOWN = 3


def files_finding(bundle: Bundle | None, damage: Sequence[str]) -> Finding:
    """Looks at every file.

    Args:
        bundle: None where the manifest cannot be read.
        damage: what was seen already, when the bundle was opened.
    """
    if bundle is None:
        return Finding(passed=False, message="; ".join(damage))
    files = list(bundle.files())
    size_bytes = sum(file.size_bytes for file in files)
    objections = {file.path: objection for file in files if (objection := _objection(bundle, file)) is not None}
    figures = {"files": len(files), "bytes": size_bytes, "changed": len(objections)}
    lost = [objection for objection in objections.values() if objection]
    changed = [path for path, objection in objections.items() if not objection]
    messages = lost[:_SHOWN] + ([f"{len(lost) - _SHOWN} more files are missing or cut"] if len(lost) > _SHOWN else [])
    if changed:
        messages.append(
            f"{len(changed)} of {len(files)} files are not the ones that were exported (sha256 differs): {', '.join(changed)}; "
            "copy or export again"
        )
    messages += [words for words in damage if words not in lost]
    if messages:
        return Finding(passed=False, message="; ".join(messages), figures=figures)
    return Finding(passed=True, message=f"{len(files)} files, {size(size_bytes)}, every sha256 as in the manifest", figures=figures)


def _objection(bundle: Bundle, file: BundleFile) -> str | None:
    """What is wrong with a file in words, none where only its hash differs; None where it is the one that was exported."""
    try:
        path = bundle.locate(file)
        size_bytes = path.stat().st_size
        if size_bytes != file.size_bytes:
            if (words := stand_in_at(path)) is not None:
                return f"{file.path} {words}"
            return f"{file.path} has {size_bytes} bytes, the manifest says {file.size_bytes}; it was cut or changed, copy or export again"
        return None if sha256(path) == file.sha256 else ""
    except BundleError as error:
        return str(error)
    except OSError as error:
        return f"{file.path} cannot be read ({error.strerror or error})"
