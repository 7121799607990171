import contextlib
import io
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cls_runtime.bundle import golden as golden_module
from cls_runtime.bundle.golden import Golden, read_golden, write_golden
from cls_runtime.bundle.token_sample import sampled_positions
from cls_runtime.errors import BundleError


def vectors(rows: int, width: int = 3, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def sample(**changes) -> Golden:
    fields = {"texts": ("a", "two words", ""), "vectors": {"cls": vectors(3), "logits": vectors(3, 2, seed=1)}}
    return Golden(**(fields | changes))


def npy(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_what_is_written_is_read(tmp_path):
    written = sample()
    write_golden(tmp_path / "golden.npz", written)
    read = read_golden(tmp_path / "golden.npz")
    assert read.texts == written.texts
    assert read.text_pairs is None
    assert read.inputs == list(written.texts)
    assert list(read.vectors) == ["cls", "logits"]
    for name, expected in written.vectors.items():
        np.testing.assert_array_equal(read.vectors[name], expected)


def test_pairs_are_kept(tmp_path):
    write_golden(tmp_path / "golden.npz", sample(text_pairs=("x", "y", "z")))
    assert read_golden(tmp_path / "golden.npz").inputs == [("a", "x"), ("two words", "y"), ("", "z")]


def test_tokens_are_kept(tmp_path):
    tokens = ((2, 7, 3), (), (2, 30521, 5, 3))
    write_golden(tmp_path / "golden.npz", sample(token_ids=tokens))
    assert read_golden(tmp_path / "golden.npz").token_ids == tokens
    write_golden(tmp_path / "golden.npz", sample())
    assert read_golden(tmp_path / "golden.npz").token_ids is None


@settings(max_examples=50)
@given(texts=st.lists(st.text().filter(lambda text: not text.endswith("\0")), min_size=1, max_size=5))
def test_any_text_survives(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    write_golden(path, Golden(texts=tuple(texts), vectors={"cls": vectors(len(texts))}))
    assert list(read_golden(path).texts) == texts


def test_numpy_alone_can_read_it_without_pickle(tmp_path):
    write_golden(tmp_path / "golden.npz", sample())
    with np.load(tmp_path / "golden.npz", allow_pickle=False) as arrays:
        assert arrays["texts"].tolist() == ["a", "two words", ""]
        assert arrays["cls"].dtype == np.float32


def test_the_same_content_gives_the_same_bytes(tmp_path):
    forward = sample()
    backward = sample(vectors=dict(reversed(list(forward.vectors.items()))))
    write_golden(tmp_path / "a.npz", forward)
    write_golden(tmp_path / "b.npz", backward)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


ROWS = {"vectors": {"cls": vectors(3), "tokens": vectors(5)}, "row_positions": ((0, 1), (0, 4), (0,))}


def test_rows_of_tokens_are_kept_with_their_positions(tmp_path):
    golden = sample(**ROWS)
    write_golden(tmp_path / "golden.npz", golden)
    read = read_golden(tmp_path / "golden.npz")
    assert read.row_positions == golden.row_positions
    np.testing.assert_array_equal(read.vectors["tokens"], golden.vectors["tokens"])
    with np.load(tmp_path / "golden.npz", allow_pickle=False) as arrays:
        assert arrays["row_counts"].tolist() == [2, 2, 1]
        assert arrays["row_positions"].tolist() == [0, 1, 0, 4, 0]
        assert arrays["row_counts"].dtype == arrays["row_positions"].dtype == np.int32


def test_vectors_may_be_of_another_pooling(tmp_path):
    write_golden(tmp_path / "golden.npz", sample(vectors={"sentence": vectors(3)}))
    assert set(read_golden(tmp_path / "golden.npz").vectors) == {"sentence"}


@pytest.mark.parametrize(
    ("tokens", "positions"),
    [(1, [0]), (8, list(range(8))), (9, [0, 1, 2, 3, 4, 5, 6, 8]), (512, [0, 73, 146, 219, 292, 365, 438, 511])],
)
def test_a_sample_of_rows_is_spread_over_the_text(tokens, positions):
    assert sampled_positions(tokens).tolist() == positions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": ()}, "at least one text"),
        ({"texts": ("a", "b", "c\0")}, "ends with a NUL"),
        ({"text_pairs": ("x",)}, "1 text_pairs for 3 texts"),
        ({"token_ids": ((1,),)}, "tokens of 1 texts for 3 texts"),
        ({"vectors": {"pooler": vectors(3)}}, "expected cls"),
        ({"vectors": {"cls": vectors(3), "mean": vectors(3)}}, "expected cls or sentence, and at most"),
        ({"vectors": {"cls": vectors(3), "sentence": vectors(3)}}, "expected cls or sentence"),
        ({"vectors": {"cls": vectors(3), "tokens": vectors(3)}}, "rows of tokens go with their positions"),
        ({"row_positions": ((0,), (0,), (0,))}, "rows of tokens go with their positions"),
        (ROWS | {"row_positions": ((0, 1), (0, 4))}, "positions in 2 texts for 3 texts"),
        (ROWS | {"row_positions": ((0, 1), (0, 4), ())}, "at least one, from 0 on and ascending"),
        (ROWS | {"row_positions": ((0, 1), (4, 0), (0,))}, "at least one, from 0 on and ascending"),
        (ROWS | {"row_positions": ((0, 1), (-1, 0), (0,))}, "at least one, from 0 on and ascending"),
        (ROWS | {"row_positions": ((0, 1), (0, 4), (0, 1))}, r"tokens is float32 \[5, 3\], expected float32 \[6, width\]"),
        ({"vectors": {"cls": vectors(2)}}, r"float32 \[3, width\]"),
        ({"vectors": {"cls": vectors(3).astype(np.float64)}}, r"expected float32"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        sample(**changes)


TEXTS = npy(np.array(["a", "b"]))
CLS = npy(vectors(2))
WHOLE = {"texts.npy": TEXTS, "cls.npy": CLS}


def int32(*values: int) -> bytes:
    return npy(np.array(values, dtype=np.int32))


def headed(header: str, body: bytes = b"") -> bytes:
    """A `.npy` file with this header, whatever it says."""
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + body


def described(descr: str = "'<f4'", shape: str = "(2, 3)", order: str = "False", body: bytes = bytes(24)) -> bytes:
    return headed(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n", body)


class MakesAFolder:
    """Makes a folder when somebody unpickles it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self.folder),))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"cls.npy": CLS}, "expected texts and their vectors"),
        ({"texts.npy": TEXTS}, "expected cls"),
        ({"texts.npy": TEXTS, "cls.npy": CLS, "more.npy": CLS}, "not 'more'"),
        ({"texts.npy": CLS, "cls.npy": CLS}, r"texts is float32 \[2, 3\], expected unicode"),
        ({"texts.npy": TEXTS, "cls.npy": npy(vectors(1))}, r"cls is float32 \[1, 3\], expected float32 \[2, width\]"),
        ({"texts.npy": TEXTS, "cls.npy": npy(np.zeros((2, 3)))}, "cls.npy has another header"),
        ({"texts.npy": TEXTS, "cls.npy": int32(1, 2)}, r"cls is int32 \[2\], expected float32 \[2, width\]"),
        ({"texts.npy": TEXTS, "cls.npy": CLS[:-4]}, "holds 20 bytes"),
        ({"texts.npy": TEXTS, "cls.npy": CLS[:20]}, "cannot be read"),
        ({"texts.npy": TEXTS, "cls.npy": b""}, "cannot be read"),
        ({"texts.npy": TEXTS, "cls.npy": b"not an array"}, "cannot be read"),
        ({"texts.npy": TEXTS, "cls.npy": npy(vectors(2), version=(2, 0))}, "format version"),
        ({"texts.npy": TEXTS, "cls.npy": CLS.replace(b"(2, 3)", b"(2,-3)")}, "another header"),
        (WHOLE | {"cls.npy": headed("(" * 9000)}, "another header"),
        (WHOLE | {"cls.npy": headed("-" * 9000 + "1\n")}, "another header"),
        (WHOLE | {"cls.npy": headed("[" * 60_000 + "\n")}, "another header"),
        (WHOLE | {"cls.npy": headed("{'descr': '<f4'")}, "another header"),
        (WHOLE | {"cls.npy": b"\x93NUMPY\1\0\xff\xff"}, "another header"),
        (WHOLE | {"cls.npy": described(shape="(" + "9" * 5000 + ", 3)")}, "another header"),
        (WHOLE | {"cls.npy": described(shape="(2, 3, 1)")}, "another header"),
        (WHOLE | {"cls.npy": described(shape="()")}, "another header"),
        (WHOLE | {"cls.npy": described(shape="(1000000000, 3)")}, "holds 24 bytes"),
        (WHOLE | {"cls.npy": described(order="True")}, "another header"),
        (WHOLE | {"cls.npy": described("'>f4'")}, "another header"),
        (WHOLE | {"cls.npy": described("[('a', '<f4'), ('b', '|O')]")}, "another header"),
        (WHOLE | {"cls.npy": described("'|O'")}, "another header"),
        (WHOLE | {"cls.npy": described("'<f4'", shape="(2, 0)", body=b"")}, r"cls is float32 \[2, 0\], expected float32 \[2, width\]"),
        (WHOLE | {"texts.npy": described("'<U0'", shape="(1000000000000,)", body=b"")}, "texts.npy has another header"),
        (WHOLE | {"texts.npy": described("'<U1'", shape="(0,)", body=b"")}, "at least one text"),
        (WHOLE | {"texts.npy": described("'<U99999999'", shape="(2,)")}, "texts.npy says <U99999999"),
        (WHOLE | {"texts.npy": described("'<U999999999'", shape="(2,)")}, "texts.npy has another header"),
        (WHOLE | {"texts.npy": described("'>U1'", shape="(2,)", body=bytes(8))}, "texts.npy has another header"),
        (WHOLE | {"texts.npy": TEXTS[:-4] + struct.pack("<I", 0x110000)}, "the number 0x110000 for a character"),
        (WHOLE | {"texts.npy": TEXTS[:-4] + b"\xff" * 4}, "the number 0xffffffff for a character"),
        (WHOLE | {"texts.npy": TEXTS[:-4] + struct.pack("<I", 0xD800)}, "the number 0xd800 for a character"),
        (WHOLE | {"texts.npy": npy(np.array(["a"] * 100_001))}, "texts has 100,001 texts, expected at most 100,000"),
        (WHOLE | {"a\x1b[2Jb.npy": CLS}, r"not 'a\\x1b\[2Jb'"),
        (WHOLE | {f"{number}.npy": CLS for number in range(200)}, "expected texts and their vectors, not '0'"),
        (WHOLE | {"token_ids.npy": int32(1)}, "token_ids without token_counts"),
        (WHOLE | {"token_counts.npy": int32(1, 1)}, "token_counts without token_ids"),
        (WHOLE | {"token_counts.npy": int32(1, 1), "token_ids.npy": int32(1)}, "token_counts add up to 2, token_ids has 1"),
        (WHOLE | {"token_counts.npy": int32(2, -1), "token_ids.npy": int32(1)}, "token_counts add up to 1, token_ids has 1"),
        (WHOLE | {"token_counts.npy": int32(1), "token_ids.npy": int32(1)}, "tokens of 1 texts for 2 texts"),
        (WHOLE | {"row_counts.npy": int32(1, 1)}, "row_counts without row_positions"),
        (WHOLE | {"row_counts.npy": int32(1, 1), "row_positions.npy": int32(0, 0)}, "rows of tokens go with their positions"),
        (WHOLE | {"token_counts.npy": CLS, "token_ids.npy": int32(1)}, r"token_counts is float32 \[2, 3\], expected int32 \[n\]"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, members, message):
    path = write_zip(tmp_path / "golden.npz", members)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=message) as caught:
            read_golden(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert peak < 2**24


def packed_by(method):
    def build(path):
        with zipfile.ZipFile(path, "w", compression=method) as archive:
            for name, data in WHOLE.items():
                archive.writestr(name, data * 50)
        data = bytearray(path.read_bytes())
        data[80] ^= 0xFF
        path.write_bytes(data)

    return build


def said_to_be_large(path):
    """Each member is said to have 4 GB when unpacked."""
    write_zip(path, WHOLE)
    path.write_bytes(path.read_bytes().replace(struct.pack("<II", len(CLS), len(CLS)), struct.pack("<II", len(CLS), 2**32 - 2)))


def said_to_be_small(path):
    """A megabyte of deflated zeros that is said to be 100 bytes."""
    packer = zlib.compressobj(wbits=-15)
    body = packer.compress(bytes(2**20)) + packer.flush()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("texts.npy", TEXTS)
        archive.writestr("cls.npy", bytes(2**20))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<II", len(body), 2**20), struct.pack("<II", len(body), 100)))


def twice(path):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for name, data in [*WHOLE.items(), *WHOLE.items()]:
            archive.writestr(name, data)


def with_a_password(path):
    write_zip(path, WHOLE)
    data = path.read_bytes().replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0")
    path.write_bytes(data)


def many_members(path):
    write_zip(path, {f"{number:x}": b"" for number in range(5000)})


def many_members_in_zip64(path):
    """The plain end says nothing; another record before it, which wins, has the directory."""
    many_members(path)
    data = path.read_bytes()
    end = len(data) - 22
    count, size, offset = struct.unpack("<HLL", data[end + 10 : end + 20])
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    path.write_bytes(data[:end] + record + locator + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0))


def with_a_comment(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = b"x" * 60_000
        for name, data in WHOLE.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (packed_by(zipfile.ZIP_LZMA), "packed by method 14, expected stored or deflated"),
        (packed_by(zipfile.ZIP_BZIP2), "packed by method 12, expected stored or deflated"),
        (packed_by(zipfile.ZIP_DEFLATED), "cannot be read"),
        (said_to_be_large, "unpacks to 4,294,967,4.. bytes, expected at most"),
        (said_to_be_small, "cannot be read"),
        (twice, "expected each once"),
        (with_a_password, "encrypted"),
        (many_members, "its directory has 2.*,... bytes, expected at most 65,536"),
        (many_members_in_zip64, "its directory has"),
        (with_a_comment, "does not end with its directory"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.mkdir(), "not a regular file"),
    ],
)
@pytest.mark.timeout(20)
def test_a_zip_that_is_not_ours_is_one_clear_error(tmp_path, build, message):
    build(tmp_path / "golden.npz")
    with pytest.raises(BundleError, match=message) as caught:
        read_golden(tmp_path / "golden.npz")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    write_golden(path, sample(token_ids=((2, 7, 3), (), (2, 5, 3))))
    return path.read_bytes()


@settings(max_examples=150)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=4), st.booleans()), min_size=1, max_size=3),
    member=st.sampled_from([None, "texts.npy", "token_counts.npy", "token_ids.npy", "cls.npy"]),
)
def test_any_bytes_are_read_or_one_clear_error(tmp_path_factory, whole, edits, member):
    """Bytes of the whole file changed, or of one member before it is packed, so that no checksum shows it."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = bytearray(whole if member is None else members[member])
    for place, new, insert in edits:
        start = place % len(data)
        data[start : start if insert else start + len(new)] = new
    path = tmp_path_factory.mktemp("fuzzed") / "golden.npz"
    if member is None:
        path.write_bytes(data)
    else:
        write_zip(path, members | {member: bytes(data)})
    with contextlib.suppress(BundleError):
        assert read_golden(path).texts


def test_a_pickle_is_never_opened(tmp_path):
    trap = MakesAFolder(tmp_path / "unpickled")
    path = write_zip(tmp_path / "golden.npz", {"texts.npy": npy(np.array([trap], dtype=object), allow_pickle=True), "cls.npy": CLS})
    with pytest.raises(BundleError):
        read_golden(path)
    assert not trap.folder.exists()
    pickle.loads(pickle.dumps(trap))
    assert trap.folder.exists(), "the trap must work, or this test proves nothing"


def test_a_header_that_claims_terabytes_costs_nothing(tmp_path):
    claim = CLS.replace(b"(2, 3), }         ", b"(99999999999, 3),}")
    assert len(claim) == len(CLS)
    path = write_zip(tmp_path / "golden.npz", {"texts.npy": TEXTS, "cls.npy": claim})
    with pytest.raises(BundleError, match="holds 24 bytes"):
        read_golden(path)


def test_a_zip_bomb_is_refused_before_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr(golden_module, "MAX_GOLDEN_BYTES", 1000)
    path = write_zip(tmp_path / "golden.npz", {"texts.npy": TEXTS, "cls.npy": npy(vectors(400))})
    with pytest.raises(BundleError, match="at most 1,000"):
        read_golden(path)


def test_missing_truncated_and_foreign_files(tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        read_golden(tmp_path / "golden.npz")
    write_golden(tmp_path / "golden.npz", sample())
    whole = (tmp_path / "golden.npz").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(BundleError, match="cannot be read"):
            read_golden(tmp_path / "cut.npz")
    with pytest.raises(BundleError):
        read_golden(tmp_path)


def test_a_flipped_byte_is_noticed(tmp_path):
    write_golden(tmp_path / "golden.npz", sample())
    damaged = bytearray((tmp_path / "golden.npz").read_bytes())
    damaged[damaged.index(vectors(3).tobytes()) + 5] ^= 0xFF
    (tmp_path / "golden.npz").write_bytes(damaged)
    with pytest.raises(BundleError, match="CRC"):
        read_golden(tmp_path / "golden.npz")
