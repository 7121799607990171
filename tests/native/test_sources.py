"""The C++ sources keep the project's rules: size, what they include, and that no path's code can be taken for another's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from native_programs import PROGRAMS

from build_library import PATHS, SOURCES, TARGETS, Compiler, source_flags

LONGEST_FUNCTION = 60
WIDEST_LINE = 140
FILES = sorted(path for folder in (SOURCES, PROGRAMS) for path in folder.rglob("*") if path.suffix in (".h", ".cpp"))
# What C has, threads, the instructions of a CPU, and the system's own; a C++ header would bring a C++ library.
C_HEADERS = re.compile(
    r"(assert|ctype|errno|float|inttypes|limits|math|stdarg|stdbool|stddef|stdint|stdio|stdlib|string|time|pthread|sched|unistd|fenv"
    r"|immintrin|cpuid|arm_neon|arm_acle|windows|intrin|malloc|signal|sys/[a-z]+|asm/hwcap|linux/futex)\.h"
)


def named(path: Path) -> str:
    return path.relative_to(SOURCES.parent).as_posix()


def without_comments(text: str) -> str:
    """The same number of lines; strings and comments are empty."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"'
    return re.sub(pattern, lambda match: '""' if match[0].startswith('"') else "\n" * match[0].count("\n"), text, flags=re.DOTALL)


def functions(text: str) -> list[tuple[int, int]]:
    """First line and number of lines of each outermost block that follows a `)`: functions, and what else looks like one."""
    found, opened = [], []
    lines = without_comments(text).splitlines()
    for number, line in enumerate(lines, start=1):
        for at, character in enumerate(line):
            if character == "{":
                before = line[:at].rstrip() or (lines[number - 2].rstrip() if number > 1 else "")
                inside = any(is_function for _, is_function in opened)
                opened.append((number, not inside and re.search(r"\)\s*(const|noexcept|->\s*\w+|: .*)?$", before) is not None))
            elif character == "}":
                start, is_function = opened.pop()
                if is_function:
                    found.append((start, number - start + 1))
    return found


def test_the_measure_finds_a_function_and_its_length() -> None:
    text = 'namespace a {\nstruct B {\n    int c() const {\n        if (1) {\n        }\n        return "}"[0];  // }\n    }\n};\n}\n'
    assert functions(text) == [(3, 5)]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_is_readable(path: Path) -> None:
    text = path.read_text(encoding="ascii")
    assert "\t" not in text
    assert [line for line in text.splitlines() if len(line) > WIDEST_LINE] == []
    assert [function for function in functions(text) if function[1] > LONGEST_FUNCTION] == []


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_includes_nothing_of_cpp(path: Path) -> None:
    included = re.findall(r"^\s*#\s*include\s*<([^>]+)>", path.read_text(), flags=re.MULTILINE)
    assert [name for name in included if not C_HEADERS.fullmatch(name)] == []


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name in ("vector", "kernels")], ids=named)
def test_what_paths_share_is_in_an_unnamed_namespace(path: Path) -> None:
    """Or the linker may keep one path's copy of a function, with instructions that another CPU has not."""
    text = without_comments(path.read_text())
    code = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not code:
        return  # nothing but includes
    assert code[:2] == ["namespace cls {", "namespace {"]
    assert "\n#include" not in text[text.index("namespace cls {") :], "an include inside of it would be in the namespace too"


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_every_source_is_compiled_for_some_target_and_every_path_has_its_flags(target) -> None:
    flags = source_flags(Compiler(command=("none",), target=target, zig=True))
    paths = {path.stem for path in (SOURCES / "paths").glob("*.cpp")}
    assert paths == {"portable"}.union(*PATHS.values())
    assert {path for path in SOURCES.rglob("*.cpp") if path.parent.name != "paths"} <= set(flags)
    assert {path.stem for path in flags if path.parent.name == "paths"} == {"portable", *PATHS[target.architecture]}
    assert all(own == [] for path, own in flags.items() if path.parent.name != "paths" or path.stem == "portable")
    assert all(own for path, own in flags.items() if path.parent.name == "paths" and path.stem != "portable")
