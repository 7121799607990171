"""e^x and the activations, as native/src/kernels/functions.h computes them: the same operations in the same order.

What each is near to, and how near, stands there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cls_runtime.engines.base import Float32
from cls_runtime.engines.native.exact_arithmetic import Arithmetic
from cls_runtime.engines.native.weights import Activation


def _float32(*numbers: float) -> tuple[np.float32, ...]:
    return tuple(np.float32(number) for number in numbers)


_TWO_TO = _float32(0.00015353362, 0.0013398875, 0.009618437, 0.055503324, 0.24022648, 0.6931472)
_TAIL = _float32(
    -1.7058085e-06, 2.5302184e-05, -0.00011573169, -0.00031945392, 0.0073265727, -0.05270731, -0.4591193, -1.1511222, -0.999999
)
_COARSE = _float32(0.00019095698, 0.0019397362, 0.0011084094, -0.031721335, 0.091491126, 0.91700345)
_TANH = _float32(-0.0066535734, 0.021301704, -0.05389997, 0.1333297, -0.33333328)
_LOG2_OF_E, _SMALLEST_EXPONENT, _LARGEST_EXPONENT, _CAP = _float32(1.442695, -87.33, 88.37, 14)
_ZERO, _HALF, _ONE = _float32(0, 0.5, 1)
_CUBE_SLOPE, _SLOPE = _float32(0.071354814, 1.5957692)  # of gelu_tanh
_SMALLEST_POWER = np.float32(-126)


def exp(x: Float32, arithmetic: Arithmetic) -> Float32:
    """e^x."""
    bounded = _least(_LARGEST_EXPONENT, x)
    whole = np.rint(bounded * _LOG2_OF_E)
    rest = arithmetic.fma(bounded, _LOG2_OF_E, -whole)
    return _where(x < _SMALLEST_EXPONENT, _ZERO, _two_to(whole, rest, arithmetic))


def activated(x: Float32, activation: Activation, arithmetic: Arithmetic) -> Float32:
    """`activation` of each number."""
    return _ACTIVATIONS[activation](x, arithmetic)


def _identity(x: Float32, _arithmetic: Arithmetic) -> Float32:
    return x


def _relu(x: Float32, _arithmetic: Arithmetic) -> Float32:
    return _largest(_ZERO, x)


def _gelu(x: Float32, arithmetic: Arithmetic) -> Float32:
    """x Phi(x) = max(x, 0) - |x| Phi(-|x|), with Phi(-t) = 2^P(t)."""
    t = _least(_CAP, np.abs(x))
    power = _polynomial(t, _TAIL, arithmetic)
    whole = np.rint(power)
    phi = _two_to(whole, power - whole, arithmetic)
    phi = _where(power < _SMALLEST_POWER, _ZERO, phi)
    return arithmetic.fma(-t, phi, _relu(x, arithmetic))


def _gelu_coarse(x: Float32, arithmetic: Arithmetic) -> Float32:
    """The same with Phi(-t) = P(-t)^8."""
    minus_t = -np.abs(x)
    root = _largest(_polynomial(minus_t, _COARSE, arithmetic), _ZERO)
    square = root * root
    fourth = square * square
    return arithmetic.fma(minus_t, fourth * fourth, _relu(x, arithmetic))


def _gated_by(x: Float32, t: Float32, e: Float32, arithmetic: Arithmetic) -> Float32:
    """max(x, 0) - t e / (1 + e)."""
    return arithmetic.fma(-t, e / (_ONE + e), _relu(x, arithmetic))


def _gelu_tanh(x: Float32, arithmetic: Arithmetic) -> Float32:
    t = _least(_CAP, np.abs(x))
    slope = arithmetic.fma(t * t, _CUBE_SLOPE, _SLOPE)
    return _gated_by(x, t, _exp_of_minus(t * slope, arithmetic), arithmetic)


def _silu(x: Float32, arithmetic: Arithmetic) -> Float32:
    t = _least(-_SMALLEST_EXPONENT, np.abs(x))
    return _gated_by(x, t, _exp_of_minus(t, arithmetic), arithmetic)


def _sigmoid(x: Float32, arithmetic: Arithmetic) -> Float32:
    e = _exp_of_minus(x, arithmetic)
    return _where(x < 0, e, _ONE) / (_ONE + e)


def _tanh(x: Float32, arithmetic: Arithmetic) -> Float32:
    """(1 - e) / (1 + e), e = exp(-2 |x|); near zero a polynomial."""
    e = _exp_of_minus(x + x, arithmetic)
    far = (_ONE - e) / (_ONE + e)
    square = x * x
    near = arithmetic.fma(x * square, _polynomial(square, _TANH, arithmetic), x)
    return _where(np.abs(x) < _HALF, near, np.copysign(far, x))


_ACTIVATIONS: dict[Activation, Callable[[Float32, Arithmetic], Float32]] = {
    "identity": _identity,
    "gelu": _gelu,
    "gelu_coarse": _gelu_coarse,
    "gelu_tanh": _gelu_tanh,
    "relu": _relu,
    "silu": _silu,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
}


def _exp_of_minus(x: Float32, arithmetic: Arithmetic) -> Float32:
    """e^-|x|."""
    return exp(-np.abs(x), arithmetic)


def _two_to(whole: Float32, rest: Float32, arithmetic: Arithmetic) -> Float32:
    """2^whole * 2^rest, |rest| <= 1/2, by adding to the exponent."""
    fraction = arithmetic.fma(rest, _polynomial(rest, _TWO_TO, arithmetic), _ONE)
    power: Float32 = (fraction.view(np.int32) + (whole.astype(np.int32) << 23)).view(np.float32)
    return power


def _polynomial(x: Float32, coefficients: tuple[np.float32, ...], arithmetic: Arithmetic) -> Float32:
    """Horner's rule, the highest power first."""
    y: Any = coefficients[0]
    for coefficient in coefficients[1:]:
        y = arithmetic.fma(y, x, coefficient)
    result: Float32 = y
    return result


def _least(a: Any, b: Any) -> Float32:
    """As the vector types' `min`, of a zero's sign and of what is not a number too."""
    return _where(a < b, a, b)


def _largest(a: Any, b: Any) -> Float32:
    """As the vector types' `max`."""
    return _where(a > b, a, b)


def _where(condition: Any, a: Any, b: Any) -> Float32:
    chosen: Float32 = np.where(condition, a, b)
    return chosen
