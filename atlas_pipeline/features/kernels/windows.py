"""Sums, moments and extrema of the last rows, for every row: each window is summed afresh, along a fixed tree.

A sum that adds the new and subtracts the old value drifts without bound, and depends on where it began. Here the sums
of short windows are added to sums of longer ones: a window of 20 rows is five of four. A row costs a number of
operations that grows with the logarithm of the window, all of them vectorized, and nothing is ever subtracted: a sum's
relative error stays below ``2 * log2(window) * 2**-53`` of the sum of absolute values, for the millionth row as for
the first (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002, sec. 4.2, pairwise summation).

Results are as long as the values; their first ``window - 1`` rows are meaningless.
"""

from __future__ import annotations

import numpy as np

from atlas_pipeline.compiled import compiled

Array = np.ndarray


@compiled(error_model="numpy")
def _add(one: Array, other: Array, out: Array) -> None:
    for row in range(len(out)):
        out[row] = one[row] + other[row]


@compiled(error_model="numpy")
def window_sum(values: Array, window: int, scratch: Array, out: Array) -> None:
    """Sum the last ``window`` values.

    Parameters
    ----------
    values : float64[n]
        NaN makes the windows that hold it NaN, and no other.
    window : int
        Rows.
    scratch : float64[2, n or more]
        Overwritten.
    out : float64[n]
        In units of ``values``.
    """
    rows = len(values)
    block, covered, shorter, turn = values, 0, 1, 0
    while True:
        if window & shorter:
            if covered == 0:
                out[:] = block
            else:
                # From the end of the rows that are covered already.
                _add(out[covered:], block[: rows - covered], out[covered:])
            covered += shorter
        if covered == window or shorter >= rows:
            return
        longer = scratch[turn, :rows]
        longer[:shorter] = block[:shorter]
        _add(block[shorter:], block[: rows - shorter], longer[shorter:])
        block, shorter, turn = longer, 2 * shorter, 1 - turn


@compiled(error_model="numpy", inline="always")
def moments_of_four(a: float, b: float, c: float, d: float) -> tuple[float, float]:
    """Sum four values, and the squares of their distances from their mean."""
    u, v, w = a - d, b - d, c - d
    moved = u + v + w
    return 4.0 * d + moved, u * u + v * v + w * w - 0.25 * moved * moved


@compiled(error_model="numpy", inline="always")
def between_five(a: float, b: float, c: float, d: float, e: float) -> tuple[float, float]:
    """Sum five sums, and the squares of their distances from their mean."""
    u, v, w, x = a - e, b - e, c - e, d - e
    moved = u + v + w + x
    return 5.0 * e + moved, u * u + v * v + w * w + x * x - 0.2 * moved * moved


@compiled(error_model="numpy")
def _moments_of_four(values: Array, total: Array, squares: Array) -> None:
    rows = len(values) - 3
    if rows <= 0:
        return
    a, b, c, d = values[:rows], values[1 : rows + 1], values[2 : rows + 2], values[3:]
    total, squares = total[3:], squares[3:]
    for row in range(rows):
        total[row], squares[row] = moments_of_four(a[row], b[row], c[row], d[row])


@compiled(error_model="numpy")
def _moments_of_five_blocks(total: Array, squares: Array, block: int, sums: Array, deviations: Array) -> None:
    first = 5 * block - 1
    rows = len(total) - first
    if rows <= 0:
        return
    begin = block - 1
    a, p = total[begin : begin + rows], squares[begin : begin + rows]
    begin += block
    b, q = total[begin : begin + rows], squares[begin : begin + rows]
    begin += block
    c, r = total[begin : begin + rows], squares[begin : begin + rows]
    begin += block
    d, s = total[begin : begin + rows], squares[begin : begin + rows]
    begin += block
    e, t = total[begin : begin + rows], squares[begin : begin + rows]
    sums, deviations = sums[first:], deviations[first:]
    share = 1.0 / block
    for row in range(rows):
        sums[row], between = between_five(a[row], b[row], c[row], d[row], e[row])
        deviations[row] = p[row] + q[row] + r[row] + s[row] + t[row] + share * between


@compiled(error_model="numpy")
def moments_20(values: Array, scratch: Array, total: Array, squares: Array) -> None:
    """Sum the last 20 values, and the squares of their distances from their mean.

    Sums of squares of four values, then of five such blocks, each about its own mean: what is between the means is
    added (Chan, Golub and LeVeque, The American Statistician 37 (1983) 242, eq. 2.1b, for more than two blocks). No
    large numbers are subtracted, a constant window has exactly 0, and the level of the values costs digits once, not
    twice: the relative error of the squares stays below about ``30 * 2**-53 * level / deviation``.

    Parameters
    ----------
    values : float64[n]
        NaN makes the windows that hold it NaN, and no other.
    scratch : float64[2, n or more]
        Overwritten.
    total, squares : float64[n]
        The sums, in units of ``values`` and of their squares.
    """
    rows = len(values)
    _moments_of_four(values, scratch[0, :rows], scratch[1, :rows])
    _moments_of_five_blocks(scratch[0, :rows], scratch[1, :rows], 4, total, squares)


@compiled(error_model="numpy")
def moments_100(values: Array, scratch: Array, total: Array, squares: Array) -> None:
    """Sum the last 100 values, and the squares of their distances from their mean, as ``moments_20`` does.

    Parameters
    ----------
    values : float64[n]
        NaN makes the windows that hold it NaN, and no other.
    scratch : float64[4, n or more]
        Overwritten.
    total, squares : float64[n]
        The sums, in units of ``values`` and of their squares.
    """
    rows = len(values)
    moments_20(values, scratch, scratch[2, :rows], scratch[3, :rows])
    _moments_of_five_blocks(scratch[2, :rows], scratch[3, :rows], 20, total, squares)


@compiled(error_model="numpy")
def _larger(one: Array, other: Array, out: Array) -> None:
    for row in range(len(out)):
        out[row] = one[row] if one[row] > other[row] else other[row]


@compiled(error_model="numpy")
def window_maximum(values: Array, window: int, scratch: Array, out: Array) -> None:
    """Find the largest of the last ``window`` values.

    Maxima of 2, 4, 8, ... rows; the window is two of the longest, which may overlap. A monotonic deque compares less
    and branches on every row; this is vectorized and takes the same time whatever the values.

    Parameters
    ----------
    values : float64[n]
        Without NaN.
    window : int
        Rows.
    scratch : float64[2, n or more]
        Overwritten.
    out : float64[n]
        In units of ``values``.
    """
    rows = len(values)
    block, shorter, turn = values, 1, 0
    while 2 * shorter <= window and shorter < rows:
        longer = scratch[turn, :rows]
        longer[:shorter] = block[:shorter]
        _larger(block[shorter:], block[: rows - shorter], longer[shorter:])
        block, shorter, turn = longer, 2 * shorter, 1 - turn
    behind = min(window - shorter, rows)
    out[:behind] = block[:behind]
    _larger(block[behind:], block[: rows - behind], out[behind:])
