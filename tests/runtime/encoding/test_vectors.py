import numpy as np
import pytest

from cls_runtime import InvalidVectorError
from cls_runtime.encoding.vectors import finish_rows

# Finite vectors whose length float32 does not hold, or only as a subnormal number.
BEYOND = {
    "too long": [3e38, 3e38, 0, 0],
    "just too long": [3.4e38, 3e37, 0, 0],
    "a least number": [1e-45, 0, 0, 0],
    "least numbers": [1e-45, 1e-45, -1e-45, 1e-45],
    "subnormal": [3e-39, 4e-39, 0, 0],
}


def finished(row, **options):
    rows = np.array([[1, 2, 3, 4], row], dtype=np.float32)
    finish_rows(rows, first_index=5, on_invalid=options.pop("on_invalid", "raise"), zero_is_valid=False, **options)
    return rows


@pytest.mark.parametrize("name", BEYOND)
def test_what_would_not_become_a_unit_vector_is_refused(name):
    with pytest.raises(InvalidVectorError, match="the vector of text 6 has a length of .* beyond what float32 divides by") as caught:
        finished(BEYOND[name], normalize=True)
    assert caught.value.index == 6


@pytest.mark.parametrize("name", BEYOND)
def test_kept_it_is_divided_exactly(name):
    row = finished(BEYOND[name], normalize=True, on_invalid="keep")[1].astype(np.float64)
    expected = np.float64(np.array(BEYOND[name], dtype=np.float32))
    np.testing.assert_allclose(row, expected / np.linalg.norm(expected), rtol=1e-6)
    np.testing.assert_array_equal(finished(BEYOND[name], normalize=False)[1], np.array(BEYOND[name], dtype=np.float32))


@pytest.mark.parametrize("row", [[1e38, -1e38, 1e38, 0], [2e-38, 0, 0, 0], [1, 1e-45, 0, 0], [-3e-7, 4e-7, 0, 0]])
def test_usual_lengths_become_one(row):
    assert np.linalg.norm(finished(row, normalize=True)[1].astype(np.float64)) == pytest.approx(1, abs=1e-6)
