"""Files of ranges: what numpy.save writes is read, anything else is one line that says what it is."""

import io
import os
import pickle
import re

import numpy as np
import pytest

from cls_runtime.errors import UsageError
from cls_runtime.jobs.ranges import ranges_sha256, read_ranges

GOOD = np.array([[-1, -2, 0], [1, 2.5, 0]], dtype=np.float32)


def saved(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "data",
    [saved(GOOD), saved(GOOD.T.copy().T), saved(np.asfortranarray(GOOD))],
    ids=["as it is", "transposed", "in Fortran's order"],
)
def test_what_numpy_saves_is_read(tmp_path, data):
    path = tmp_path / "ranges.npy"
    path.write_bytes(data)
    ranges = read_ranges(path)
    assert ranges.dtype == np.float32
    np.testing.assert_array_equal(ranges, GOOD)
    assert ranges_sha256(ranges) == ranges_sha256(GOOD)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format_is_read(tmp_path, version):
    with (tmp_path / "ranges.npy").open("wb") as file:
        np.lib.format.write_array(file, GOOD, version=version)
    np.testing.assert_array_equal(read_ranges(tmp_path / "ranges.npy"), GOOD)


BAD = {
    "float64": (saved(GOOD.astype(np.float64)), "holds float64 [2, 3]"),
    "big-endian": (saved(GOOD.astype(">f4")), "holds >f4 [2, 3]"),
    "other shape": (saved(GOOD.T.copy()), "holds float32 [3, 2]"),
    "one row": (saved(GOOD[0]), "holds float32 [3]"),
    "pickled": (saved(np.array([{"a": 1}, None])), "holds objects, or what no numpy.save writes"),
    "a pickle": (pickle.dumps(GOOD), "is no .npy file"),
    "records": (saved(np.zeros(2, dtype=[("a", "f4")])), "holds objects, or what no numpy.save writes"),
    "an archive": (b"PK\x03\x04" + bytes(100), "is no .npy file"),
    "nothing": (b"", "is no .npy file"),
    "a header alone": (b"\x93NUMPY\x01\x00", "holds objects, or what no numpy.save writes"),
    "cut": (saved(GOOD)[:-1], "says float32 [2, 3] and holds 23 bytes"),
    "more than it says": (saved(GOOD) + b"\0", "says float32 [2, 3] and holds 25 bytes"),
    "a petabyte": (
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 99999999999999), }\n"),
        "says float32 [2, 99999999999999] and holds 0 bytes",
    ),
    "a program": (header(b"__import__('os').abort()\n"), "holds objects, or what no numpy.save writes"),
    "brackets": (header(b"(" * 60_000 + b"\n"), "holds objects, or what no numpy.save writes"),
    "larger than any": (saved(np.zeros((2, 2**17), np.float32)), "is larger than any"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_ranges_is_one_line(tmp_path, case):
    path = tmp_path / "ranges.npy"
    data, reason = BAD[case]
    path.write_bytes(data)
    with pytest.raises(
        UsageError, match=f"^ranges file {re.escape(f'{path} {reason}')}; expected float32 .2, width., as numpy.save writes Enc"
    ):
        read_ranges(path)


def test_what_is_no_file_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("none.npy", "does not exist"), (".", "cannot be read"), ("pipe", "cannot be read")):
        with pytest.raises(UsageError, match=f"{reason}; expected float32"):
            read_ranges(tmp_path / name)


def test_the_hash_is_of_the_numbers_alone():
    assert ranges_sha256(GOOD) == ranges_sha256(np.asfortranarray(GOOD)) == ranges_sha256(GOOD.astype(">f4"))
    assert ranges_sha256(GOOD) != ranges_sha256(GOOD[::-1])
