"""A bundle appears whole or not at all, whatever kills the export."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cls_exporter.writing import publish
from cls_exporter.writing.publish import staged
from cls_runtime.bundle import file_locks
from cls_runtime.bundle.manifest import (
    MANIFEST_NAME,
    BundleFile,
    Manifest,
    OutputSpec,
    Pooler,
    Source,
    SourcePooling,
    read_manifest,
    to_json,
)
from cls_runtime.errors import UsageError

FILES = 12


def manifest_text(content: str) -> str:
    """A manifest that names the files of `write_bundle`, and that has `content` in it."""
    files = tuple(BundleFile(path=f"part{index}", sha256="0" * 64, size_bytes=len(content)) for index in range(FILES))
    return to_json(
        Manifest(
            source=Source(name="tiny", revision=None, weights_sha256="0" * 64, tokenizer_sha256="0" * 64),
            architecture="bert",
            hidden_size=8,
            num_layers=1,
            max_length=16,
            layout="standard",
            inputs=("input_ids", "attention_mask"),
            outputs=(OutputSpec(name="sentence_embedding", width=8),),
            pooler=Pooler(state="absent", evidence="made by a test"),
            source_pooling=SourcePooling(mode="cls"),
            variants={},
            files=files,
            tool_versions={},
            created=content,
        )
    )


def write_bundle(folder: Path, content: str) -> None:
    """A stand-in for a bundle: several files with the same content, the manifest last."""
    for index in range(FILES):
        (folder / f"part{index}").write_text(content)
    (folder / MANIFEST_NAME).write_text(manifest_text(content))


def content_of(folder: Path) -> str | None:
    """The one content of a whole bundle, None where there is none; fails on half a bundle."""
    if not folder.exists():
        return None
    names = {f"part{index}" for index in range(FILES)} | {MANIFEST_NAME}
    assert {path.name for path in folder.iterdir()} == names
    contents = {path.read_text() for path in folder.iterdir() if path.name != MANIFEST_NAME}
    (content,) = {*contents, read_manifest(folder).created}
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

    where, target, manifest = sys.argv[1], Path(sys.argv[2]), sys.argv[3]

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
        (folder / "cls_export.json").write_text(manifest)
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
    command = [sys.executable, "-c", textwrap.dedent(KILLED_EXPORT), where, str(old_bundle), manifest_text("new")]
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
    assert siblings(old_bundle) == []


LIVING_EXPORT = """
    import sys
    from pathlib import Path
    from cls_exporter.writing import publish

    with publish.staged(Path(sys.argv[1]), force=True) as folder:
        print(folder.name, flush=True)
        sys.stdin.readline()
"""


def test_an_export_whose_process_is_unknown_here_is_alive_until_it_lets_its_lock_go(
    old_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one in another container on the same volume, whose process id means nothing, or another process, here."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", textwrap.dedent(LIVING_EXPORT), str(old_bundle)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        folder = old_bundle.with_name(other.stdout.readline().strip())
        monkeypatch.setattr(os, "kill", lambda pid, number: (_ for _ in ()).throw(ProcessLookupError))
        with staged(old_bundle, force=True) as second:
            write_bundle(second, "second")
        assert folder.is_dir(), "it lives, whatever its process id says here"
        monkeypatch.undo()
        other.kill()
        other.wait()
    assert folder.is_dir()
    with staged(old_bundle, force=True) as third:
        write_bundle(third, "third")
        assert not folder.exists(), "it is dead, and its lock free"
    assert content_of(old_bundle) == "third"
    assert siblings(old_bundle) == []


def test_without_locks_a_heartbeat_says_who_lives(old_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network file system that has none."""
    monkeypatch.setattr(file_locks, "lock", lambda descriptor: False)
    monkeypatch.setattr(file_locks, "HEARTBEAT_SECONDS", 0.01)
    with staged(old_bundle, force=True) as first:
        lock = first.with_name(f"{first.name}.lock")
        os.utime(lock, (0, 0))
        while lock.stat().st_mtime == 0:  # however long the heart takes to beat
            time.sleep(0.01)
        write_bundle(first, "first")
        with staged(old_bundle, force=True) as second:
            write_bundle(second, "second")
        assert first.exists()
    assert siblings(old_bundle) == []
    dead = old_bundle.with_name(".bundle.cls-export-0123456789abcdef")
    dead.mkdir()
    stale = dead.with_name(f"{dead.name}.lock")
    stale.touch()
    os.utime(stale, (0, 0))
    with staged(old_bundle, force=True) as third:
        write_bundle(third, "third")
    assert siblings(old_bundle) == []


@pytest.mark.parametrize(
    "name",
    [".bundle.cls-export-old", ".bundle.cls-export-1-2-0badcafe", ".bundle.cls-export-notes", ".bundle.cls-export-0123456789abcdef.txt"],
)
def test_what_only_looks_like_a_leftover_stays(old_bundle: Path, name: str) -> None:
    old_bundle.with_name(name).mkdir()
    with staged(old_bundle, force=True) as folder:
        write_bundle(folder, "new")
    assert siblings(old_bundle) == [name]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "notes.txt").write_text("mine"), "holds 'notes.txt', which is not the bundle's"),
        (lambda folder: (folder / "part0").rename(folder / "PART0"), "holds 'PART0', which is not the bundle's"),
        (
            lambda folder: ((folder / "runs").mkdir(), (folder / "runs" / "1.json").touch()),
            "holds 'runs/1.json', which is not the bundle's",
        ),
        (lambda folder: (folder / MANIFEST_NAME).write_text("{"), "does not say which files are the bundle's"),
    ],
)
def test_force_deletes_only_what_an_export_wrote(old_bundle: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(old_bundle)
    before = sorted(path.name for path in old_bundle.rglob("*"))
    with pytest.raises(UsageError, match=message), staged(old_bundle, force=True):
        pytest.fail("the block must not run")
    assert sorted(path.name for path in old_bundle.rglob("*")) == before
    assert siblings(old_bundle) == []
