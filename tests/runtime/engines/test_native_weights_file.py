"""The file of native weights: what is written is read, and what is damaged is refused before a kernel could see it."""

import dataclasses
import gc
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_mutations import mutated
from native_models import KINDS, random_batch, random_model

from cls_runtime.bundle.typed_json import parsed
from cls_runtime.engines.native import weights_file
from cls_runtime.engines.native.description import described
from cls_runtime.engines.native.reference import ReferenceEngine
from cls_runtime.engines.native.sizes import check_sizes
from cls_runtime.engines.native.weights import NativeModel
from cls_runtime.errors import BundleError, EngineError

SMALL = KINDS["int8, one row, smoothed"]
EXAMPLES = 300


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def written(path: Path, kind: Any = SMALL) -> bytes:
    weights_file.write(random_model(kind), path)
    return path.read_bytes()


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data


def with_model(path: Path, change: Any, kind: Any = SMALL) -> None:
    """Writes a file whose description is changed."""
    header, data = header_of(written(path, kind))
    model = json.loads(header["__metadata__"]["model"])
    change(model)
    header["__metadata__"]["model"] = json.dumps(model)
    path.write_bytes(with_header(header, data))


def read_or_refused(path: Path) -> NativeModel | None:
    """The model, or None for a BundleError of one line that names the file."""
    refused = None
    try:
        model = weights_file.read(path)
    except BundleError as error:
        refused = str(error)
    if refused is not None:
        assert str(path) in refused
        assert "\n" not in refused
        assert refused.isprintable()
        return None
    check_sizes(model)
    return model


@pytest.mark.parametrize("name", KINDS)
def test_what_is_written_is_read(name: str, path: Path) -> None:
    model = random_model(KINDS[name])
    weights_file.write(model, path)
    read = weights_file.read(path)
    before, arrays = described(model)
    after, same_arrays = described(read)
    assert before == after
    assert list(arrays) == list(same_arrays)
    for key, array in arrays.items():
        assert array.dtype == same_arrays[key].dtype
        np.testing.assert_array_equal(array, same_arrays[key])


@pytest.mark.parametrize("name", KINDS)
def test_the_file_is_a_safetensors_file(name: str, path: Path) -> None:
    safe_open = pytest.importorskip("safetensors", reason="what reads the file in its own way").safe_open
    model = random_model(KINDS[name])
    weights_file.write(model, path)
    arrays = described(model)[1]
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == set(arrays)
        assert set(file.metadata()) == {"format", "version", "model"}
        for key, array in arrays.items():
            np.testing.assert_array_equal(file.get_tensor(key), array)


def test_arrays_begin_at_multiples_of_64_where_their_size_is_one(path: Path) -> None:
    header, data = header_of(written(path, KINDS["odd head size"]))
    header_2, _ = header_of(written(path, KINDS["roformer"]))
    assert (len(path.read_bytes()) - len(header_of(path.read_bytes())[1])) % 64 == 0
    places = [item["data_offsets"] for places in (header, header_2) for name, item in places.items() if name != "__metadata__"]
    odd = [begin for begin, end in places if (end - begin) % 64 == 0 and begin % 64]
    assert not odd
    assert any((end - begin) % 64 for begin, end in places)  # or the test shows nothing: roformer's rotation has such a size
    assert data


def test_the_same_model_gives_the_same_bytes(path: Path) -> None:
    first = written(path)
    model = random_model(SMALL)
    turned = dataclasses.replace(model, widths=dict(reversed(model.widths.items())), recipe={"z": 1, "a": [1, 2.5, None]})
    weights_file.write(turned, path)
    again = path.read_bytes()
    weights_file.write(dataclasses.replace(turned, recipe={"a": [1, 2.5, None], "z": 1}), path)
    assert again == path.read_bytes()
    assert written(path) == first
    weights_file.write(weights_file.read(path), path)
    assert path.read_bytes() == first


def test_what_is_shared_is_written_once_and_stays_shared(path: Path) -> None:
    header, _ = header_of(written(path, KINDS["albert"]))
    assert {name.split(".")[1] for name in header if name.startswith("layers.")} == {"0"}
    read = weights_file.read(path)
    assert len(read.layers) == 4
    assert all(layer is read.layers[0] for layer in read.layers)


def test_arrays_are_read_only_and_keep_the_file_mapped(path: Path) -> None:
    written(path)
    bias = weights_file.read(path).layers[0].up.bias
    gc.collect()
    path.unlink()
    assert not bias.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        bias[0] = 1
    assert np.isfinite(bias).all()


_HOW_IT_IS_MAPPED = """
import sys
from pathlib import Path
from cls_runtime.engines.native import weights_file
model = weights_file.read(Path(sys.argv[1]))
model.layers[0].up.bias.sum()
print(*[line.split()[1] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(sys.argv[1])])
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process has mapped is told by Linux alone")
def test_processes_share_the_file(path: Path) -> None:
    written(path)
    done = subprocess.run([sys.executable, "-c", _HOW_IT_IS_MAPPED, path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["r--s"]


def test_two_threads_read_and_compute_at_once(path: Path) -> None:
    written(path)
    batch = random_batch(SMALL, 3)
    rows: list[Any] = [None] * 4

    def read(index: int) -> None:
        rows[index] = ReferenceEngine(weights_file.read(path)).run(batch, ["sentence_embedding"])[0]

    threads = [threading.Thread(target=read, args=(index,)) for index in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in rows:
        np.testing.assert_array_equal(row, rows[0])


def test_a_failed_write_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(path)
    model = random_model(SMALL)
    wrong = dataclasses.replace(model, widths={"sentence": 47})
    with pytest.raises(ValueError, match=r"widths.sentence is 47, expected the 48 numbers of a row"):
        weights_file.write(wrong, path)
    with pytest.raises(ValueError, match="NaN|Out of range"):
        weights_file.write(dataclasses.replace(model, recipe={"mean": float("nan")}), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_wrong_type_is_not_written(path: Path) -> None:
    model = random_model(SMALL)
    up = dataclasses.replace(model.layers[0].up, scales=model.layers[0].up.scales.astype(np.float16))
    layers = (dataclasses.replace(model.layers[0], up=up), *model.layers[1:])
    with pytest.raises(ValueError, match=r"layers.0.up.scales is an array of float16, expected float32"):
        weights_file.write(dataclasses.replace(model, layers=layers), path)


def test_a_big_endian_machine_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(path)
    monkeypatch.setattr("sys.byteorder", "big")
    with pytest.raises(EngineError, match="this machine is big-endian; use engine='onnxruntime'"):
        weights_file.read(path)
    with pytest.raises(EngineError, match="big-endian"):
        weights_file.write(random_model(SMALL), path)


def test_what_is_no_such_file(path: Path) -> None:
    for content, reason in (
        (b"", "it has 0 bytes, expected 8"),
        (b"\x01\0\0", "it has 3 bytes, expected 8"),
        (b"\xff" * 8, "its header has 18,446,744,073,709,551,615 bytes, expected at most 16,777,216"),
        ((9).to_bytes(8, "little") + b"{}", "it ends within its header of 9 bytes"),
        (with_header(b"\xff\xfe", b""), "its header is not JSON"),
        (with_header(b"[]", b""), "its header is list, expected an object"),
        (with_header(b'{"a": 1, "a": 2}', b""), "the key 'a' is there twice"),
        (with_header(b"[" * 100_000, b""), "nested too deeply|too many|not JSON"),
        (with_header({}, b""), "its format is None, expected 'cls-export native weights'"),
        (with_header({"__metadata__": {"format": 1}}, b""), "expected texts by name"),
        (with_header({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)), "the dtype 'F64'"),
        (with_header({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, b""), "the shape .0., expected 1 to 8 positive"),
        (with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)), "has 4 bytes, expected 8 of its shape"),
        (with_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)), "begins at byte 4, expected 0"),
        (with_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(5)), "its arrays have 4 bytes, found 5"),
        (with_header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)), "of its shape"),
    ):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=reason):
            weights_file.read(path)


def test_a_missing_file_and_a_folder(path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        weights_file.read(path)
    path.mkdir()
    with pytest.raises(BundleError, match="is not a regular file"):
        weights_file.read(path)


def test_another_version_says_what_to_do(path: Path) -> None:
    header, data = header_of(written(path))
    header["__metadata__"]["version"] = "2"
    path.write_bytes(with_header(header, data))
    with pytest.raises(BundleError, match="has native weights of version '2', this cls-export reads 1; install the version that exported"):
        weights_file.read(path)


def edits() -> dict[str, tuple[Any, str]]:
    """Changes of the description, each with what is said of it."""

    def swap(first: str, second: str) -> Any:
        def change(model: Any) -> None:
            layer = model["layers"][0]
            layer[first], layer[second] = layer[second], layer[first]

        return change

    def put(place: str, value: Any) -> Any:
        def change(model: Any) -> None:
            *outer, last = [int(part) if part.isdigit() else part for part in place.split(".")]
            for part in outer:
                model = model[part]
            model[last] = value

        return change

    def swap_layers(model: Any) -> None:
        layers = model["layers"]
        layers[0], layers[2] = layers[2], layers[0]

    one_norm = {**dict.fromkeys(("scale", "shift"), "embeddings.norm.scale"), "size": 48, "epsilon": 1e-5}
    return {
        "another depth": (swap("up", "down"), "layers.0.up.integers has the shape .*, expected"),
        "an array of nothing": (put("layers.0.up.smoothing", None), "the array 'layers.0.up.smoothing' belongs to nothing in the model"),
        "another hidden size": (put("hidden_size", 65), "hidden_size|shape"),
        "no heads": (put("heads", 0), "heads is 0, expected 1 to"),
        "more heads": (put("heads", 40), "layers.0.query_key_value"),
        "longer texts": (put("max_length", 25), "embeddings.positions: rows is 24, expected 25 to"),
        "no layers": (put("layers", []), "layers is 0, expected 1 to"),
        "a layer that is none": (put("layers.1", "embeddings"), "layers.1 is 'embeddings', which names no Layer before it"),
        "a layer of later": (put("layers.0", "layers.1"), "layers.0 is 'layers.1', which names no Layer before it"),
        "one row too early": (swap_layers, "layers.0 computes one row, which the layer after it needs all of"),
        "an unknown activation": (put("layers.0.activation", "swish"), "layers.0.activation is 'swish', expected one of identity, gelu"),
        "an unknown field": (put("layers.0.dropout", 1), "layers.0 has a field 'dropout', which this version does not know"),
        "an unknown output": (put("widths.cls", 48), "widths has 'cls'"),
        "an output of a strange name": (put("widths.\x1b[2J", "many"), r"widths\.'.x1b\[2J' is 'many', expected int"),
        "an unknown head": (put("output_heads.cls", []), "output_heads has 'cls', expected sentence, pooler, logits"),
        "a head without steps": (put("output_heads.sentence", []), "output_heads.sentence: steps is 0"),
        "a flag that is a number": (put("mean_pooled", 1), "mean_pooled is 1, expected bool"),
        "a mean of one row": (put("mean_pooled", True), "an output needs all of them"),
        "a number that is no integer": (put("layers.0.window", 1.5), "layers.0.window is 1.5, expected int"),
        "a window below zero": (put("layers.0.window", -1), "layers.0.window is -1"),
        "a window on one row": (put("layers.2.window", 3), "layers.2 has one_row with a rotation or a window"),
        "a huge number": (put("embeddings.position_offset", 2**40), "expected a number of 32 bits"),
        "an offset behind the table": (put("embeddings.position_offset", 1), "embeddings.positions: rows is 24, expected 25"),
        "a padding id behind the table": (put("embeddings.position_padding_id", 2**20), "embeddings.positions: rows"),
        "no epsilon": (put("layers.0.attention_norm.epsilon", 0.0), "epsilon is 0.0, expected a number above 0"),
        "a norm of more": (put("layers.0.attention_norm.size", 49), "layers.0.attention_norm.size is 49, expected 48"),
        "no norm": (put("layers.0.attention_norm", None), "layers.0.attention_norm is not there"),
        "a final norm": (
            put("final_norm", one_norm),
            "final_norm",
        ),
        "no scales": (put("layers.0.up.scales", None), "layers.0.up has integers without scales or sums"),
        "an array of another type": (put("layers.0.up.sums", "layers.0.up.scales"), "is an array of float32, expected int32"),
        "an array that is not there": (put("layers.0.up.bias", "bias"), "layers.0.up.bias is 'bias', expected the name of an array"),
        "an array of another size": (put("layers.0.up.smoothing", "layers.0.up.bias"), "layers.0.up.smoothing has the shape"),
        "two projections": (put("layers.0.one_row", "layers.2.one_row"), "layers.0.one_row"),
        "integers in a head": (
            put("output_heads.sentence", [{"product": "layers.0.attention_output"}]),
            "output_heads.sentence.0.product has integers, expected floats",
        ),
    }


@pytest.mark.parametrize("name", edits())
def test_a_description_that_does_not_fit(name: str, path: Path) -> None:
    change, message = edits()[name]
    with_model(path, change)
    with pytest.raises(BundleError, match=message):
        weights_file.read(path)


@pytest.mark.parametrize(
    ("array", "value", "message"),
    [
        ("layers.0.up.scales", np.nan, "layers.0.up.scales has a number that is not finite"),
        ("layers.0.up.bias", np.inf, "layers.0.up.bias has a number that is not finite"),
        ("layers.0.up.smoothing", -np.inf, "layers.0.up.smoothing has a number that is not finite"),
        ("layers.0.attention_norm.scale", np.nan, "layers.0.attention_norm.scale has a number that is not finite"),
        ("layers.0.up.sums", 2**30, "layers.0.up.sums has a sum beyond 8,192"),
        ("layers.0.up.sums", -(2**30), "layers.0.up.sums has a sum beyond 8,192"),
    ],
)
def test_numbers_that_no_export_writes(array: str, value: float, message: str, path: Path) -> None:
    header, data = header_of(written(path))
    begin, _ = header[array]["data_offsets"]
    kind = {"F32": np.float32, "I32": np.int32}[header[array]["dtype"]]
    path.write_bytes(with_header(header, data[:begin] + kind(value).tobytes() + data[begin + 4 :]))
    with pytest.raises(BundleError, match=message):
        weights_file.read(path)


def test_numbers_behind_a_norm_are_refused(path: Path) -> None:
    header, data = header_of(written(path))
    begin, end = header["layers.0.attention_norm.shift"]["data_offsets"]
    path.write_bytes(with_header(header, data[: end - 4] + np.float32(1).tobytes() + data[end:]))
    assert begin < end
    with pytest.raises(BundleError, match="shift has numbers behind the first 48, expected zeros"):
        weights_file.read(path)


def test_overlapping_arrays_are_refused(path: Path) -> None:
    header, data = header_of(written(path))
    header["layers.0.up.bias"]["data_offsets"] = header["layers.0.up.scales"]["data_offsets"]
    path.write_bytes(with_header(header, data))
    with pytest.raises(BundleError, match="begins at byte"):
        weights_file.read(path)


@pytest.fixture(scope="module")
def file_and_bytes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    return path, written(path)


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_flipped_bytes(file_and_bytes: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = file_and_bytes
    damaged = bytearray(content)
    in_header = st.integers(0, len(content) - len(header_of(content)[1]) - 1)
    for place in data.draw(st.lists(st.one_of(in_header, in_header, st.integers(0, len(content) - 1)), min_size=1, max_size=4)):
        damaged[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    read_or_refused(path)


@settings(max_examples=EXAMPLES // 3)
@given(st.data())
def test_cut_files(file_and_bytes: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = file_and_bytes
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert read_or_refused(path) is None


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_edited_headers(file_and_bytes: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = file_and_bytes
    header, arrays = header_of(content)
    if data.draw(st.booleans()):
        model = data.draw(st.composite(mutated)(json.loads(header["__metadata__"]["model"])))
        header["__metadata__"]["model"] = json.dumps(model)
    else:
        header = data.draw(st.composite(mutated)(header))
    path.write_bytes(with_header(header, arrays))
    model = read_or_refused(path)
    if model is not None:  # then it computes, too
        ReferenceEngine(model).run(random_batch(SMALL, 0, 1), [])


def test_the_description_is_json(path: Path) -> None:
    header, _ = header_of(written(path))
    text = header["__metadata__"]["model"]
    assert parsed(text)["layers"][0]["up"]["integers"] == "layers.0.up.integers"
    assert " " not in text.replace("at random", "")
