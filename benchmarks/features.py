"""The recurrent kernels of the eight features beside TA-Lib, one million bars, one thread."""

from __future__ import annotations

import numpy as np
import talib

from atlas_pipeline.features import kernels
from benchmarks import figure, medians

ROWS = 1_000_000


def main() -> None:
    """Print ``features.kernels.talib``."""
    random = np.random.default_rng(0)
    close = 100.0 * np.exp(np.cumsum(random.normal(0, 0.01, ROWS)))
    high, low = close * (1 + random.random(ROWS) / 100), close * (1 - random.random(ROWS) / 100)
    returns = np.diff(np.log(close))

    def ours() -> None:
        kernels.rsi(close, 14)
        kernels.macd(close, 12, 26, 9)
        kernels.rolling_moments(close, 20)
        kernels.average_true_range(kernels.true_range(high, low, close), 14)
        kernels.rolling_moments(returns, 20)

    def peer() -> None:
        talib.RSI(close, 14)
        talib.MACD(close, 12, 26, 9)
        talib.BBANDS(close, 20, 2.0, 2.0)
        talib.ATR(high, low, close, 14)
        talib.STDDEV(returns, 20)

    own, other = medians(ours, peer)
    figure(
        "features.kernels.talib",
        own,
        "ms",
        f"TA-Lib {talib.__version__}",
        other,
        other / own,
        f"RSI, MACD, bands, ATR, volatility of {ROWS:,} bars, one thread",
    )


if __name__ == "__main__":
    main()
