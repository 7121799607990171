"""Every code block of the documentation runs as written, or says why not."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from code_blocks import ROOT, Block, Typed, blocks_on, claims, command_lines, figures_blanked, first_missing, pages_with_code, typed
from page_runs import PageRun, exported_by

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGES = pages_with_code()
RUN = ("program", "session", "script")
RUN_PAGES = [page for page in PAGES if any(rule in RUN for block in blocks_on(page) for rule in claims(block))]
READERS = {
    "json": json.loads,
    "jsonl": lambda text: [json.loads(line) for line in text.splitlines()],
    "toml": tomllib.loads,
    "yaml": lambda text: list(yaml.safe_load_all(text)),
}
MARKED = re.compile(r"^ *<!-- (?:not run|snippet|client)\b.*-->$")


def name_of(item: Path | Block) -> str:
    return str(item.relative_to(ROOT)) if isinstance(item, Path) else str(item)


def block_of(text: str, language: str = "console") -> Block:
    return Block(ROOT / "README.md", 1, language, text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_claimed_by_one_rule(page: Path) -> None:
    wrong = {str(block): (block.language, claims(block)) for block in blocks_on(page) if len(claims(block)) != 1}
    assert wrong == {}, "python, console, sh, a language of data, text, or a mark above it: tests/code_blocks.py"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_mark_stands_right_above_a_block(page: Path) -> None:
    marks = [line for line in page.read_text(encoding="utf-8").splitlines() if MARKED.match(line)]
    assert len(marks) == len([block for block in blocks_on(page) if block.mark])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_data_and_programs_can_be_read(page: Path) -> None:
    """Those programs too that run elsewhere."""
    for block in blocks_on(page):
        if claims(block) == ["data"]:
            assert READERS[block.language](block.text), block
        if block.language == "python":
            compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if block.mark else 0)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_PAGES, ids=name_of)
def test_a_page_runs_as_written(page: Path, stand_ins: Path, tmp_path: Path) -> None:
    """In one folder, from its first block to its last."""
    if importlib.util.find_spec("uvicorn") is None and "cls-serve" in page.read_text(encoding="utf-8"):
        pytest.skip("cls-export[serve] is not installed")
    with PageRun(tmp_path, stand_ins=stand_ins) as run:
        for block in blocks_on(page):
            if claims(block)[0] in RUN:
                run.run(block)


def test_a_session_is_split_into_what_is_typed_and_what_is_shown() -> None:
    block = block_of("$ cls-export m \\\n    --int8\nExported\n...\n$ cls-doctor\n")
    assert typed(block) == [Typed("cls-export m \\\n    --int8", ("Exported", "...")), Typed("cls-doctor")]
    with pytest.raises(ValueError, match="opens with a line behind"):
        typed(block_of("Exported\n"))


def test_shown_lines_are_in_what_was_printed_in_their_order() -> None:
    printed = "warning: odd\n3 texts -> v.npy (float32 [3, 32]) in 0.1 s\nname   12 kB\nend 0a1b2c3d4e5f\n"
    assert first_missing(("4 texts -> v.npy (float32 [4, 384]) in 21.5 s", "...", "name  90.3 MB", "end ffff0000aaaa"), printed) is None
    assert (
        first_missing(("name 1 kB", "4 texts -> v.npy (float32 [4, 384]) in 21.5 s"), printed)
        == "4 texts -> v.npy (float32 [4, 384]) in 21.5 s"
    )
    assert first_missing(("3 rows -> v.npy",), printed) == "3 rows -> v.npy"
    assert figures_blanked("1.8e-06  decade") == "# decade"


def test_commands_are_found_wherever_they_stand() -> None:
    text = "$ cat a | cls-embed m - -o 'my v.npy' > log # so\n$ docker run image \\\n  cls-serve m --port 1\nshown: cls-doctor x\n"
    assert list(command_lines(block_of(text))) == [["cls-embed", "m", "-", "-o", "my v.npy"], ["cls-serve", "m", "--port", "1"]]


def test_where_exports_write() -> None:
    assert exported_by(block_of("$ cls-export org/name@main --int8\n$ cls-export org/name -o models/x\n")) == {"models/name", "models/x"}
    assert exported_by(block_of("report = export('a/b', 'models/c')", "python")) == {"models/c"}
    assert exported_by(block_of("Encoder.load('models/c')", "python")) == set()


@pytest.fixture
def page(tmp_path: Path) -> PageRun:
    (tmp_path / "empty" / "models" / "upgrade").mkdir(parents=True)
    with PageRun(tmp_path, stand_ins=tmp_path / "empty") as run:
        yield run


@pytest.mark.parametrize(
    ("language", "text", "found"),
    [
        ("python", "raise SystemExit(1)", "raise SystemExit"),
        ("python", "import warnings; warnings.warn('old')", "UserWarning: old"),
        ("sh", "false\ntrue\n", "exit code 1"),
        ("console", "$ false\n$ true\n", "exit code 1"),
        ("console", "$ echo 'error: no'\nerror: no\n", "exit code 0"),
        ("console", "$ echo one\ntwo\n", "did not print there:\ntwo"),
        ("console", "$ echo one\n$ echo two\none\n", "did not print there:\none"),
    ],
)
def test_what_is_not_as_the_page_says_fails(language: str, text: str, found: str, page: PageRun) -> None:
    with pytest.raises(AssertionError) as raised:
        page.run(block_of(text, language))
    assert found in str(raised.value)


def test_a_block_finds_what_those_before_it_left(page: PageRun) -> None:
    page.run(block_of("$ export NAME=here\n$ echo $NAME > file; echo 'error: no' >&2; false\nerror: no\n$ cat file\nhere\n"))
    page.run(block_of("grep here file\nmake nothing\n", "sh"))
    page.run(block_of("assert open('file').read() == 'here\\n'", "python"))


def test_what_a_page_starts_ends_with_it(page: PageRun) -> None:
    page.run(block_of("sleep 1000 & echo $! > pid\n", "sh"))
    assert Path(f"/proc/{(page.folder / 'pid').read_text().strip()}").exists()
    page.__exit__()
    assert not Path(f"/proc/{(page.folder / 'pid').read_text().strip()}").exists()
