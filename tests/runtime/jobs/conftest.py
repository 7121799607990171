"""Jobs on a tiny bundle: thousands of rows a second, so that what is tested is the job."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from golden_bundle import build_golden_bundle

from cls_runtime.commands import embed

pytest.importorskip("pyarrow")

WORDS = "the cat dog sleeps runs a b c d e f g h running dogs cats".split()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny fp32 bundle whose vectors may be cut to 4 numbers. Read-only by agreement."""
    return build_golden_bundle(tmp_path_factory.mktemp("jobs") / "tiny", matryoshka_dims=(4,))


@pytest.fixture(scope="session")
def make_texts() -> Callable[[int], list[str]]:
    """Texts of ragged lengths, some of them too long for the bundle, many of them repeated, never two runs different."""

    def make(count: int) -> list[str]:
        source = random.Random(count)
        distinct = [
            " ".join(source.choices(WORDS, k=source.randint(0, 12))) + f" {source.randint(0, count)}" for _ in range(count // 2 or 1)
        ]
        return [source.choice(distinct) if source.random() < 0.5 else distinct[row % len(distinct)] for row in range(count)]

    return make


@pytest.fixture
def corpus(tmp_path: Path, make_texts: Callable[[int], list[str]]) -> Path:
    """3,000 rows of JSON lines with `text`, `key` and `score`."""
    path = tmp_path / "corpus.jsonl"
    rows = [{"text": text, "key": f"k{row}", "score": row / 2} for row, text in enumerate(make_texts(3000))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run() -> Callable[..., int]:
    """`cls-embed` in this process; gives the exit code."""
    return lambda *arguments: embed.main([str(argument) for argument in arguments])


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[bytes]]:
    """`cls-embed` in a process of its own; `before` is a program that runs first in it."""

    def start(*arguments: object, before: str = "") -> subprocess.Popen[bytes]:
        program = f"import sys\n{before}\nfrom cls_runtime.commands import embed\nsys.exit(embed.main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


@pytest.fixture
def read() -> Callable[[Path], dict[str, list[object]]]:
    """A folder of shards as columns."""
    from pyarrow import parquet

    return lambda folder: parquet.read_table(folder).to_pydict()


@pytest.fixture
def shard_bytes() -> Callable[[Path], dict[str, bytes]]:
    """The bytes of a folder's shards by name."""
    return lambda folder: {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.fixture
def leftovers() -> Callable[[Path], Sequence[str]]:
    """Names in a folder that are neither shards nor the manifest."""
    return lambda folder: sorted(path.name for path in folder.iterdir() if not path.name.startswith("part-") and path.name != "_job.json")


@pytest.fixture
def spark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Spark of one thread."""
    sql = pytest.importorskip("pyspark.sql")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, and there is no java on the path")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    session = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    yield session
    session.stop()
