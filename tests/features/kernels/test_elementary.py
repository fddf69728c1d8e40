"""Logarithms against fifty decimal digits; a product and a sum with one rounding against fractions."""

import decimal
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.kernels.elementary import logarithm, multiply_add

TINY, LARGEST = float(np.finfo(np.float64).tiny), float(np.finfo(np.float64).max)


def logarithms(values) -> np.ndarray:
    values = np.asarray(values, dtype="float64")
    out = np.empty_like(values)
    logarithm(values, out)
    return out


def drawn(name: str) -> np.ndarray:
    random = np.random.default_rng(0)
    return {
        "whole range": np.exp2(random.uniform(-1022, 1024, 4000)),
        "near 1": 1 + random.normal(0, 1e-3, 4000),
        "neighbours of 1": 1 + np.arange(-300, 300) * 2.0**-53,
        "where the reduction changes sides": math.sqrt(0.5) * np.exp2(random.integers(-9, 9, 4000))
        * (1 + random.uniform(-1e-9, 1e-9, 4000)),
        "of one reduced interval": random.uniform(math.sqrt(0.5), math.sqrt(2.0), 8000),
    }[name]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "whole range",
        "near 1",
        "neighbours of 1",
        "where the reduction changes sides",
        "of one reduced interval",
    ],
)
def test_within_one_unit_of_the_last_place(name):
    values = drawn(name)
    with decimal.localcontext() as context:
        context.prec = 50
        for value, found in zip(values.tolist(), logarithms(values).tolist(), strict=True):
            exact = decimal.Decimal(value).ln()
            unit = decimal.Decimal(math.ulp(float(exact)))
            assert abs(decimal.Decimal(found) - exact) < unit, value
            # Python's is the C library's, itself a unit or less away from the truth.
            assert abs(found - math.log(value)) <= float(unit), value


@settings(max_examples=300, deadline=None)
@given(st.floats(TINY, LARGEST))
def test_any_positive_normal_number_has_its_logarithm(value):
    (found,) = logarithms([value])
    assert abs(found - math.log(value)) <= math.ulp(math.log(value))


def test_what_has_no_logarithm_has_none():
    none = [0.0, -0.0, -1.0, -LARGEST, math.nan, math.inf, -math.inf, 5e-324, np.nextafter(TINY, 0)]
    assert np.isnan(logarithms(none)).all()
    assert np.isfinite(logarithms([TINY, LARGEST])).all()
    assert logarithms([1.0])[0] == 0.0
    assert logarithms([]).shape == (0,)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 64, 1001])
def test_a_vectorized_loop_gives_the_bits_of_a_single_row(count):
    values = np.exp(np.random.default_rng(count).normal(0, 3, count))
    single = np.concatenate([logarithms(values[row : row + 1]) for row in range(count)])
    np.testing.assert_array_equal(logarithms(values), single)
    np.testing.assert_array_equal(logarithms(values[::-1])[::-1], single)


@settings(max_examples=200, deadline=None)
@given(*[st.floats(-1e100, 1e100, allow_subnormal=False)] * 3)
def test_a_product_and_a_sum_are_rounded_once(factor, other, addend):
    exact = Fraction(factor) * Fraction(other) + Fraction(addend)
    if exact == 0 or abs(exact) > Fraction(1e-280):
        assert multiply_add(factor, other, addend) == float(exact)


def test_two_roundings_would_be_seen():
    third = 1.0 / 3.0
    assert multiply_add(third, 3.0, -1.0) == float(Fraction(third) * 3 - 1) != third * 3.0 - 1.0
