"""The simulated process in compiled loops: prices bar by bar, and the extremes inside a bar.

Random numbers are drawn in ``simulated_path`` and come in as arrays, so that what is random is seen in one place.
"""

from __future__ import annotations

import math

import numpy as np

from atlas_pipeline.compiled import compiled

Array = np.ndarray

# Rows of what ``simulate`` returns for each bar.
COLUMNS = (
    "open",
    "high",
    "low",
    "close",
    "volume",
    "log_return",
    "drift",
    "signal",
    "deviation",
    "regime",
    "next_variance",
    "next_score",
)
_OPEN, _HIGH, _LOW, _CLOSE, _VOLUME, _RETURN, _DRIFT, _SIGNAL, _DEVIATION, _REGIME, _VARIANCE, _SCORE = range(12)

_VOLUME_PER_SHOCK = 0.25
_VOLUME_NOISE = 0.3
_MOST_IMAGES = 60
_MOST_STEPS = 80


@compiled
def highest(end: float, variance: float, uniform: float) -> float:
    """Draw the maximum of a Brownian bridge from 0 to ``end``.

    Glasserman, Monte Carlo Methods in Financial Engineering, 2004, sec. 6.4: its tail is
    ``exp(−2 m (m − end) / variance)``, inverted here.

    Parameters
    ----------
    end, variance : float
        Where the bridge ends, and the variance of the motion over its whole length.
    uniform : float
        In (0, 1]; the draw.
    """
    return 0.5 * (end + math.sqrt(end * end - 2.0 * variance * math.log(uniform)))


@compiled
def depth_beyond(depth: float, end: float, top: float) -> tuple[float, float]:
    """Probability that a bridge of variance 1 whose maximum is ``top`` falls below ``−depth``, and its slope.

    The bridge stays between ``−c`` and ``b`` with the probability
    ``Σ exp(−2kL(kL − a)) − exp(−2(b + kL)(b + kL − a))``, k over all integers and ``L = b + c``, by the method of
    images (Feller, An Introduction to Probability Theory and Its Applications, vol. 2, 2nd ed., 1971, sec. X.5).
    Its derivative in b, over the same without a lower bound, is the probability given the maximum.
    """
    length, width = top + depth, 2.0 * top - end
    square = 2.0 * length * length
    # Relative to the density of the maximum, which underflows far out. From image to image each exponential is the one
    # before times a ratio that itself shrinks by one factor.
    base = 2.0 * top * (top - end)
    right, right_ratio = math.exp(base - square + 2.0 * length * end), math.exp(2.0 * length * end - 3.0 * square)
    left, left_ratio = math.exp(base - square - 2.0 * length * end), math.exp(-2.0 * length * end - 3.0 * square)
    upper, upper_ratio = math.exp(-square - 2.0 * length * width), math.exp(-3.0 * square - 2.0 * length * width)
    lower, lower_ratio = math.exp(4.0 * length * width - 4.0 * square), math.exp(2.0 * length * width - 5.0 * square)
    shrinking = math.exp(-2.0 * square)
    beyond, slope = 0.0, 0.0
    for k in range(1, _MOST_IMAGES):
        step = 2.0 * k * length
        beyond += k * (right * (step - end) + left * (step + end))
        slope += 2.0 * k * k * (right * (1.0 - (step - end) ** 2) + left * (1.0 - (step + end) ** 2))
        step, far = step + width, step + 2.0 * length - width
        beyond -= (k + 1) * upper * step + k * lower * far
        slope -= 2.0 * k * (k + 1) * (upper * (1.0 - step * step) + lower * (1.0 - far * far))
        if k * k * max(right, left, lower) < 1e-12:
            break
        right, left, upper, lower = right * right_ratio, left * left_ratio, upper * upper_ratio, lower * lower_ratio
        right_ratio *= shrinking
        left_ratio *= shrinking
        upper_ratio *= shrinking
        lower_ratio *= shrinking
    return beyond / width, slope / width


@compiled
def lowest(end: float, top: float, variance: float, uniform: float) -> float:
    """Draw the minimum of a Brownian bridge from 0 to ``end`` whose maximum is known.

    The two are far from independent (correlated by 0.65 where the bridge ends where it began): drawn one by one, each
    by its own law, ranges come out three times as variable as they are. Their joint law is a series, see
    ``depth_beyond``, solved here by Newton's steps on its logarithm inside a bracket.

    Parameters
    ----------
    end, variance
        As in ``highest``.
    top : float
        The maximum, as ``highest`` drew it.
    uniform : float
        In (0, 1]; the draw.
    """
    unit = math.sqrt(variance)
    a, b = end / unit, top / unit
    low, high = max(0.0, -a), math.inf
    if 2.0 * b - a < 1e-9:
        return min(0.0, end)
    target = math.log(uniform)
    depth = max(0.5 * (-a + math.sqrt(a * a - 2.0 * target)), low + 1e-3)
    for _ in range(_MOST_STEPS):
        beyond, slope = depth_beyond(depth, a, b)
        excess = math.log(beyond) - target if beyond > 0.0 else -math.inf
        if excess > 0.0:
            low = depth
        else:
            high = depth
        guess = depth - excess * beyond / slope if beyond > 0.0 and slope < 0.0 else math.nan
        if not low < guess < high:
            guess = 0.5 * (low + high) if high < math.inf else 2.0 * low + 0.1
        moved = abs(guess - depth)
        depth = guess
        # The steps converge quadratically: what this one left is its square.
        if moved < 1e-4:
            break
    return -unit * depth


@compiled
def simulate(
    session: Array,
    length: Array,
    share: Array,
    overnight: Array,
    kind: Array,
    weights: Array,
    inflations: Array,
    normals: Array,
    uniforms: Array,
    mixing: Array,
    common: Array,
    moves: Array,
    pays: Array,
    drifts: Array,
    deviations: Array,
    leaving: Array,
    parameters: tuple[float, float, float, float, float, float, float, float],
    actions: tuple[float, float, float],
    state: tuple[float, float, float, int],
) -> tuple[Array, Array, Array, tuple[float, float, float, int]]:
    """Run the process of ``simulation`` over some sessions.

    Parameters
    ----------
    session : int64[n]
        Session of each bar, from 0.
    length, share, overnight : float64[n]
        Length of the bar in sessions; its share of a session's variance; the part of that which falls before it opens.
    kind : int64[n]
        Row of ``weights`` and ``inflations``.
    weights, inflations : float64[kinds, jumps + 1]
        Probability of each number of jumps in a bar, and the standard deviation it multiplies the bar's by.
    normals, uniforms : float64[n, 3]
        Standard normal: shock, gap, volume. In (0, 1]: jumps, high, low.
    mixing, common : float64[n]
        Variance of the Student-t mixture, mean 1; the factor all symbols share, standard normal.
    moves, pays : float64[sessions], bool[sessions]
        Uniform, decides whether the regime changes before the session; whether a dividend is paid.
    drifts, deviations, leaving : float64[regimes]
        Mean and standard deviation of a session's log return; probability of leaving before the next session.
    parameters
        GJR-GARCH omega, alpha, gamma, beta; R² and persistence of the signal; correlation; currency traded in a session
        for each unit of its standard deviation.
    actions
        Dividend as a fraction of the price; price above which a split follows, and its ratio.
    state
        Price, GARCH variance, the signal's score and regime before the first bar; the regime is -1 before the first
        session of all, whose regime was drawn already and stands in ``-1 - regime``.

    Returns
    -------
    columns : float64[12, n]
        See ``COLUMNS``: prices in currency; return, drift, signal and deviation of their logarithm, splits and
        dividends taken out; variance and score as they stand after the bar.
    splits, dividends : float64[sessions]
        Shares after for one before; cash a share.
    state
        After the last bar.
    """
    omega, alpha, gamma, beta, r2, persistence, correlation, turnover = parameters
    dividend, split_above, split_ratio = actions
    price, variance, score, regime = state
    rows, sessions = len(session), len(moves)
    columns = np.empty((12, rows))
    splits, dividends = np.ones(sessions), np.zeros(sessions)
    own_part, common_part = math.sqrt(1.0 - correlation), math.sqrt(correlation)
    noise_part, signal_part = math.sqrt(1.0 - r2), math.sqrt(r2)
    innovation = math.sqrt(1.0 - persistence * persistence)
    for row in range(rows):
        day, cash = session[row], 0.0
        if row == 0 or session[row - 1] != day:
            if regime < 0:
                regime = -1 - regime
            elif moves[day] <= leaving[regime]:
                others = len(leaving) - 1
                step = min(int(others * moves[day] / leaving[regime]), others - 1)
                regime = (regime + 1 + step) % len(leaving)
            if price > split_above:
                splits[day] = split_ratio
                price /= split_ratio
            if pays[day]:
                cash = round(dividend * price, 4)
        part = share[row]
        total = deviations[regime] * math.sqrt(variance * part)
        jumps, reached = 0, weights[kind[row], 0]
        while uniforms[row, 0] > reached and jumps < weights.shape[1] - 1:
            jumps += 1
            reached += weights[kind[row], jumps]
        # Given mixing and jumps the bar is a Brownian motion of this deviation, and so is its inside.
        shock = common_part * common[row] + own_part * normals[row, 0]
        news = shock * math.sqrt(mixing[row])
        motion = total * noise_part * inflations[kind[row], jumps] * math.sqrt(mixing[row])
        columns[_DRIFT, row] = drifts[regime] * part
        columns[_SIGNAL, row] = total * signal_part * score
        columns[_DEVIATION, row] = total * noise_part
        columns[_REGIME, row] = regime
        change = columns[_DRIFT, row] + columns[_SIGNAL, row] + motion * shock
        before = overnight[row]
        gap = before * change + motion * math.sqrt(before * (1.0 - before)) * normals[row, 1]
        inside = motion * motion * (1.0 - before)
        top = highest(change - gap, inside, uniforms[row, 1])
        bottom = lowest(change - gap, top, inside, uniforms[row, 2])
        if cash > 0.0:
            # A company that lost nearly all of its worth overnight pays no more than half of the rest.
            cash = min(cash, 0.5 * price * math.exp(gap + bottom))
            dividends[day] = cash
        opened = price * math.exp(gap) - cash
        high, low = price * math.exp(gap + top) - cash, price * math.exp(gap + bottom) - cash
        price = price * math.exp(change) - cash
        columns[_RETURN, row] = change
        columns[_OPEN, row] = opened
        columns[_CLOSE, row] = price
        # Rounding must not put a close that is the high above it.
        columns[_HIGH, row] = max(high, opened, price)
        columns[_LOW, row] = min(low, opened, price)
        activity = _VOLUME_PER_SHOCK * abs(news) + _VOLUME_NOISE * normals[row, 2]
        traded = turnover * length[row] * deviations[regime] * math.sqrt(variance) / price * math.exp(activity)
        columns[_VOLUME, row] = max(1.0, float(round(traded)))
        variance = omega + (alpha + (gamma if news < 0.0 else 0.0)) * variance * news * news + beta * variance
        score = persistence * score + innovation * news
        columns[_VARIANCE, row] = variance
        columns[_SCORE, row] = score
    return columns, splits, dividends, (price, variance, score, regime)
