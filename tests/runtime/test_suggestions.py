import subprocess
import sys

import pytest

from cls_runtime.errors import UsageError
from cls_runtime.jobs.options import check_choice
from cls_runtime.suggestions import closest, did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("--poolin", ["--pooler", "--pooling"], "--pooling"),
        ("int9", ["fp32", "int8"], "int8"),
        ("QUERY", ["query", "document"], "query"),
        ("querry", ["Query"], "Query"),
        ("abacus", ["onnxruntime", "cuda"], None),
        ("", ["fp32"], None),
        (None, ["fp32"], None),
        (8, ["8"], None),
        ("x" * 100_000, ["x" * 100_000], None),
        ("fp32", [], None),
    ],
)
def test_the_closest_name(word, known, meant):
    assert closest(word, known) == meant
    assert did_you_mean(word, known) == ("" if meant is None else f" (did you mean {meant}?)")


def test_messages_have_the_remark():
    with pytest.raises(UsageError, match=r"^dtype is 'flaot16', expected one of float32, float16 \(did you mean float16\?\)$"):
        check_choice("dtype", "flaot16", ["float32", "float16"])


def test_nothing_is_loaded_before_there_is_an_error():
    program = "import sys; import cls_runtime.commands.embed; sys.exit('difflib' in sys.modules or 'shtab' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
