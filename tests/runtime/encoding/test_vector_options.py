"""Which options make sense, and what each leaves to the bundle."""

import dataclasses

import numpy as np
import pytest
from bundle_builder import HIDDEN, build_bundle

from cls_runtime import UsageError
from cls_runtime.bundle.manifest import read_manifest
from cls_runtime.encoding.vector_options import VectorOptions


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return read_manifest(build_bundle(tmp_path_factory.mktemp("options") / "tiny", pooling="mean", token_rows=True, normalize=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "yes"}, "normalize is 'yes', expected True, False, or None"),
        ({"normalize": 0, "dimensions": 4}, "normalize is 0, expected True, False, or None"),
        ({"normalize": np.zeros(2)}, "normalize is array"),
        ({"prompt": 3}, "prompt is 3, expected a str or None"),
        ({"prompt": "a\udcff"}, r"prompt is 'a\\udcff', expected valid Unicode"),
        ({"prompt_name": b"query"}, "prompt_name is b'query', expected a str or None"),
        ({"dtype": "int4"}, "dtype is 'int4', expected one of float32, float16, int8, uint8, binary, ubinary"),
        ({"dtype": np.array(["int8"])}, "dtype is array"),
        ({"output": "tokens", "dtype": "int8"}, "dtype is 'int8', tokens are float32 or float16"),
        ({"output": "tokens", "dimensions": 4}, "dimensions cuts a sentence's vector, output is 'tokens'; leave it out"),
        ({"output": "logits", "dimensions": 1}, "dimensions cuts a sentence's vector, output is 'logits'; leave it out"),
        ({"ranges": np.zeros((2, HIDDEN))}, "ranges are for int8 and uint8, dtype is 'float32'; leave them out"),
        ({"dimensions": 0}, "dimensions is 0, expected a whole number of at least 1, or None"),
        ({"dimensions": True}, "dimensions is True, expected a whole number"),
        ({"dimensions": 4.0}, r"dimensions is 4\.0, expected a whole number"),
        ({"dimensions": HIDDEN + 1}, f"dimensions is {HIDDEN + 1}, the vectors of this bundle have {HIDDEN}; choose at most"),
        ({"output": "cls"}, "output is 'cls', this bundle has sentence, .*; its vector is the mean of the tokens' rows"),
        ({"output": "elsewhere", "dimensions": 3}, "output is 'elsewhere', this bundle has sentence"),
        ({"prompt_name": "clustering"}, "prompt_name is 'clustering', this bundle has query, document; pass prompt="),
        ({"dtype": "int8", "ranges": np.zeros((2, 3))}, rf"ranges have shape \[2, 3\], expected \[2, {HIDDEN}\]"),
        ({"dtype": "int8", "ranges": np.zeros((2, HIDDEN)), "dimensions": 4}, rf"ranges have shape \[2, {HIDDEN}\], expected \[2, 4\]"),
        ({"dtype": "int8", "ranges": "wide"}, "ranges are a str, expected float32"),
        ({"dtype": "int8", "ranges": np.zeros((2, HIDDEN), complex)}, "ranges are a ndarray, expected float32"),
        ({"dtype": "int8", "ranges": [["1"] * HIDDEN] * 2}, "ranges are a list, expected float32"),
        ({"dtype": "uint8", "ranges": np.full((2, HIDDEN), np.inf)}, "ranges must be finite, the least of each number first"),
        ({"dtype": "uint8", "ranges": [[-3e38] * HIDDEN, [3e38] * HIDDEN]}, "ranges must be finite, the least of each number first"),
        ({"dtype": "uint8", "ranges": [[1.0] * HIDDEN, [0.0] * HIDDEN]}, "ranges must be finite, the least of each number first"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(manifest, options, message):
    with pytest.raises(UsageError, match=message):
        VectorOptions(**options).of(manifest)


# Of a bundle whose vectors are trained to have unit length, or not, and which is cut to 6 numbers, or not: what is asked for, and what is
# done: how many numbers, unit length at the end, unit length of all numbers before the cut.
FORMS = [
    (True, None, {}, (8, True, False)),
    (True, None, {"normalize": False}, (8, False, False)),
    (True, None, {"dimensions": 4}, (4, True, False)),
    (True, None, {"dimensions": 4, "normalize": False}, (4, False, False)),
    (True, None, {"output": "pooler"}, (8, False, False)),
    (True, None, {"output": "tokens"}, (8, False, False)),
    (True, None, {"output": "tokens", "normalize": True}, (8, True, False)),
    (False, None, {}, (8, False, False)),
    (False, None, {"normalize": True}, (8, True, False)),
    (False, None, {"dimensions": 4}, (4, True, False)),
    (True, 6, {}, (6, False, True)),
    (True, 6, {"normalize": True}, (6, True, False)),
    (True, 6, {"normalize": False}, (6, False, False)),
    (True, 6, {"dimensions": 6}, (6, True, False)),
    (True, 6, {"dimensions": np.int64(6)}, (6, True, False)),
    (True, 6, {"dimensions": 8}, (8, True, False)),
    (True, 6, {"dimensions": 8, "normalize": False}, (8, False, False)),
    (True, 6, {"output": "pooler", "normalize": True}, (8, True, False)),
    (False, 6, {}, (6, False, False)),
    (False, 6, {"normalize": True}, (6, True, False)),
    (True, 8, {}, (8, True, False)),
]


@pytest.mark.parametrize(("trained", "truncate_dim", "options", "expected"), FORMS)
def test_what_is_left_open_is_as_the_model_was_trained(manifest, trained, truncate_dim, options, expected):
    pooling = dataclasses.replace(manifest.source_pooling, normalize=trained)
    form = VectorOptions(**options).of(dataclasses.replace(manifest, source_pooling=pooling, truncate_dim=truncate_dim))
    assert (form.dimensions, form.normalize, form.normalize_whole) == expected


@pytest.mark.parametrize(
    ("sizes", "truncate_dim", "dimensions", "doubt"),
    [
        ((), None, None, None),
        ((), None, 8, None),
        ((), None, 4, "dimensions is 4, this bundle names no smaller sizes; measure"),
        ((2, 4), None, 4, None),
        ((2, 4), 6, 6, None),
        ((4, 2), 6, 5, "dimensions is 5, this bundle names 2, 4, 6; measure"),
        ((2, 4), 6, None, None),
    ],
)
def test_a_size_that_nobody_named_is_doubted(manifest, sizes, truncate_dim, dimensions, doubt):
    named = dataclasses.replace(manifest, matryoshka_dims=sizes, truncate_dim=truncate_dim)
    found = VectorOptions(dimensions=dimensions).doubt(named)
    assert found is None if doubt is None else found.startswith(doubt)


@pytest.mark.parametrize(
    ("prompts", "default", "options", "expected"),
    [
        ({}, None, {}, ""),
        ({}, None, {"prompt": "say: "}, "say: "),
        ({"a": "one: ", "b": ""}, "a", {}, "one: "),
        ({"a": "one: ", "b": ""}, "a", {"prompt": ""}, ""),
        ({"a": "one: ", "b": ""}, "a", {"prompt_name": "b"}, ""),
        ({"a": "one: ", "b": "two: "}, "a", {"prompt_name": "b"}, "two: "),
        ({"a": "one: "}, "a", {"prompt_name": "query"}, ""),
        ({"a": "one: "}, "a", {"prompt": "say: ", "prompt_name": "nobody's"}, "say: "),
    ],
)
def test_the_prompt_is_the_text_or_the_name_or_the_default(manifest, prompts, default, options, expected):
    prompted = dataclasses.replace(manifest, prompts=prompts, default_prompt_name=default)
    assert VectorOptions(**options).of(prompted).prompt == expected


def test_a_prompt_that_the_graph_cannot_leave_out_is_refused(manifest):
    """Bundles of cls-export 0.1, whose graphs know a mask of 0 and 1 only."""
    pooling = dataclasses.replace(manifest.source_pooling, include_prompt=False)
    old = dataclasses.replace(manifest, pooling="cls", source_pooling=pooling)
    assert VectorOptions().of(old).prompt == VectorOptions(prompt="").of(old).prompt == ""
    with pytest.raises(UsageError, match="leave a prompt out, this bundle's graph does not; export it again"):
        VectorOptions(prompt="say: ").of(old)
    assert VectorOptions(prompt="say: ").of(dataclasses.replace(old, prompts={"query": "ask: "})).prompt == "say: "
