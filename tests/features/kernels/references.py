"""What the registry's formulas say of the newest of some rows, in plain Python, as slowly as they are written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from atlas_pipeline.features.kernels.relative import RESOLUTION
from tests.features.kernels.blocks import DECAY

ROUNDING = 2.0**-53
NAN = math.nan


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: list[float]) -> float:
    center = mean(values)
    return math.sqrt(math.fsum((value - center) ** 2 for value in values) / len(values))


def root_mean(squares: list[float]) -> float:
    return math.sqrt(mean(squares))


def ln(value: float) -> float:
    return math.log(value) if value > 0 else NAN


def ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else NAN


def score(values: list[float]) -> float:
    if any(map(math.isnan, values)) or deviation(values) == 0:
        return NAN
    return (values[-1] - mean(values)) / deviation(values)


def wilder(values: list[float], period: int) -> float:
    """Mean of the first values, then each with the weight 1 / period."""
    average = mean(values[:period])
    for value in values[period:]:
        average += (value - average) / period
    return average


def exponential(values: list[float], period: int, seeded: int) -> float:
    """EMA whose seed is the mean of the period that ends with row ``seeded - 1``."""
    average = mean(values[seeded - period : seeded])
    for value in values[seeded:]:
        average += 2 / (period + 1) * (value - average)
    return average


def variance(returns: list[float], decay: float) -> float:
    average = mean([value**2 for value in returns[:20]])
    for value in returns[20:]:
        average = decay * average + (1 - decay) * value**2
    return average


@dataclass
class Rows:
    """Rows of a series up to and with the newest; all that a reference may look at."""

    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float]
    index: list[float]

    @classmethod
    def until(cls, inputs: np.ndarray, row: int) -> Rows:
        return cls(*(values[: row + 1].tolist() for values in inputs))

    @cached_property
    def returns(self) -> list[float]:
        return [math.log(now / before) for before, now in zip(self.close[:-1], self.close[1:], strict=True)]

    @cached_property
    def sigma(self) -> float:
        return math.sqrt(variance(self.returns, DECAY))

    @cached_property
    def multiples(self) -> list[tuple[float, float]]:
        """Every return since sigma's seed, in units of the sigma of its own row, and that sigma."""
        average, found = mean([value**2 for value in self.returns[:20]]), []
        for number, value in enumerate(self.returns[19:]):
            average = average if number == 0 else DECAY * average + (1 - DECAY) * value**2
            sigma = math.sqrt(average)
            found.append((value / sigma if average > RESOLUTION else NAN, sigma))
        return found

    @cached_property
    def true_ranges(self) -> list[float]:
        return [
            math.log(max(high, before) / min(low, before))
            for high, low, before in zip(self.high[1:], self.low[1:], self.close[:-1], strict=True)
        ]

    @cached_property
    def changes(self) -> list[float]:
        return [now - before for before, now in zip(self.close[:-1], self.close[1:], strict=True)]

    @cached_property
    def level(self) -> float:
        """The largest price: what prices, and differences of prices, are exact relative to."""
        return max(*self.high, *self.close)

    @cached_property
    def log_error(self) -> float:
        """Of a difference of logarithms: each is exact to a unit of its own last place."""
        return 4 * ROUNDING * (1 + max(abs(math.log(price)) for price in (max(self.close), min(self.close))))


def relative(value: float, rows: Rows) -> float:
    return value / rows.sigma if rows.sigma**2 > RESOLUTION else NAN


def rsi(rows: Rows) -> float:
    gain = wilder([max(change, 0.0) for change in rows.changes], 14)
    loss = wilder([max(-change, 0.0) for change in rows.changes], 14)
    return 100 * gain / (gain + loss) if gain + loss > 0 else 50.0


def band_position(rows: Rows) -> float:
    window = rows.close[-20:]
    spread = 2 * deviation(window)
    return (rows.close[-1] - (mean(window) - spread)) / (2 * spread) if spread > 0 else 0.5


def true_range(rows: Rows) -> float:
    ranges = [
        max(high, before) - min(low, before)
        for high, low, before in zip(rows.high[1:], rows.low[1:], rows.close[:-1], strict=True)
    ]
    return wilder(ranges, 14)


def breakout(rows: Rows) -> float:
    close = rows.close[-1]
    return float(close > max(rows.high[-21:-1])) - float(close < min(rows.low[-21:-1]))


def garman_klass(rows: Rows) -> float:
    found = [
        0.5 * ln(high / low) ** 2 - (2 * math.log(2) - 1) * ln(ratio(close, opening)) ** 2
        for opening, high, low, close in zip(
            rows.open[-20:], rows.high[-20:], rows.low[-20:], rows.close[-20:], strict=True
        )
    ]
    return root_mean(found)


def resolved(square: float) -> float:
    return square if square > RESOLUTION else NAN


def volume_ratio(rows: Rows) -> float:
    average = mean(rows.volume[-20:])
    return ratio(rows.volume[-1] - average, rows.volume[-1] + average)


def premium(rows: Rows) -> float:
    return ln(ratio(rows.index[-1], 100 * math.sqrt(252) * realized(20)(rows)))


def weighted(values: list[float], half_life: int) -> float:
    """Exponentially weighted mean of what is known, the newest value last."""
    weights = [0.5 ** (age / half_life) for age in range(len(values))][::-1]
    known = [(weight, value) for weight, value in zip(weights, values, strict=True) if not math.isnan(value)]
    return ratio(math.fsum(w * v for w, v in known), math.fsum(w for w, _ in known))


def range_ratio(half_life: int) -> Callable[[Rows], float]:
    def reference(rows: Rows) -> float:
        square = weighted([value**2 for value in rows.true_ranges], half_life)
        return 0.5 * ln(ratio(resolved(square), 4 * math.log(2) * resolved(rows.sigma**2)))

    return reference


def trend(half_life: int) -> Callable[[Rows], float]:
    return lambda rows: math.sqrt(half_life) * weighted([value for value, _ in rows.multiples], half_life)


def realized(window: int) -> Callable[[Rows], float]:
    return lambda rows: root_mean([value**2 for value in rows.returns[-window:]])


def simple(window: int) -> Callable[[Rows], float]:
    return lambda rows: mean(rows.close[-window:])


def logarithmic_return(period: int) -> Callable[[Rows], float]:
    return lambda rows: ln(rows.close[-1] / rows.close[-1 - period])


REFERENCES: dict[str, Callable[[Rows], float]] = {
    "Close": lambda rows: rows.close[-1],
    "RSI": rsi,
    "MACD": lambda rows: exponential(rows.close, 12, 26) - exponential(rows.close, 26, 26),
    "BB_Position": band_position,
    "ATR": true_range,
    "Volatility": lambda rows: deviation(rows.returns[-20:]),
    "ROC": lambda rows: 100 * (rows.close[-1] / rows.close[-11] - 1),
    "Momentum": lambda rows: rows.close[-1] - rows.close[-11],
    "volatility_ewma": lambda rows: 100 * rows.sigma,
    "relative_return": lambda rows: relative(rows.returns[-1], rows),
    "relative_absolute_return": lambda rows: relative(abs(rows.returns[-1]), rows),
    "relative_range": lambda rows: relative(ln(rows.high[-1] / rows.low[-1]), rows),
    "relative_gap": lambda rows: relative(ln(rows.open[-1] / rows.close[-2]), rows),
    "relative_momentum": lambda rows: relative(ln(rows.close[-1] / rows.close[-11]) / math.sqrt(10), rows),
    "volume_ratio": volume_ratio,
    "volatility_ratio": lambda rows: 0.5 * ln(ratio(resolved(variance(rows.returns, 0.8)), resolved(rows.sigma**2))),
    "log_volatility": lambda rows: 0.5 * ln(10_000 * resolved(rows.sigma**2)),
    **{f"range_ratio_{half_life}": range_ratio(half_life) for half_life in (1, 4, 16, 64, 256)},
    **{f"trend_{half_life}": trend(half_life) for half_life in (1, 2, 4, 8, 16, 32, 64, 128)},
    "sma_20": simple(20),
    "sma_50": simple(50),
    "sma_200": simple(200),
    "ema_12": lambda rows: exponential(rows.close, 12, 12),
    "ema_26": lambda rows: exponential(rows.close, 26, 26),
    "rolling_high_20": lambda rows: max(rows.high[-20:]),
    "rolling_low_20": lambda rows: min(rows.low[-20:]),
    "breakout_20": breakout,
    "momentum_signal": lambda rows: -1.0 if len(rows.close) <= 10 else float(rows.close[-1] > rows.close[-11]),
    "return_1": logarithmic_return(1),
    "return_5": logarithmic_return(5),
    "return_20": logarithmic_return(20),
    "return_60": logarithmic_return(60),
    "realized_volatility_5": realized(5),
    "realized_volatility_20": realized(20),
    "realized_volatility_60": realized(60),
    "parkinson_20": lambda rows: math.sqrt(
        mean([math.log(high / low) ** 2 for high, low in zip(rows.high[-20:], rows.low[-20:], strict=True)])
        / (4 * math.log(2))
    ),
    "garman_klass_20": garman_klass,
    "overnight_gap": lambda rows: ln(rows.open[-1] / rows.close[-2]),
    "volume_zscore_20": lambda rows: score(rows.volume[-20:]),
    "distance_from_high_20": lambda rows: math.log(rows.close[-1] / max(rows.high[-20:])),
    "distance_from_low_20": lambda rows: math.log(rows.close[-1] / min(rows.low[-20:])),
    "distance_from_high_252": lambda rows: math.log(rows.close[-1] / max(rows.high[-252:])),
    "close_over_sma_20": lambda rows: rows.close[-1] / mean(rows.close[-20:]) - 1,
    "close_over_sma_200": lambda rows: rows.close[-1] / mean(rows.close[-200:]) - 1,
    "ema_ratio": lambda rows: exponential(rows.close, 12, 12) / exponential(rows.close, 26, 26) - 1,
    "vix": lambda rows: rows.index[-1],
    "vix_return": lambda rows: ln(ratio(rows.index[-1], rows.index[-2])),
    "vix_over_sma_20": lambda rows: rows.index[-1] / mean(rows.index[-20:]) - 1,
    "vix_zscore_100": lambda rows: score(rows.index[-100:]),
    "volatility_premium": premium,
}
"""By the name of the feature, its value at the newest of rows that are as many as its warm-up, and one, or more."""

EXACT = {"Close", "breakout_20", "momentum_signal", "rolling_high_20", "rolling_low_20", "vix"}
IN_LOGARITHMS = {"Volatility", "overnight_gap", *(name for name in REFERENCES if name.startswith(("return_", "real")))}
IN_VOLATILITIES = {"relative_return", "relative_absolute_return", "relative_range", "relative_gap", "relative_momentum"}


def tolerance(name: str, rows: Rows, value: float, in_currency: bool) -> float:
    """How far a kernel may be from the reference: a few roundings of what the formula subtracts.

    A distance from a mean has the digits of the level it was taken at; a return those of the logarithms it is a
    difference of; what is divided by a deviation carries that error divided by it.
    """
    if name in EXACT:
        return 0.0
    if in_currency:
        return 16 * ROUNDING * rows.level
    if name in IN_LOGARITHMS:
        return rows.log_error
    if name == "volatility_ewma":
        return 100 * rows.log_error + 16 * ROUNDING * value
    if name in IN_VOLATILITIES:
        return (1 + abs(value)) * (rows.log_error / rows.sigma + 16 * ROUNDING)
    if name == "log_volatility":
        return rows.log_error / rows.sigma + 16 * ROUNDING * (1 + abs(value))
    if name == "volatility_ratio":
        fast = math.sqrt(variance(rows.returns, 0.8))
        return rows.log_error * (1 / fast + 1 / rows.sigma) + 16 * ROUNDING * (1 + abs(value))
    if name.startswith("range_ratio"):
        spread = math.sqrt(weighted([square**2 for square in rows.true_ranges], int(name.rpartition("_")[2])))
        return rows.log_error * (1 / spread + 1 / rows.sigma) + 256 * ROUNDING * (1 + abs(value))
    if name.startswith("trend"):
        least = min(sigma for multiple, sigma in rows.multiples if not math.isnan(multiple))
        return 128 * (rows.log_error / least + 16 * ROUNDING)
    if name == "volatility_premium":
        return rows.log_error / realized(20)(rows) + 16 * ROUNDING * (1 + abs(value))
    window = {
        "BB_Position": rows.close[-20:],
        "volume_zscore_20": rows.volume[-20:],
        "vix_zscore_100": rows.index[-100:],
    }
    if name in window:
        spread = deviation(window[name])
        return 16 * ROUNDING * max(window[name]) / spread * (1 + abs(value)) if spread else 0.0
    return 16 * ROUNDING * (1 + abs(value))
