"""The library compiled once a session with each sanitizer, for what links its objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_once import made_once
from native_programs import SANITIZED, compile_library, compiler_with_sanitizer, program


@pytest.fixture(scope="session")
def sanitized(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The path of native/tests/NAME.cpp as a program, compiled with a sanitizer: `sanitized("fuzz", "address")`."""

    def path_of(name: str, sanitizer: str) -> Path:
        compiler = compiler_with_sanitizer(sanitizer, tmp_path_factory.mktemp("trial"))
        if compiler is None:
            pytest.skip(f"neither clang++ nor g++ makes programs with the {sanitizer} sanitizer here")
        flags = SANITIZED[sanitizer]
        library = made_once(shared / f"native-{sanitizer}", lambda folder: compile_library(compiler, folder, flags))
        folder = made_once(
            shared / f"native-{sanitizer}-{name}", lambda folder: program(compiler, name, folder, library=library, flags=flags)
        )
        return folder / name

    return path_of
