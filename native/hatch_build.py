"""The build hook of the wheel: compiles the library and puts it into the package."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))
from build_library import build_library, compiler_for


class LibraryHook(BuildHookInterface[Any]):
    """Compiles for CLS_NATIVE_TARGET or this machine, with ziglang or CLS_NATIVE_CXX."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What pip installs for the build alone."""
        return [] if os.environ.get("CLS_NATIVE_CXX") else ["ziglang>=0.15.1"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles the library where the wheel takes it from."""
        if version == "editable":
            raise RuntimeError("cls-export-native has nothing to edit once it is compiled; install it with: pip install ./native")
        compiler = compiler_for(target=os.environ.get("CLS_NATIVE_TARGET"), cxx=os.environ.get("CLS_NATIVE_CXX"))
        self.folder = tempfile.TemporaryDirectory()
        library = build_library(compiler, Path(self.folder.name))
        build_data["pure_python"] = False
        build_data["tag"] = compiler.target.tag
        build_data["force_include"][str(library)] = f"cls_export_native/{library.name}"

    def finalize(self, *_: object) -> None:
        """Removes what was compiled, which the wheel has."""
        self.folder.cleanup()
