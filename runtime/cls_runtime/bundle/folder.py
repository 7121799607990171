"""Opens a bundle folder: reads its manifest, and hands out paths of files that are inside it and have the recorded size."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from cls_runtime.bundle.files import sha256
from cls_runtime.bundle.manifest import BundleFile, Manifest, read_manifest
from cls_runtime.errors import BundleError, IntegrityError, UsageError


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its folder and its manifest. Made by `Bundle.open`."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, check_hashes: bool = False) -> Bundle:
        """Reads the manifest and checks every file that it names: inside the folder, regular, of the recorded size.

        Args:
            path: the bundle's folder.
            check_hashes: also read every file and compare its SHA-256.

        Raises:
            BundleError: no folder, no or a broken manifest, a file that is missing, of another size or outside the folder.
            IntegrityError: `check_hashes`, and a file has another hash.
        """
        folder = Path(path)
        if not folder.is_dir():
            reason = "is a file" if folder.exists() else "does not exist"
            raise BundleError(f"bundle {folder} {reason}; expected a folder made by cls-export")
        bundle = cls(folder, read_manifest(folder))
        for file in bundle.files():
            _check_size(bundle.locate(file), file)
        if check_hashes:
            bundle.check_hashes()
        return bundle

    def files(self) -> Iterator[BundleFile]:
        """Every file that the manifest names, companions first, each once."""
        seen: set[str] = set()
        variants = self.manifest.variants.values()
        for group in (self.manifest.files, *(files for item in variants for files in (item.files, *item.engine_files.values()))):
            for file in group:
                if file.path not in seen:
                    seen.add(file.path)
                    yield file

    def locate(self, file: BundleFile) -> Path:
        """The file's path on this machine.

        Raises:
            BundleError: the file is missing, is not a regular file, or its path or a symbolic link leads out of the folder.
        """
        posix, windows = PurePosixPath(file.path), PureWindowsPath(file.path)
        if not posix.parts or ".." in windows.parts or windows.anchor or posix.is_absolute() or "\0" in file.path:
            raise BundleError(f"bundle {self.folder} names the file {file.path!r}, which leaves the folder; do not use this bundle")
        path = self.folder / posix
        try:
            resolved = path.resolve(strict=True)
            mode = resolved.stat().st_mode
        except (OSError, RuntimeError):
            raise BundleError(f"bundle {self.folder} has no file {file.path}; it is incomplete, copy or export it again") from None
        if not resolved.is_relative_to(self.folder.resolve()):
            raise BundleError(f"{path} is a link that leaves the bundle (to {resolved}); copy the bundle with its links resolved")
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
        """The path of a variant's ONNX file for an engine.

        Raises:
            UsageError: the bundle has no such variant.
            BundleError: the variant names no file, or `locate` fails.
        """
        if variant not in self.manifest.variants:
            held = ", ".join(self.manifest.variants) or "none"
            raise UsageError(f"bundle {self.folder} has no variant {variant!r}; it has {held}")
        entry = self.manifest.variants[variant]
        files = entry.engine_files.get(engine, entry.files)
        if not files:
            raise BundleError(f"variant {variant} of bundle {self.folder} names no file; the manifest is damaged, export the bundle again")
        return self.locate(files[0])

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


def _check_size(path: Path, file: BundleFile) -> None:
    size = path.stat().st_size
    if size != file.size_bytes:
        raise BundleError(
            f"{path} has {size} bytes, the manifest says {file.size_bytes}; it is truncated or changed, copy or export the bundle again"
        )
