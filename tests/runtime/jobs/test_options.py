"""An option that is not understood is refused when it is given: what it is, what was found, what is expected."""

import dataclasses
import functools

import numpy as np
import pytest

from cls_runtime.errors import UsageError
from cls_runtime.jobs import EmbedBatches, JobOptions, RayOptions, run_job
from cls_runtime.jobs.embed_npy import embed_to_npy

COUNT = "expected a whole number of at least 1"
FLAG = "expected True or False"
GPUS = "expected a GPU's number such as 1 or 'cuda:1', several such as '0,1' or (0, 1), or 'all'"
DTYPES = ["float32", "float16", "int8", "uint8", "binary", "ubinary"]
ENGINES = ["auto", "onnxruntime", "openvino", "cuda"]

# What a field takes, and what it refuses with which words.
VECTORS = {
    "output": (["sentence", "cls", "pooler", "logits"], ["CLS", "", None, 1, "tokens"], "expected one of sentence, cls, pooler, logits"),
    "normalize": ([None, True, False], ["yes", 2], "expected True, False, or None for what the model was trained with"),
    "prompt_name": ([None, "query"], [1, b"query"], "expected a str or None"),
    "prompt": ([None, "", "query: "], [1, ("a", "b")], "expected a str or None"),
    "dimensions": ([None, 4, 8], [0, -1, 1.5, "2", True], "expected a whole number of at least 1, or None"),
    "dtype": (DTYPES, ["float64", "int", None], f"expected one of {', '.join(DTYPES)}"),
    "variant": (["auto", "fp32", "fp16", "int8", "bf16", "tf32"], ["fp64", "", None], "expected one of auto, fp32, fp16, int8, bf16, tf32"),
    "engine": (ENGINES, ["ray", "cpu", None], "expected one of auto, onnxruntime, openvino, native, cuda"),
    "device": ([None], ["gpu0", "", -1, 1.5, True, ()], GPUS),
    "threads": ([None, 1, 64], [0, -1, 1.5, "2", True], COUNT),
    "follow_links": ([True, False], [1, "no", None], FLAG),
}
JOB = VECTORS | {
    "column": (["text", ""], [None, 1, b"text"], "expected a column's name"),
    "id_column": ([None, "key", ""], [0, ("key",)], "expected a column's name"),
    "keep": ([(), ("lang",), ["lang", "date"]], ["lang", None, ("lang", 1)], "expected a tuple of columns' names, such as ('lang',)"),
    "delimiter": (
        [None, ",", ";", "\t", "|", "\x01", "§"],
        ["", ";;", "\\t", '"', "\n", "\r", "\0", "\udcff", 9, b";"],
        r"expected one character, such as ';' or '\t', and no quote or line end",
    ),
    "on_error": (["raise", "skip", "null"], ["skipp", "ignore", "", None], "expected one of raise, skip, null"),
    "shard_rows": ([1, 10**9], [0, -5, 2.0, "9", None, True], COUNT),
    "on_overflow": (["warn", "truncate", "raise"], ["cut", "", None], "expected one of warn, truncate, raise"),
}
RAY = {
    "address": ([None, "auto", "ray://head:10001"], ["", 6379], "expected auto, host:port or ray://host:port"),
    "workers": ([None, 1, 100], [0, -1, 1.5, "2", True], COUNT),
    "gpus": ([0, 0.0, 0.25, 2], [-0.5, float("nan"), float("inf"), "1", None, True], "expected a number of at least 0, such as 0.5"),
}
BATCHES = VECTORS | {
    "column": (["text", "body"], [None, 1], "expected a column's name"),
    "fixed_size": ([True, False], [0, "no", None], FLAG),
}


KINDS = {"job": (JobOptions, JOB, ""), "ray": (RayOptions, RAY, "ray "), "batches": (EmbedBatches, BATCHES, "")}


@pytest.fixture
def maker(bundle):
    """What makes the options of a kind."""
    return lambda kind: functools.partial(EmbedBatches, bundle) if kind == "batches" else KINDS[kind][0]


@pytest.mark.parametrize(
    ("kind", "name", "value", "most"),
    [
        ("job", "threads", 1025, 1024),
        ("job", "threads", 10**30, 1024),
        ("batches", "threads", 10**30, 1024),
        ("job", "shard_rows", 10**30, 2**31 - 1),
        ("ray", "workers", 10**30, 2**31 - 1),
    ],
)
def test_a_number_that_nothing_can_follow_is_refused(kind, name, value, most, maker):
    make, prefix = maker(kind), KINDS[kind][2]
    with pytest.raises(UsageError, match=f"^{prefix}{name} is more than {most}, expected a whole number from 1 to {most}$"):
        make(**{name: value})


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_takes_what_it_says(kind, maker):
    make, fields = maker(kind), KINDS[kind][1]
    for name, (taken, _, _) in fields.items():
        for value in taken:
            options = make(**{name: value})
            if dataclasses.is_dataclass(options):
                assert getattr(options, name) == value


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (_, fields, _) in KINDS.items() for name in fields])
def test_every_field_refuses_the_rest_by_name(kind, name, maker):
    make, (_, fields, prefix) = maker(kind), KINDS[kind]
    _, refused, expected = fields[name]
    for value in refused:
        with pytest.raises(UsageError) as caught:
            make(**{name: value})
        told, _, meant = str(caught.value).partition(" (did you mean ")
        assert told == f"{prefix}{name} is {value!r}, {expected}"
        assert not meant or meant.removesuffix("?)") in expected


def test_no_field_is_left_out():
    assert set(JOB) | {"ranges"} == {field.name for field in dataclasses.fields(JobOptions)}
    assert set(RAY) == {field.name for field in dataclasses.fields(RayOptions)}
    assert set(BATCHES) | {"ranges", "bundle", "return"} == set(EmbedBatches.__init__.__annotations__)


@pytest.mark.parametrize(("choice", "encoders"), [("warn", "truncate"), ("truncate", "truncate"), ("raise", "raise")])
def test_an_encoder_of_a_job_never_warns(choice, encoders):
    assert JobOptions(on_overflow=choice).encoder_overflow == encoders


@pytest.mark.parametrize("kind", ["job", "batches"])
@pytest.mark.parametrize("device", [1, "cuda:1", "0,1", (0, 1), "all"])
def test_gpus_go_with_the_engine_that_has_them(kind, device, maker):
    maker(kind)(engine="cuda", device=device)
    for engine in ("auto", "onnxruntime", "openvino"):
        with pytest.raises(UsageError, match=f"and engine is '{engine}', expected engine 'cuda'"):
            maker(kind)(engine=engine, device=device)


@pytest.mark.parametrize("kind", ["job", "batches"])
def test_an_engine_that_was_taken_out_is_told(kind, maker):
    with pytest.raises(UsageError, match="engine tensorrt was taken out"):
        maker(kind)(engine="tensorrt")


TOGETHER = [
    ({"prompt": "a ", "prompt_name": "query"}, "prompt_name is 'query' and prompt is 'a ', expected one of them"),
    ({"prompt": "\udcff"}, r"prompt is '\\udcff', expected valid Unicode"),
    ({"dimensions": 4, "output": "pooler"}, "dimensions cuts a sentence's vector, output is 'pooler'"),
    ({"dimensions": 4, "output": "logits"}, "dimensions cuts a sentence's vector, output is 'logits'"),
    ({"ranges": np.zeros((2, 8), np.float32)}, "ranges are for int8 and uint8, dtype is 'float32'"),
    ({"ranges": np.zeros((2, 8), np.float32), "dtype": "ubinary"}, "ranges are for int8 and uint8, dtype is 'ubinary'"),
]


@pytest.mark.parametrize("kind", ["job", "batches"])
@pytest.mark.parametrize(("options", "message"), TOGETHER)
def test_vectors_that_make_no_sense_are_refused(kind, options, message, maker):
    with pytest.raises(UsageError, match=message):
        maker(kind)(**options)


OF_THE_BUNDLE = [
    ({"prompt_name": "passage"}, "prompt_name is 'passage', this bundle has query, document"),
    ({"dimensions": 9}, "dimensions is 9, the vectors of this bundle have 8"),
    ({"dtype": "int8", "ranges": np.zeros((2, 9), np.float32)}, r"ranges have shape \[2, 9\], expected \[2, 8\]"),
    ({"dtype": "uint8", "ranges": np.zeros((2, 8), np.float32), "dimensions": 4}, r"ranges have shape \[2, 8\], expected \[2, 4\]"),
    ({"dtype": "int8", "ranges": np.full((2, 8), np.nan, np.float32)}, "ranges must be finite, the least of each number first"),
    ({"dtype": "int8", "ranges": np.array([[1] * 8, [0] * 8], np.float32)}, "ranges must be finite, the least of each number first"),
]


@pytest.mark.parametrize("way", ["folder", "npy", "batches"])
@pytest.mark.parametrize(("options", "message"), OF_THE_BUNDLE)
def test_what_the_bundle_does_not_have_is_refused_before_any_work(way, options, message, bundle, tmp_path):
    (tmp_path / "in.txt").write_text("cat\n")
    ways = {
        "folder": lambda: run_job(bundle, [str(tmp_path / "in.txt")], str(tmp_path / "out"), options=JobOptions(**options)),
        "npy": lambda: embed_to_npy(bundle, [str(tmp_path / "in.txt")], tmp_path / "out.npy", options=JobOptions(**options)),
        "batches": lambda: EmbedBatches(bundle, **options),
    }
    with pytest.raises(UsageError, match=message):
        ways[way]()
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]
