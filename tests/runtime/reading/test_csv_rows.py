"""What is CSV and what is not: after a bad row reading goes on where the next row begins, or ends with one line."""

import csv
import re

import pytest

from cls_runtime.errors import ClsError, TextError
from cls_runtime.jobs.inputs import END, JobInputs


def read(tmp_path, content, on_error="skip", **options):
    """The texts, and the reasons of the rows that have none."""
    (tmp_path / "in.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    blocks = list(JobInputs.find([str(tmp_path / "in.csv")], on_error=on_error, with_columns=bool(options), **options).blocks([(0, END)]))
    texts, skipped = [text for block in blocks for text in block.texts], [row for block in blocks for row in block.skipped]
    assert sum(block.stop - block.start for block in blocks) == len(texts) + (len(skipped) if on_error == "skip" else 0)
    return texts, [item.reason.removeprefix(str(tmp_path)) for item in skipped]


PROSE = "One line, of prose, as long as it likes to be.\n" * 4000
PLAIN = [f"{row},cat {row}\n" for row in range(15_000)]

# name: rows behind the header "id,text", the texts that are read, what is said of each row that is not.
ONE_BAD_ROW = {
    "quote opened and lost, the next quoted row far away": (
        [*PLAIN[:100], '100,"lost\n', *PLAIN[101:14_315], '14315,"a, b"\n'],
        [f"cat {row}" for row in range(14_315) if row != 100] + ["a, b"],
        ["line 102 is not CSV"],
    ),
    "never closed": ([PLAIN[0], '1,"lost\n', *PLAIN[2:9]], [f"cat {row}" for row in range(9) if row != 1], ["line 3 is not CSV"]),
    "all rows quoted": (['0,"a"\n', '1,"lost\n', '2,"b"\n', '3,"c"\n'], ["a", "b", "c"], ["line 3 is not CSV"]),
    "lost in the last row": (['0,"a"\n', '1,"lost\n'], ["a"], ["line 3 is not CSV"]),
    "two lost quotes": (
        ['0,"lost\n', *PLAIN[1:5], '5,"lost\n', *PLAIN[6:9]],
        [f"cat {row}" for row in (1, 2, 3, 4, 6, 7, 8)],
        ["line 2", "line 7"],
    ),
    "before a row of several lines": (['0,"lost\n', PLAIN[1], '2,"two\nlines"\n'], ["cat 1", "two\nlines"], ["line 2 is not CSV"]),
    "a field of prose that ends badly": (['0,"Dear\nall of\nyou" x\n', PLAIN[1]], ["cat 1"], ["line 2 is not CSV"]),
    "a field over the module's limit": ([PLAIN[0], f"1,{'x' * 200_000}\n", PLAIN[2]], ["cat 0", "x" * 200_000, "cat 2"], []),
    "a field of many lines over it": ([PLAIN[0], f'1,"{PROSE}"\n', PLAIN[2]], ["cat 0", PROSE, "cat 2"], []),
    "a field of rows over it": (
        [PLAIN[0], '1,"lost\n', *PLAIN[2:15_000]],
        [f"cat {row}" for row in range(15_000) if row != 1],
        ["line 3 is not CSV (a field of more than 131,072 characters, nearly all lines of which are rows"],
    ),
    "a line that is too long": ([PLAIN[0], f"1,{'x' * (2**24 + 1)}\n", PLAIN[2]], ["cat 0", "cat 2"], ["line 3 is longer than"]),
    "a carriage return alone": ([PLAIN[0], "1,a\rb\n", PLAIN[2]], ["cat 0", "cat 2"], ["end lines with LF or CRLF"]),
    "a byte order mark within": ([PLAIN[0], '\ufeff1,"a, b"\n'], ["cat 0", "a, b"], []),
    "a quote in a field without quotes": (['0,5" pipe\n', '1,"a ""b"""\n'], ['5" pipe', 'a "b"'], []),
}


@pytest.mark.parametrize("name", ONE_BAD_ROW)
def test_a_bad_row_is_one_row(tmp_path, name):
    rows, texts, reasons = ONE_BAD_ROW[name]
    read_texts, said = read(tmp_path, "id,text\n" + "".join(rows))
    assert read_texts == texts
    assert len(said) == len(reasons)
    assert all(expected in reason for expected, reason in zip(reasons, said, strict=True))
    assert csv.field_size_limit() == 131_072, "nothing global is changed"
    if reasons:
        with pytest.raises(TextError, match=re.escape(reasons[0])):
            read(tmp_path, "id,text\n" + "".join(rows), on_error="raise")


UNDECIDED = {
    "prose whose lines look like rows": 'id,text\n0,"Dear all, hello\nhow are you\nsee you, bye" x\n1,cat\n',
    "a single column": 'text\n"lost\ncat\n"dog"\n',
    "opened in one row and closed in another": 'id,text\n0,"lost\n' + "".join(PLAIN[1:40]) + '40,cat"\n41,dog\n',
}


@pytest.mark.parametrize("name", UNDECIDED)
@pytest.mark.parametrize("on_error", ["raise", "skip", "null"])
def test_what_cannot_be_decided_ends_the_file(tmp_path, name, on_error):
    with pytest.raises(TextError, match=r"lines \d+ to \d+: a quote opens in the first of them and seems to be lost"):
        read(tmp_path, UNDECIDED[name], on_error)


FOREIGN = {
    "UTF-16 with its mark": "id,text\n1,cat\n".encode("utf-16"),
    "UTF-16 without it": "id,text\n1,cat\n".encode("utf-16-be"),
    "UTF-32": "id,text\n1,cat\n".encode("utf-32"),
    "line ends of old Macintoshes": b"id,text\r1,cat\r",
    "a header in Latin-1": "id,t\xe9xt\n1,cat\n".encode("latin-1"),
    "a header twice": b"id,text,text\n1,a,b\n",
    "an open header": b'id,"text\n1,cat\n',
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("on_error", ["raise", "skip", "null"])
def test_what_is_no_csv_file_is_one_line(tmp_path, name, on_error):
    with pytest.raises(ClsError) as caught:
        read(tmp_path, FOREIGN[name], on_error)
    assert "\n" not in str(caught.value)


def test_an_empty_id_is_a_bad_row(tmp_path):
    texts, said = read(tmp_path, "id,text\n1,a\n,b\n3,c\n", id_column="id")
    assert (texts, said) == (["a", "c"], ["/in.csv line 3 has no 'id', which is the id column"])
