"""Fits the polynomials of src/kernels/functions.h and states their errors.

    python native/fit_functions.py

prints them as they stand there. Each is the polynomial of its degree whose largest weighted error over a dense grid is least
(Lawson's reweighted least squares); the error is that of the rounded coefficients, computed exactly. What float32 arithmetic adds to it,
native/tests/functions.cpp measures.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

POINTS = 1001
ROUNDS = 150


def main() -> None:
    """Print every polynomial."""
    two_to()
    tail()
    coarse()
    tanh_near_zero()


def two_to() -> None:
    """2^r = 1 + r P(r) for |r| <= 1/2."""
    r = nodes(-0.5, 0.5)
    target = np.expm1(r * math.log(2)) / r
    coefficients = fitted(r, target, weight=np.abs(r) / np.exp2(r), degree=5)
    error = np.abs((1 + r * horner(coefficients, r)) / np.exp2(r) - 1).max()
    show("kTwoTo", coefficients, f"relative error {error:.1e}")


def tail() -> None:
    """log2(Phi(-t)) = P(t), weighted by what its error does to t Phi(-t)."""
    t = nodes(0.0, 6.0)
    phi = normal_tail(t)
    coefficients = fitted(t, np.log2(phi), weight=phi * np.maximum(t, 0.02), degree=8)
    error = tail_error(lambda t: np.exp2(horner(coefficients, t)))
    show("kTail", coefficients, f"error of t * Phi(-t) {error:.1e} up to the cap, beyond which it is 0")


def coarse() -> None:
    """Phi(-t) = P(-t)^8, 0 from where P is negative: a root is so smooth that few terms do."""
    t = nodes(0.0, 4.2)
    phi = normal_tail(t)
    root = phi ** (1 / 8)
    coefficients = fitted(-t, root, weight=8 * t * root**7, degree=5)
    error = tail_error(lambda t: np.maximum(horner(coefficients, -t), 0) ** 8)
    show("kCoarse", coefficients, f"error of t * Phi(-t) {error:.1e} for every t")


def tail_error(fit: Callable[[Float64], Float64]) -> float:
    """The largest error of t Phi(-t)."""
    t = np.linspace(0.0, 14.0, 28001)
    return float(np.abs(t * (fit(t) - normal_tail(t))).max())


def tanh_near_zero() -> None:
    """tanh(x) = x + x x^2 P(x^2) for |x| <= 1/2."""
    x = nodes(0.0, 0.5)
    coefficients = fitted(x * x, (np.tanh(x) / x - 1) / (x * x), weight=x**2, degree=4)
    error = np.abs((x + x**3 * horner(coefficients, x * x)) / np.tanh(x) - 1).max()
    show("kTanh", coefficients, f"relative error {error:.1e}")


def fitted(x: Float64, target: Float64, *, weight: Float64, degree: int) -> Float64:
    """Coefficients, the constant first, of the polynomial in x that is nearest to `target`, rounded to float32."""
    low, high = x.min(), x.max()
    basis = chebyshev.chebvander((2 * x - low - high) / (high - low), degree)
    mass = np.full(len(x), 1 / len(x))
    for _ in range(ROUNDS):
        rows = np.sqrt(mass) * weight
        solution = np.linalg.lstsq(basis * rows[:, None], target * rows, rcond=None)[0]
        miss = np.abs(weight * (basis @ solution - target))
        mass *= miss / miss.max() + 1e-12
        mass /= mass.sum()
    scaled = np.polynomial.Polynomial(chebyshev.cheb2poly(solution))
    shifted = scaled(np.polynomial.Polynomial([-(low + high) / (high - low), 2 / (high - low)]))
    return np.asarray(shifted.coef, dtype=np.float32).astype(np.float64)


def nodes(low: float, high: float) -> Float64:
    """Points of [low, high], denser at its ends, without 0."""
    angles = (np.arange(POINTS - 1) + 0.5) * math.pi / (POINTS - 1)
    return (low + high) / 2 + (high - low) / 2 * np.cos(angles)


def horner(coefficients: Float64, x: Float64) -> Float64:
    """The polynomial at x."""
    return np.asarray(np.polynomial.polynomial.polyval(x, coefficients), dtype=np.float64)


def normal_tail(t: Float64) -> Float64:
    """Phi(-t)."""
    return each(lambda value: 0.5 * math.erfc(value / math.sqrt(2)), t)


def each(function: Callable[[float], float], x: Float64) -> Float64:
    """`function` of every number."""
    return np.array([function(float(value)) for value in x])


def show(name: str, coefficients: Float64, error: str) -> None:
    """Print as C++, the highest power first."""
    numbers = ", ".join(f"{np.float32(value)!s}f" for value in coefficients[::-1])
    sys.stdout.write(f"// {error}\nconstexpr float {name}[] = {{{numbers}}};\n")


if __name__ == "__main__":
    main()
