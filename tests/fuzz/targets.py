"""What is fuzzed: each target reads an attacker's bytes as one kind of file, or one command line, and may end well or in a `ClsError`."""

from __future__ import annotations

import functools
import gzip
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
from golden_bundle import agree, build_golden_bundle
from hypothesis import strategies as st
from mutations import mutated_bytes, mutated_json

from cls_runtime import ClsError, Encoder
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.manifest import MANIFEST_NAME, read_manifest
from cls_runtime.bundle.onnx_form import external_files
from cls_runtime.encoding.vector_options import VectorOptions
from cls_runtime.jobs.job import run_job
from cls_runtime.jobs.job_manifest import JOB_NAME
from cls_runtime.jobs.options import JobOptions
from cls_runtime.jobs.ranges import read_ranges
from cls_runtime.reading.rows import BATCH_ROWS, Columns
from cls_runtime.reading.text_files import TextFile

TEXTS = ["the cat sleeps", "", "a", "the dog runs, " * 9, "\ufeffzebra\u200b!"]
CORPUS = Path(__file__).parent / "corpus"
EDITS = ".edits.json"


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes:
        name: also the corpus's folder.
        seeds: good inputs, of which mutations are made beside those of the corpus.
        read: reads one in an empty folder.
        is_json: whether values are mutated, and not bytes alone.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[bytes, Path], object]
    is_json: bool = False

    def corpus(self) -> list[Path]:
        """Inputs that got through once, or that an attacker would try first."""
        return sorted(path for path in (CORPUS / self.name).iterdir() if path.is_file())

    def content(self, path: Path) -> bytes:
        """A file of the corpus as it is read: itself, or the first seed with values put into it, [path, value] each."""
        if not path.name.endswith(EDITS):
            return path.read_bytes()
        value = json.loads(self.seeds()[0])
        for (*parents, key), new in json.loads(path.read_text()):
            functools.reduce(lambda part, step: part[step], parents, value)[key] = new
        return json.dumps(value).encode()

    def inputs(self) -> st.SearchStrategy[bytes]:
        """Mutations of the seeds and of the corpus."""
        known = [*self.seeds(), *map(self.content, self.corpus())]
        by_bytes = mutated_bytes(known)
        if not self.is_json:
            return by_bytes
        return st.one_of(mutated_json([value for value in map(_parsed, known) if value is not None]), by_bytes)


def outcome(target: Target, data: bytes) -> str:
    """How reading ended: `read`, or the one line of the error. Whatever else is raised is the failure that is looked for."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            target.read(data, Path(folder))
        except ClsError as error:
            return str(error)
        return "read"


def _parsed(data: bytes) -> Any:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (dict, list)) else None


# ---------------------------------------------------------------- a bundle


_HOME = tempfile.TemporaryDirectory(prefix="fuzz-")  # of what is made once; gone when the process ends


@functools.cache
def _bundle() -> Path:
    return build_golden_bundle(Path(_HOME.name) / "bundle")


def _own_bundle(folder: Path) -> Path:
    return Path(shutil.copytree(_bundle(), folder / "bundle"))


def _with_companion(folder: Path, name: str, data: bytes) -> Path:
    """A bundle with this in the place of one of its files, every hash made to fit."""
    bundle = _own_bundle(folder)
    (bundle / name).write_bytes(data)
    agree(bundle)
    return bundle


def _encoded(bundle: Path) -> None:
    with Encoder.load(bundle, threads=1, on_overflow="truncate", on_invalid="keep") as encoder:
        for output in encoder.outputs:
            encoder.encode(TEXTS, output=output)


def _read_manifest(data: bytes, folder: Path) -> None:
    bundle = _own_bundle(folder)
    (bundle / MANIFEST_NAME).write_bytes(data)
    _encoded(bundle)


def _manifests() -> list[bytes]:
    """With the fingerprint and without: one that does not fit ends the reading before anything else is looked at."""
    whole = json.loads((_bundle() / MANIFEST_NAME).read_text())
    return [json.dumps(value).encode() for value in (whole, {**whole, "fingerprint": ""})]


def _read_golden(data: bytes, folder: Path) -> None:
    (folder / GOLDEN_NAME).write_bytes(data)
    read_golden(folder / GOLDEN_NAME)


def _read_onnx(data: bytes, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(data)
    external_files(folder / "model.onnx")


def _read_ranges(data: bytes, folder: Path) -> None:
    (folder / "ranges.npy").write_bytes(data)
    VectorOptions(dtype="int8", ranges=read_ranges(folder / "ranges.npy")).of(read_manifest(_bundle()))


def _saved_ranges() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([[-1] * 8, [1] * 8], dtype=np.float32))
    return file.getvalue()


# ---------------------------------------------------------------- texts and jobs


ROWS, TEXTS_ALONE = Columns("text", ("id",)), Columns("text")
NESTED = Columns("doc.text", ("doc.id", "doc"), pairs=True, delimiter=";")


def _read_rows(kind: str, columns: Columns = ROWS) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        name = folder / f"texts{kind}"
        name.write_bytes(data)
        file = TextFile.named(str(name))
        file.check(columns)
        with file.rows(columns) as reader:
            while (rows := reader.take(BATCH_ROWS)).texts:
                assert len(rows.texts) == len(rows.errors)
                assert all((text is None) == bool(error) for text, error in zip(rows.texts, rows.errors, strict=True))

    return read


def _parquet(columns: Mapping[str, Sequence[object]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


PLAIN = {"text": [*TEXTS, None], "id": [1, 2, 3, 4, 5, None]}
NESTED_PAIRS = {"doc": [{"text": ["the cat", text], "id": place} for place, text in enumerate(TEXTS)] + [None]}
NESTED_JSONL = b'{"doc": {"text": ["the cat", "a"], "id": 1}}\n["bare", "pair"]\n{"doc.text": "a", "doc": {"id": {"x": 2}}}\n'
NESTED_CSV = b'doc.text;doc.id;doc\n"the ""cat"", and a\nnew line";1;x\nzebra;2;y\n'
JSONL = b'{"text": "the cat", "id": 1}\n"bare"\n\n{"text": "\\u00e9", "id": 2.5}\n'
CSV = b'text,id\n"the ""cat"", and a\nnew line",1\nzebra,2\n'


@functools.cache
def _finished_job() -> Path:
    """A folder with a job's output, and the texts that it was made of."""
    folder = Path(_HOME.name) / "finished"
    folder.mkdir()
    (folder / "texts.txt").write_text("the cat\na\nzebra\nruns\n")
    _run(folder)
    return folder


def _run(folder: Path) -> None:
    options = JobOptions(shard_rows=2, threads=1)
    run_job(_bundle(), [str(folder / "texts.txt")], str(folder / "out"), options=options, progress_bar=False)


def _read_job(data: bytes, folder: Path) -> None:
    own = Path(shutil.copytree(_finished_job(), folder / "job"))
    (own / "out" / JOB_NAME).write_bytes(data)
    _run(own)


# ---------------------------------------------------------------- a checkpoint


CHECKPOINT_FILES = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
)


@functools.cache
def _checkpoint() -> Path:
    folder = checkpoints.make_checkpoint(Path(_HOME.name) / "bert")
    checkpoints.add_sentence_modules(folder, pooling={"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True})
    use = {"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": "query", "truncate_dim": 16, "similarity_fn_name": "dot"}
    checkpoints.edit_json(folder / "config_sentence_transformers.json", use)
    checkpoints.edit_json(folder / "config.json", {"matryoshka_dims": [16, 8]})
    return folder


def _read_checkpoint(data: bytes, folder: Path) -> None:
    """`data` is an object: which files have which content."""
    from cls_exporter.checkpoint import load_checkpoint

    own = Path(shutil.copytree(_checkpoint(), folder / "bert"))
    files = _parsed(data)
    for name in CHECKPOINT_FILES:
        if isinstance(files, dict) and name in files:
            (own / name).write_text(json.dumps(files[name]))
    load_checkpoint(str(own))


def _checkpoint_files() -> list[bytes]:
    files = {name: json.loads((_checkpoint() / name).read_text()) for name in CHECKPOINT_FILES if (_checkpoint() / name).exists()}
    return [json.dumps(files).encode(), *(json.dumps({name: content}).encode() for name, content in files.items())]


TARGETS = (
    Target("manifest", _manifests, _read_manifest, is_json=True),
    Target("ranges", lambda: [_saved_ranges()], _read_ranges),
    Target("golden", lambda: [(_bundle() / GOLDEN_NAME).read_bytes()], _read_golden),
    Target(
        "tokenizer",
        lambda: [(_bundle() / "tokenizer.json").read_bytes()],
        lambda data, folder: _encoded(_with_companion(folder, "tokenizer.json", data)),
        is_json=True,
    ),
    Target(
        "tokenizer_config",
        lambda: [(_bundle() / "tokenizer_config.json").read_bytes()],
        lambda data, folder: _encoded(_with_companion(folder, "tokenizer_config.json", data)),
        is_json=True,
    ),
    Target("onnx", lambda: [(_bundle() / "onnx" / "model.onnx").read_bytes()], _read_onnx),
    Target("txt", lambda: ["\n".join(TEXTS).encode()], _read_rows(".txt", TEXTS_ALONE)),
    Target("jsonl", lambda: [JSONL], _read_rows(".jsonl")),
    Target("csv", lambda: [CSV], _read_rows(".csv")),
    Target("gzip", lambda: [gzip.compress(JSONL, mtime=0)], _read_rows(".jsonl.gz")),
    Target("parquet", lambda: [_parquet(PLAIN)], _read_rows(".parquet")),
    Target("parquet_nested", lambda: [_parquet(NESTED_PAIRS)], _read_rows(".parquet", NESTED)),
    Target("jsonl_nested", lambda: [NESTED_JSONL], _read_rows(".jsonl", NESTED)),
    Target("csv_delimiter", lambda: [NESTED_CSV], _read_rows(".csv", NESTED)),
    Target("job", lambda: [(_finished_job() / "out" / JOB_NAME).read_bytes()], _read_job, is_json=True),
    Target("checkpoint", _checkpoint_files, _read_checkpoint, is_json=True),
)
