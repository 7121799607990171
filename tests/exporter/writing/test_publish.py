"""A bundle appears whole or not at all, whatever kills the export."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cls_exporter.writing import publish
from cls_exporter.writing.publish import staged
from cls_runtime.bundle.manifest import MANIFEST_NAME
from cls_runtime.errors import UsageError

FILES = 12


def write_bundle(folder: Path, content: str) -> None:
    """A stand-in for a bundle: several files with the same content, the manifest last."""
    for index in range(FILES):
        (folder / f"part{index}").write_text(content)
    (folder / MANIFEST_NAME).write_text(content)


def content_of(folder: Path) -> str | None:
    """The one content of a whole bundle, None where there is none; fails on half a bundle."""
    if not folder.exists():
        return None
    names = {f"part{index}" for index in range(FILES)} | {MANIFEST_NAME}
    assert {path.name for path in folder.iterdir()} == names
    (content,) = {path.read_text() for path in folder.iterdir()}
    return content


@pytest.fixture
def old_bundle(tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    target.mkdir()
    write_bundle(target, "old")
    return target


def siblings(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def test_a_new_bundle_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "made" / "on" / "the" / "way"
    with staged(target, force=False) as folder:
        assert folder.parent == target.parent
        assert folder.name.startswith(".")
        write_bundle(folder, "new")
        assert not target.exists()
    assert content_of(target) == "new"
    assert siblings(target) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_bundle(old_bundle: Path, error: type[BaseException]) -> None:
    def failing_export() -> None:
        with staged(old_bundle, force=True) as folder:
            write_bundle(folder, "new")
            raise error

    with pytest.raises(error):
        failing_export()
    assert content_of(old_bundle) == "old"
    assert siblings(old_bundle) == []


def test_force_replaces_a_bundle(old_bundle: Path) -> None:
    with staged(old_bundle, force=True) as folder:
        write_bundle(folder, "new")
    assert content_of(old_bundle) == "new"
    assert siblings(old_bundle) == []


def test_force_replaces_a_bundle_without_an_atomic_exchange(old_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "_exchange", lambda first, second: False)
    with staged(old_bundle, force=True) as folder:
        write_bundle(folder, "new")
    assert content_of(old_bundle) == "new"
    assert siblings(old_bundle) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2 is Linux's")
def test_linux_exchanges_in_one_step(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (first / "mark").touch()
    assert publish._exchange(first, second)
    assert (second / "mark").exists()
    assert not (first / "mark").exists()


def test_an_existing_folder_needs_force_before_any_work(old_bundle: Path) -> None:
    with pytest.raises(UsageError, match="exists; use --force to replace it"), staged(old_bundle, force=False):
        pytest.fail("the block must not run")


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "bundle"

    def slow_export() -> None:
        with staged(target, force=False) as folder:
            write_bundle(folder, "new")
            target.mkdir()
            write_bundle(target, "theirs")

    with pytest.raises(UsageError, match="--force"):
        slow_export()
    assert content_of(target) == "theirs"
    assert siblings(target) == []


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    with staged(target, force=False) as folder:
        write_bundle(folder, "new")
    assert content_of(target) == "new"


def test_force_never_deletes_what_is_not_a_bundle(tmp_path: Path) -> None:
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter1.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"not a bundle \(it has no cls_export.json\)"), staged(target, force=True):
        pytest.fail("the block must not run")
    assert (target / "chapter1.tex").read_text() == "years of work"


def test_a_file_and_a_symbolic_link_are_refused(tmp_path: Path, old_bundle: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("text")
    link.symlink_to(old_bundle)
    with pytest.raises(UsageError, match="is a file"), staged(file, force=True):
        pytest.fail("the block must not run")
    with pytest.raises(UsageError, match="is a symbolic link"), staged(link, force=True):
        pytest.fail("the block must not run")
    assert link.is_symlink()
    assert content_of(old_bundle) == "old"


def test_an_unusable_parent_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(UsageError, match="cannot be written"), staged(tmp_path / "file" / "bundle", force=False):
        pytest.fail("the block must not run")


KILLED_EXPORT = """
    import os, signal, sys
    from pathlib import Path
    from cls_exporter.writing import publish

    where, target = sys.argv[1], Path(sys.argv[2])

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def before(name):
        whole = getattr(publish, name)
        def dying(*arguments, **options):
            die()
        setattr(publish, name, dying)

    if where.startswith("two steps"):
        publish._exchange = lambda first, second: False
    if where == "two steps, between":
        # The second rename of the replacement is the new bundle's.
        renames = []
        rename = Path.rename
        def counted(self, other):
            renames.append(other)
            return die() if len(renames) == 2 else rename(self, other)
        Path.rename = counted
    if where in ("before sync", "before rename"):
        before({"before sync": "_sync", "before rename": "_put_in_place"}[where])
    if where == "two steps, after":
        rmtree = publish.shutil.rmtree
        publish.shutil.rmtree = lambda path, **options: die() if path.exists() else rmtree(path, **options)
    if where == "after rename":
        publish._sync = lambda folder: None
        publish.sync_folder = lambda folder: die()

    with publish.staged(target, force=True) as folder:
        for index in range(12):
            if where == "half written" and index == 6:
                die()
            (folder / f"part{index}").write_text("new")
        (folder / "cls_export.json").write_text("new")
"""


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("half written", "old"),
        ("before sync", "old"),
        ("before rename", "old"),
        ("after rename", "new"),
        ("two steps, between", None),
        ("two steps, after", "new"),
    ],
)
def test_a_killed_export_leaves_a_whole_bundle_or_none(old_bundle: Path, where: str, expected: str | None) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED_EXPORT), where, str(old_bundle)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert content_of(old_bundle) == expected
    assert siblings(old_bundle), "the killed export left nothing behind, so it was not killed where the test says"

    # The next export finds the old bundle again where it was renamed aside, and clears up.
    with pytest.raises(RuntimeError, match="stop"), staged(old_bundle, force=True):
        raise RuntimeError("stop")
    assert content_of(old_bundle) == (expected or "old")
    assert siblings(old_bundle) == []


def test_the_folder_of_a_running_export_is_left_alone(old_bundle: Path) -> None:
    with staged(old_bundle, force=True) as first:
        write_bundle(first, "first")
        with staged(old_bundle, force=True) as second:
            write_bundle(second, "second")
        assert first.exists()
    assert content_of(old_bundle) == "first"
