"""The polynomials of kernels/functions.h are those that native/fit_functions.py fits."""

from __future__ import annotations

import re

import numpy as np
import pytest

from build_library import SOURCES
from fit_functions import main

POLYNOMIAL = re.compile(r"constexpr float (k\w+)\[\] = \{([^}]*)\};")


def polynomials(text: str) -> dict[str, list[float]]:
    return {name: [float(number.strip().rstrip("f")) for number in numbers.split(",")] for name, numbers in POLYNOMIAL.findall(text)}


def test_the_kernels_have_the_fitted_polynomials(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    fitted = polynomials(capsys.readouterr().out)
    found = polynomials((SOURCES / "kernels" / "functions.h").read_text())
    assert len(found) == 4
    assert found.keys() == fitted.keys()
    for name, coefficients in found.items():
        # Another library of linear algebra rounds otherwise.
        np.testing.assert_allclose(coefficients, fitted[name], rtol=1e-4, err_msg=name)
