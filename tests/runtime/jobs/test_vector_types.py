import numpy as np
import pytest

from cls_runtime import InvalidVectorError
from cls_runtime.jobs.vector_types import vector_arrays

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


@pytest.mark.parametrize("dtype", ["float16", "int8", "float32"])
@pytest.mark.parametrize("name", STORED)
def test_no_vector_becomes_zeros_or_an_infinity(name, dtype):
    numbers, outcomes = STORED[name]
    vectors = np.array([[1, 2], numbers], dtype=np.float32)
    if outcomes[dtype] is None:
        with pytest.raises(InvalidVectorError, match=r"a vector has .* at most, (float16|int8) ") as caught:
            vector_arrays(vectors, np.zeros(2, dtype=bool), dtype=dtype)
        assert caught.value.index == 1
        vectors[1] = np.nan  # a row without a text is no vector
        assert vector_arrays(vectors, np.array([False, True]), dtype=dtype)[0].to_pylist()[1] is None
    else:
        stored, *scales = vector_arrays(vectors, np.zeros(2, dtype=bool), dtype=dtype)
        row = np.array(stored.to_pylist()[1], dtype=np.float64) * (scales[0].to_pylist()[1] if scales else 1)
        assert np.any(row) == outcomes[dtype]
