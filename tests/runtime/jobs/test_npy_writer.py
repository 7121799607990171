import errno
from pathlib import Path

import numpy as np
import pytest

from cls_runtime.errors import UsageError
from cls_runtime.jobs.npy_writer import npy_writer


def names(folder):
    return [path.name for path in folder.iterdir()]


def append_and(action, path):
    with npy_writer(path, width=3) as writer:
        writer.append(rows(4))
        action()


def rows(count, width=3):
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


@pytest.mark.parametrize("blocks", [[], [0], [1], [5, 0, 7], [1000]])
def test_what_is_appended_is_in_the_file(tmp_path, blocks):
    path = tmp_path / "out.npy"
    with npy_writer(path, width=3) as writer:
        for count in blocks:
            writer.append(rows(count))
    loaded = np.load(path, allow_pickle=False)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, np.concatenate([rows(count) for count in (*blocks, 0)]))
    assert writer.rows == sum(blocks)
    assert names(tmp_path) == ["out.npy"]


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8"])
def test_other_numbers(tmp_path, dtype):
    numbers = np.arange(12).reshape(4, 3).astype(dtype)
    with npy_writer(tmp_path / "out.npy", width=3, dtype=dtype) as writer:
        writer.append(numbers[:1])
        writer.append(numbers[1:])
        with pytest.raises(ValueError, match=rf"rows are float32 \[2, 3\], expected {dtype} \[n, 3\]"):
            writer.append(rows(2))
    loaded = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert loaded.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(loaded, numbers)


def test_the_file_can_be_memory_mapped(tmp_path):
    with npy_writer(tmp_path / "out.npy", width=3) as writer:
        writer.append(rows(10)[::2])  # not contiguous
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy", mmap_mode="r"), rows(10)[::2])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [None, b"old"])
def test_an_exception_leaves_everything_as_it_was(tmp_path, error, existing):
    path = tmp_path / "out.npy"
    if existing is not None:
        path.write_bytes(existing)

    def fail():
        raise error

    with pytest.raises(error):
        append_and(fail, path)
    assert names(tmp_path) == ([] if existing is None else ["out.npy"])
    assert existing is None or path.read_bytes() == existing


def test_an_existing_file_is_replaced_only_at_the_end(tmp_path):
    path = tmp_path / "out.npy"
    path.write_bytes(b"old")
    with npy_writer(path, width=3) as writer:
        writer.append(rows(2))
        assert path.read_bytes() == b"old"
    assert np.load(path).shape == (2, 3)


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "data").mkdir()
    link = tmp_path / "out.npy"
    link.symlink_to(tmp_path / "data" / "real.npy")
    with npy_writer(link, width=3) as writer:
        writer.append(rows(2))
    assert link.is_symlink()
    assert np.load(tmp_path / "data" / "real.npy").shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.parquet", "expected a name that ends in .npy"),
        ("out", "expected a name that ends in .npy"),
        ("missing/out.npy", "missing does not exist; make it first"),
        ("folder.npy", "exists and is not a file"),
    ],
)
def test_a_bad_target_is_refused_at_once(tmp_path, name, message):
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(UsageError, match=message):
        npy_writer(tmp_path / name, width=3).__enter__()


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path, monkeypatch):
    def refuse(self, mode):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match=r"out\.npy cannot be written \(Permission denied\); choose another"):
        npy_writer(tmp_path / "out.npy", width=3).__enter__()


@pytest.mark.parametrize("block", [rows(2, 4), rows(2).astype(np.float64), rows(2)[0]])
def test_rows_of_another_kind_are_refused(tmp_path, block):
    with pytest.raises(ValueError, match=r"expected float32 \[n, 3\]"), npy_writer(tmp_path / "out.npy", width=3) as writer:
        writer.append(block)
    assert names(tmp_path) == []


def test_rows_behind_the_block_are_refused(tmp_path):
    with npy_writer(tmp_path / "out.npy", width=3) as writer:
        writer.append(rows(2))
    with pytest.raises(ValueError, match="closed file"):
        writer.append(rows(2))
    assert np.load(tmp_path / "out.npy").shape == (2, 3)
