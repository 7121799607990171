"""The structures for ctypes are those of native/src/cls_native.h, as a C compiler lays them out."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from native_models import KINDS, random_model

from cls_runtime.engines.native.structures import ABI, ACTIVATIONS, OUTPUTS, STRUCTURES, HeadSpec, LayerSpec, ProductSpec, held_model

SOURCES = Path(__file__).resolve().parents[3] / "native" / "src"
HEADER = SOURCES / "cls_native.h"
COMPILER = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """What a program says that includes the header: sizes, and the offset and the size of each field; and the numbers of the enums."""
    if COMPILER is None:
        pytest.skip("there is no C compiler")
    lines = []
    for name, structure in STRUCTURES.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        lines += [
            f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));'
            for field, *_ in structure._fields_
        ]
    lines += [f'printf("CLS_{name.upper()} %d\\n", (int)CLS_{name.upper()});' for name in (*OUTPUTS, *ACTIVATIONS, "abi", "outputs")]
    lines += [f'printf("{name} %d\\n", (int){name});' for name in ("CLS_NO_MEMORY", "CLS_BAD_INPUT", "CLS_NO_KERNELS", "CLS_NO_THREADS")]
    folder = tmp_path_factory.mktemp("layout")
    source = folder / "layout.c"
    source.write_text(
        f'#include <stddef.h>\n#include <stdio.h>\n#include "{HEADER}"\nint main(void) {{\n' + "\n".join(lines) + "\nreturn 0;\n}\n"
    )
    subprocess.run([COMPILER, str(source), "-o", str(folder / "layout")], check=True, capture_output=True, text=True)
    output = subprocess.run([str(folder / "layout")], check=True, capture_output=True, text=True).stdout
    return {line.split()[0]: [int(number) for number in line.split()[1:]] for line in output.splitlines()}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_is_the_headers(layout, name):
    structure = STRUCTURES[name]
    assert ctypes.sizeof(structure) == layout[name][0]
    for field, *_ in structure._fields_:
        descriptor = getattr(structure, field)
        assert [descriptor.offset, descriptor.size] == layout[f"{name}.{field}"], field


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_has_every_field_of_the_header(name):
    """In its order; the offsets alone would not see one that is missing at the end, in what is padding."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    body = next(body for body, found in re.findall(r"typedef struct \{([^}]*)\} (\w+);", text) if found == name)
    declared = [
        part.split("[")[0].strip(" *").split()[-1].strip("*") for line in body.split(";") if line.strip() for part in line.split(",")
    ]
    assert declared == [field for field, *_ in STRUCTURES[name]._fields_]


def test_the_numbers_of_names_are_the_headers(layout):
    from cls_runtime.engines.native import library

    assert layout["CLS_ABI"] == [ABI]
    assert layout["CLS_OUTPUTS"] == [len(OUTPUTS)]
    for names in (OUTPUTS, ACTIVATIONS):
        assert [layout[f"CLS_{name.upper()}"][0] for name in names] == list(range(len(names)))
    for name in ("NO_MEMORY", "BAD_INPUT", "NO_KERNELS", "NO_THREADS"):
        assert layout[f"CLS_{name}"] == [getattr(library, name)]


def numbers_at(address, array):
    """The numbers that a pointer leads to, as many as `array` has and of its type."""
    buffer = (ctypes.c_char * array.nbytes).from_address(address)
    return np.frombuffer(buffer, dtype=array.dtype).reshape(array.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_pointers_lead_to_the_models_arrays(kind):
    model = random_model(KINDS[kind])
    held = held_model(model)
    spec = held.spec
    layers = (LayerSpec * spec.layer_count).from_address(spec.layers)
    assert spec.layer_count == len(model.layers)
    for layer, structure in zip(model.layers, layers, strict=True):
        for product, pointer in (
            (layer.up, structure.up),
            (layer.down, structure.down),
            (layer.query_key_value, structure.query_key_value),
        ):
            if product is None:
                assert (pointer.floats, pointer.integers) == (None, None)
                continue
            assert (pointer.depth, pointer.width) == (product.depth, product.width)
            for name in ("integers", "scales", "sums", "smoothing", "floats", "bias"):
                array, address = getattr(product, name), getattr(pointer, name)
                assert (array is None) == (address is None)
                if array is not None:
                    np.testing.assert_array_equal(numbers_at(address, array), array)
        assert (structure.rotation.cosines is None) == (layer.rotation is None)
        assert (structure.attention_norm.scale is None) == (layer.attention_norm is None)
        if layer.distances is not None:
            np.testing.assert_array_equal(numbers_at(structure.distances, layer.distances), layer.distances)
            assert structure.distance_stride == layer.distances.shape[1]
    words = model.embeddings.words
    np.testing.assert_array_equal(numbers_at(spec.embeddings.words, words), words)
    assert spec.embeddings.half_words == (words.dtype == np.float16)
    assert spec.one_row == (model.layers[-1].one_row is not None)
    for place, name in enumerate(OUTPUTS):
        head, steps = spec.heads_of[place], model.output_heads.get(name, ())
        assert isinstance(head, HeadSpec)
        assert head.steps == len(steps)
        assert spec.widths[place] == model.widths.get(name, 0)
        if steps:
            products = (ProductSpec * head.steps).from_address(head.products)
            for step, product in zip(steps, products, strict=True):
                np.testing.assert_array_equal(numbers_at(product.floats, step.product.floats), step.product.floats)


def test_arrays_that_are_laid_out_otherwise_are_copied_and_held():
    model = random_model(KINDS["float"])
    words = np.asfortranarray(model.embeddings.words)
    object.__setattr__(model.embeddings, "words", words)
    held = held_model(model)
    assert held.spec.embeddings.words != words.ctypes.data
    np.testing.assert_array_equal(numbers_at(held.spec.embeddings.words, np.ascontiguousarray(words)), words)


def test_arrays_at_odd_addresses_are_copied():
    model = random_model(KINDS["float"])
    bias = model.layers[0].up.bias
    odd = np.frombuffer(b"\0" + bias.tobytes(), dtype=np.float32, offset=1)
    object.__setattr__(model.layers[0].up, "bias", odd)
    held = held_model(model)
    (first, *_) = (LayerSpec * held.spec.layer_count).from_address(held.spec.layers)
    assert first.up.bias % 4 == 0
    np.testing.assert_array_equal(numbers_at(first.up.bias, bias), bias)


def test_arrays_of_a_mapped_file_are_not_copied(tmp_path):
    from cls_runtime.engines.native.weights_file import read, write

    write(random_model(KINDS["int8"]), tmp_path / "weights.safetensors")
    model = read(tmp_path / "weights.safetensors")
    held = held_model(model)
    assert held.spec.embeddings.words == model.embeddings.words.ctypes.data
    (first, *_) = (LayerSpec * held.spec.layer_count).from_address(held.spec.layers)
    assert first.up.integers == model.layers[0].up.integers.ctypes.data
