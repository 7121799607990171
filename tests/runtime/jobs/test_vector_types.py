import numpy as np
import pytest

from cls_runtime import InvalidVectorError
from cls_runtime.encoding.quantizing import check_fits, quantized
from cls_runtime.encoding.vector_options import VectorForm
from cls_runtime.jobs.vector_forms import stored_width
from cls_runtime.jobs.vector_types import vector_arrays, vector_fields

pytest.importorskip("pyarrow")

# A vector's numbers, and what each type makes of them: None for an error, else whether anything but zeros is left.
STORED = {
    "usual": ([0.5, -0.25], {"float16": True, "int8": True, "float32": True}),
    "zero": ([0.0, -0.0], {"float16": False, "int8": False, "float32": False}),
    "small": ([1e-8, -1e-8], {"float16": None, "int8": True, "float32": True}),
    "half of float16's least": ([2.0**-25, 0], {"float16": None, "int8": True, "float32": True}),
    "just over it": ([2.0**-25 * 1.01, 0], {"float16": True, "int8": True, "float32": True}),
    "small beside usual": ([1e-8, 1.0], {"float16": True, "int8": True, "float32": True}),
    "rounded to float16's largest": ([65519.0, 1], {"float16": True, "int8": True, "float32": True}),
    "beyond float16": ([-65520.0, 1], {"float16": None, "int8": True, "float32": True}),
    "least of float32": ([1e-45, 0], {"float16": None, "int8": None, "float32": True}),
    "largest of float32": ([3.4e38, 1], {"float16": None, "int8": True, "float32": True}),
    "infinite": ([np.inf, 1], {"float16": None, "int8": None, "float32": True}),
}


def form_of(dtype, width, **options):
    return VectorForm(
        output="cls",
        prompt="",
        width=width,
        dimensions=width,
        normalize=False,
        normalize_whole=False,
        **{"dtype": dtype, "ranges": None} | options,
    )


@pytest.mark.parametrize("dtype", ["float16", "int8", "float32"])
@pytest.mark.parametrize("name", STORED)
def test_no_vector_becomes_zeros_or_an_infinity(name, dtype):
    """Of float16 `check_fits` holds it, before a vector comes here."""
    numbers, outcomes = STORED[name]
    vectors = np.array([[1, 2], numbers], dtype=np.float32)
    form = form_of(dtype, 2)

    def stored(missing):
        check_fits(vectors[~missing], dtype, first_index=0, keep_invalid=False)
        return vector_arrays(vectors, missing, form=form)

    if outcomes[dtype] is None:
        with pytest.raises(InvalidVectorError, match=r"(a vector|the vector of text 1) has .* at most, (which )?(float16|int8) ") as caught:
            stored(np.zeros(2, dtype=bool))
        assert caught.value.index == 1
        vectors[1] = np.nan  # a row without a text is no vector
        assert stored(np.array([False, True]))[0].to_pylist()[1] is None
    else:
        arrays, *scales = stored(np.zeros(2, dtype=bool))
        row = np.array(arrays.to_pylist()[1], dtype=np.float64) * (scales[0].to_pylist()[1] if scales else 1)
        assert np.any(row) == outcomes[dtype]


@pytest.mark.parametrize("width", [1, 7, 8, 9, 16])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "binary", "ubinary"])
def test_bytes_and_bits_are_the_encoders_and_a_row_without_a_text_is_null(dtype, width):
    vectors = np.random.default_rng(width).standard_normal((5, width)).astype(np.float32)
    ranges = None if "binary" in dtype else np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    form = form_of(dtype, width, ranges=ranges)
    missing = np.array([False, True, False, False, False])
    (array,) = vector_arrays(np.where(missing[:, None], np.float32(np.nan), vectors), missing, form=form)
    (field,) = vector_fields(form)
    assert array.type == field.type
    assert array.type.list_size == stored_width(form) == (-(-width // 8) if "binary" in dtype else width)
    assert array[1].as_py() is None
    stored = np.array([row for row in array.to_pylist() if row is not None])
    np.testing.assert_array_equal(stored, quantized(vectors[~missing], dtype, ranges=ranges))
