"""Opens a bundle folder: reads its manifest, and hands out paths of files that are inside it and have the recorded size."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from cls_runtime.bundle.files import sha256
from cls_runtime.bundle.links import resolved
from cls_runtime.bundle.manifest import MANIFEST_NAME, BundleFile, Manifest, read_manifest
from cls_runtime.bundle.named_files import Fetched, files_of, refuse_path_that_leaves
from cls_runtime.bundle.onnx_form import external_files
from cls_runtime.bundle.stand_ins import stand_in_at
from cls_runtime.errors import BundleError, IntegrityError, UsageError
from cls_runtime.suggestions import did_you_mean

T = TypeVar("T")

READINGS = 50
GRAPH_SUFFIX = ".onnx"
ASIDE = ".old"  # how the name ends of a bundle on its way out
# Between two renames a bundle has no name for microseconds, where a file system cannot exchange folders in one step.
_BETWEEN_RENAMES_S = 0.02


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its folder, its manifest, whether its links may lead anywhere, and what is here where not all of it is. Made by
    `Bundle.open`.
    """

    folder: Path
    manifest: Manifest
    follow_links: bool = False
    fetched: Fetched | None = None

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, check_hashes: bool = False, follow_links: bool = False, fetched: Fetched | None = None
    ) -> Bundle:
        """Reads the manifest and checks every file that it names: inside the folder, regular, of the recorded size.

        Args:
            path: the bundle's folder.
            check_hashes: also read every file and compare its SHA-256.
            follow_links: read files wherever links in the folder lead; otherwise those that leave it are refused, but for the ones that a
                snapshot in the hub's cache is made of.
            fetched: the files that are in the folder, of a bundle that is on the hub; None for all that the manifest names.

        Raises:
            BundleError: no folder, no or a broken manifest, a file that is missing, of another size or outside the folder.
            IntegrityError: `check_hashes`, and a file has another hash.
        """
        folder = Path(path)
        # os.path takes any name: pathlib raises at one with a zero, or of more letters than a name may have.
        if not os.path.isdir(folder):  # noqa: PTH112
            reason = "is a file" if os.path.exists(folder) else "does not exist"  # noqa: PTH110
            raise BundleError(f"bundle {folder} {reason}; expected a folder made by cls-export")
        bundle = cls(folder, read_manifest(folder, follow_links=follow_links), follow_links, fetched)
        for file in bundle.files():
            _check_size(bundle.locate(file), file)
        if check_hashes:
            bundle.check_hashes()
        return bundle

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        work: Callable[[Bundle], T],
        *,
        check_hashes: bool = False,
        follow_links: bool = False,
        fetched: Fetched | None = None,
    ) -> T:
        """What `work` makes of a bundle's files, all of them of one bundle, also while `cls-export --force` replaces the folder.

        On Linux the folder is held by a descriptor, and read through it whatever has its name by now. Elsewhere, and where reading fails
        because an export deletes what it has replaced, everything is read again.

        Args:
            path: the bundle's folder.
            work: reads the files of the bundle that it is given, which is good for this alone: its folder may be a descriptor.
            check_hashes: as of `open`.
            follow_links: as of `open`.
            fetched: as of `open`.

        Raises:
            BundleError: as `open`, or the folder is replaced again and again.
            Exception: what `work` raises.
        """
        folder = Path(path)
        for _ in range(READINGS):
            before = _identity(folder)
            with held_folder(folder) as held:
                try:
                    result = work(cls.open(held, check_hashes=check_hashes, follow_links=follow_links, fetched=fetched))
                except Exception as error:
                    is_moving = _is_aside(folder)  # looked up first: it may end before the next line
                    if _identity(folder) == before and not is_moving:
                        _call_by_name(error, held, folder)
                        raise
                    time.sleep(_BETWEEN_RENAMES_S)
                    continue
            if held != folder or _identity(folder) == before:
                return result
        raise BundleError(f"bundle {folder} was replaced {READINGS} times while it was read; load it when the exports have ended")

    @property
    def name(self) -> str:
        """What finds this very bundle, in another process too: its folder's absolute path, or of one that is on the hub `ID@COMMIT`."""
        return str(self.folder.absolute()) if self.fetched is None else self.fetched.name

    def files(self) -> Iterator[BundleFile]:
        """Every file that the manifest names and that is here, companions first, each once."""
        return (file for file in files_of(self.manifest) if self._is_here(file))

    def _is_here(self, file: BundleFile) -> bool:
        return self.fetched is None or file.path in self.fetched.paths

    def locate(self, file: BundleFile) -> Path:
        """The file's path on this machine.

        Raises:
            BundleError: the file is missing, is not a regular file, or its path or a symbolic link leads out of the folder; or it was not
                fetched.
        """
        refuse_path_that_leaves(file, str(self.folder))
        if not self._is_here(file):
            raise BundleError(
                f"{file.path} of bundle {self.name} was not fetched from the hub; load what needs it by its own variant and engine"
            )
        path = self.folder / PurePosixPath(file.path)
        try:
            mode = resolved(path, self.folder, follow_links=self.follow_links).stat().st_mode
        except (OSError, RuntimeError):
            raise BundleError(f"bundle {self.folder} has no file {file.path}; it is incomplete, copy or export it again") from None
        if not stat.S_ISREG(mode):
            raise BundleError(f"{path} is not a regular file; the bundle is damaged, copy or export it again")
        return path

    def companion(self, name: str) -> Path:
        """The path of a companion file such as `tokenizer.json`.

        Raises:
            BundleError: the manifest does not name it, or `locate` fails.
        """
        for file in self.manifest.files:
            if file.path == name:
                return self.locate(file)
        raise BundleError(f"the manifest of bundle {self.folder} names no {name}; it is incomplete, export the bundle again")

    def graph(self, variant: str, *, engine: str) -> Path:
        """The path of a variant's ONNX file for an engine, which is safe to give to it: all that the graph reads is in `files`.

        Raises:
            UsageError: the bundle has no such variant.
            BundleError: the variant names no file or one that is not called .onnx, `locate` fails, the file has what no export writes
                (`onnx_form`), or it reads a file that the manifest does not name beside it.
        """
        if variant not in self.manifest.variants:
            held = ", ".join(self.manifest.variants) or "none"
            raise UsageError(
                f"bundle {self.folder} has no variant {variant!r}; it has {held}{did_you_mean(variant, self.manifest.variants)}"
            )
        entry = self.manifest.variants[variant]
        files = entry.engine_files.get(engine, entry.files)
        if not files:
            raise BundleError(f"variant {variant} of bundle {self.folder} names no file; the manifest is damaged, export the bundle again")
        if not files[0].path.endswith(GRAPH_SUFFIX):
            raise BundleError(
                f"variant {variant} of bundle {self.folder} has the graph {files[0].path!r:.80}, expected a name in {GRAPH_SUFFIX}: an "
                "engine may take it for a format of its own; do not use this bundle"
            )
        path = self.locate(files[0])
        beside = PurePosixPath(files[0].path).parent
        listed = {file.path for file in files[1:]}
        for location in sorted(external_files(path)):
            if (beside / location).as_posix() not in listed:
                raise BundleError(
                    f"{path} reads its weights from {location!r:.80}, which the manifest does not name beside it, so no hash covers them; "
                    "do not use this bundle"
                )
        return path

    def check_hashes(self) -> None:
        """Compares the SHA-256 of every file with the manifest's.

        Raises:
            IntegrityError: one differs.
        """
        for file in self.files():
            digest = sha256(self.locate(file))
            if digest != file.sha256:
                raise IntegrityError(
                    f"{self.folder / file.path} has sha256 {digest[:16]}..., the manifest says {file.sha256[:16]}...; "
                    "the file was changed or damaged, copy or export the bundle again"
                )


def require_fingerprint(bundle: Bundle, expected: str) -> None:
    """Refuses another bundle than the one that was meant.

    Raises:
        BundleError: the fingerprint is not the expected one.
    """
    held = bundle.manifest.fingerprint
    if held != expected:
        raise BundleError(
            f"bundle {bundle.folder} has fingerprint {held[:12]}, expected {expected[:12]}: another bundle is there by now, whose vectors "
            "are not comparable; put the first one back, or start anew with this one"
        )


def staged_prefix(folder: Path) -> str:
    """How the names begin of what an export makes beside the bundle's folder."""
    return f".{folder.name}.cls-export-"


def _is_aside(folder: Path) -> bool:
    """Whether another bundle is taking this one's place, on a file system that cannot exchange two folders in one step."""
    try:
        names = os.listdir(folder.parent)  # noqa: PTH208  names are enough
    except OSError:
        return False
    return any(name.startswith(staged_prefix(folder)) and name.endswith(ASIDE) for name in names)


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[Path]:
    """A path that leads to this very folder even when another one gets its name; the folder's own where the system has none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except (OSError, ValueError):
        yield folder
        return
    try:
        held = Path(f"/proc/self/fd/{descriptor}")
        yield held if held.is_dir() else folder
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def path_for_libraries(path: Path) -> Iterator[Path]:
    """A path to the same file that a library takes which knows names in UTF-8 only, as the inference engines do; the file's own where it
    is UTF-8, or where the system has no other.
    """
    try:
        str(path.parent).encode("utf-8")
    except UnicodeEncodeError:
        with held_folder(path.parent) as folder:
            yield folder / path.name
        return
    yield path


def _call_by_name(error: Exception, held: Path, folder: Path) -> None:
    """Names the folder as the caller does in an error's message."""
    error.args = tuple(part.replace(str(held), str(folder)) if isinstance(part, str) else part for part in error.args)


def _identity(folder: Path) -> tuple[int, ...] | None:
    """What tells a bundle from another one that has its name later: renaming a folder changes its time. None where there is none."""
    try:
        found, manifest = folder.stat(), (folder / MANIFEST_NAME).stat()
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino, found.st_ctime_ns, manifest.st_ino, manifest.st_size, manifest.st_mtime_ns)


def _check_size(path: Path, file: BundleFile) -> None:
    size = path.stat().st_size
    if size != file.size_bytes:
        if (words := stand_in_at(path)) is not None:
            raise BundleError(f"{path} {words}")
        raise BundleError(
            f"{path} has {size} bytes, the manifest says {file.size_bytes}; it is truncated or changed, copy or export the bundle again"
        )
