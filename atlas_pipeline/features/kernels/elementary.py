"""Elementary functions whose bits are the same in a vectorized loop, for a single row, and on any machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from atlas_pipeline.compiled import compiled

Array = np.ndarray

_SMALLEST, _LARGEST = float(np.finfo(np.float64).tiny), float(np.finfo(np.float64).max)
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_L1, _L2, _L3, _L4 = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
)
_L5, _L6, _L7 = 1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01


def _typed_bits(context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


def _typed_from_bits(context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


def _typed_fused(context: Any, factor: Any, other: Any, addend: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), generate


_bits: Any = intrinsic(_typed_bits)
_from_bits: Any = intrinsic(_typed_from_bits)
_fused: Any = intrinsic(_typed_fused)


@compiled
def multiply_add(factor: float, other: float, addend: float) -> float:
    """Compute ``factor * other + addend`` with one rounding, in one instruction where the processor has it."""
    return _fused(factor, other, addend)


@compiled(error_model="numpy", inline="always")
def log(value: float) -> float:
    """Compute one natural logarithm, as ``logarithm`` does."""
    bits = _bits(value)
    exponent = (bits - _SQRT_HALF_BITS) >> 52
    f = _from_bits(bits - (exponent << 52)) - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    even = w * (_L2 + w * (_L4 + w * _L6))
    odd = z * (_L1 + w * (_L3 + w * (_L5 + w * _L7)))
    half = 0.5 * f * f
    power = float(exponent)
    result = power * _LN2_HIGH - ((half - (s * (half + even + odd) + power * _LN2_LOW)) - f)
    return result if _SMALLEST <= value <= _LARGEST else np.nan


@compiled(error_model="numpy")
def logarithm(values: Array, out: Array) -> None:
    """Compute natural logarithms to within one unit in the last place.

    The reduction and the polynomial are those of Sun's fdlibm (``e_log.c``, 1993). The C library's function is called
    row by row and differs between libraries; this loop is vectorized, four times as fast, and the same everywhere.

    Parameters
    ----------
    values : float64[n]
        Any.
    out : float64[n]
        Where the logarithms go; NaN where a value is no positive, finite and normal number: NaN, zero, negative,
        infinite, or less than 2.3e-308.
    """
    for row in range(len(values)):
        out[row] = log(values[row])
