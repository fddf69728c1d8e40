"""The eight classic indicators beside TA-Lib, pandas, plain Python and talipp; cores, first call, memory bandwidth."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from collections import deque
from importlib.metadata import version
from itertools import pairwise
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import talib
from numba import njit
from talipp.indicators import ATR, BB, MACD, ROC, RSI, StdDev
from talipp.ohlcv import OHLCV

from atlas_pipeline.features import FeatureStream, compute_atlas8, compute_features
from atlas_pipeline.features.kernels.atlas8_step import STEP_STATE, step_atlas8
from benchmarks import figure, medians

ROWS = 1_000_000
PYTHON_ROWS = 20_000
STREAMED = 200_000
SYMBOLS, BARS = 500, 5_000
FIRST_CALL = """
import sys, time
import pandas as pd
frame = pd.read_pickle(sys.argv[1])
started = time.perf_counter()
from atlas_pipeline.features import compute_features
compute_features(frame)
print(time.perf_counter() - started)
"""

Prices = tuple[np.ndarray, np.ndarray, np.ndarray]


def prices(rows: int) -> Prices:
    """Make highs, lows and closes of a random walk."""
    random = np.random.default_rng(0)
    close = 100.0 * np.exp(np.cumsum(random.normal(0, 0.01, rows)))
    return close * (1 + random.random(rows) / 100), close * (1 - random.random(rows) / 100), close


def bars(symbols: int, rows: int) -> pd.DataFrame:
    """Make bars of several symbols, a day apart."""
    high, low, close = prices(symbols * rows)
    instants = pd.date_range("2000-01-03 21:00", periods=rows, freq="D", tz="UTC", unit="us")
    names = np.repeat([f"S{number:03d}" for number in range(symbols)], rows)
    frame = pd.DataFrame(
        {"symbol": pd.Series(names, dtype="str"), "interval": pd.Series("1d", range(len(names)), "str")}
    )
    frame["available_at"] = np.tile(instants, symbols)
    frame["month"] = np.tile(instants.strftime("%Y-%m"), symbols)
    frame["month"] = frame["month"].astype("str")
    return frame.assign(open=close, high=high, low=low, close=close, volume=1e6)


def by_talib(high: np.ndarray, low: np.ndarray, close: np.ndarray) -> list[np.ndarray]:
    """The same eight columns."""
    returns = np.diff(np.log(close), prepend=np.nan)
    upper, _, lower = talib.BBANDS(close, 20, 2.0, 2.0)
    return [
        close.copy(),
        talib.RSI(close, 14),
        talib.MACD(close, 12, 26, 9)[0],
        (close - lower) / (upper - lower),
        talib.ATR(high, low, close, 14),
        talib.STDDEV(returns[1:], 20),
        talib.ROC(close, 10),
        talib.MOM(close, 10),
    ]


def by_pandas(frame: pd.DataFrame) -> list[pd.Series]:
    """The same eight columns as a pandas user writes them."""
    high, low, close = frame["high"], frame["low"], frame["close"]
    change = close.diff()
    gain = change.clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    loss = (-change).clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    middle, deviation = close.rolling(20).mean(), close.rolling(20).std(ddof=0)
    before = close.shift()
    extent = pd.Series(np.maximum(high, before) - np.minimum(low, before))
    return [
        close.copy(),
        100 * gain / (gain + loss),
        close.ewm(span=12, adjust=False).mean() - close.ewm(span=26, adjust=False).mean(),
        (close - middle) / (4 * deviation) + 0.5,
        extent.ewm(alpha=1 / 14, adjust=False).mean(),
        np.log(close).diff().rolling(20).std(ddof=0),
        100 * close.pct_change(10),
        close.diff(10),
    ]


def by_python(high: list[float], low: list[float], close: list[float]) -> list[tuple[float, ...]]:
    """The same eight columns in a Python loop that reads each window again."""
    rows: list[tuple[float, ...]] = []
    gain = loss = extent = 0.0
    fast = slow = close[0]
    returns = [0.0, *(math.log(now / before) for before, now in pairwise(close))]
    for row in range(1, len(close)):
        change = close[row] - close[row - 1]
        gain += (max(change, 0.0) - gain) / 14
        loss += (max(-change, 0.0) - loss) / 14
        true_range = max(high[row], close[row - 1]) - min(low[row], close[row - 1])
        extent += (true_range - extent) / 14
        fast += (close[row] - fast) * 2 / 13
        slow += (close[row] - slow) * 2 / 27
        if row >= 20:
            window = close[row - 19 : row + 1]
            mean = sum(window) / 20
            deviation = math.sqrt(sum((price - mean) ** 2 for price in window) / 20)
            recent = returns[row - 19 : row + 1]
            centre = sum(recent) / 20
            volatility = math.sqrt(sum((value - centre) ** 2 for value in recent) / 20)
            lagged = close[row - 10]
            position = (close[row] - mean) / (4 * deviation) + 0.5
            rsi = 100 * gain / (gain + loss)
            moves = 100 * (close[row] / lagged - 1), close[row] - lagged
            rows.append((close[row], rsi, fast - slow, position, extent, volatility, *moves))
    return rows


def by_talipp(high: list[float], low: list[float], close: list[float]) -> None:
    """The same eight, bar by bar."""
    indicators = [RSI(14), MACD(12, 26, 9), BB(20, 2.0), ROC(10)]
    ranges, volatility, lagged = ATR(14), StdDev(20), deque(maxlen=11)
    before = close[0]
    for top, bottom, price in zip(high, low, close, strict=True):
        for indicator in indicators:
            indicator.add(price)
        ranges.add(OHLCV(price, top, bottom, price))
        volatility.add(math.log(price / before))
        lagged.append(price)
        before = price


@njit(cache=True)
def streamed(state: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, out: np.ndarray) -> None:
    """Give our kernel one bar after another."""
    for row in range(len(close)):
        step_atlas8(state, high[row], low[row], close[row], out)


def main() -> None:
    """Print the figures."""
    high, low, close = prices(ROWS)
    frame = pd.DataFrame({"high": high, "low": low, "close": close})
    note = f"{ROWS:,} rows, one thread"
    own, other = medians(lambda: compute_atlas8(high, low, close), lambda: by_talib(high, low, close))
    figure("features.atlas8.talib", own, "ms", f"TA-Lib {talib.__version__}", other, other / own, note)
    milliseconds = own
    own, other = medians(lambda: compute_atlas8(high, low, close), lambda: by_pandas(frame))
    figure("features.atlas8.pandas", own, "ms", f"pandas {pd.__version__}", other, other / own, note)
    few = [prices[:PYTHON_ROWS] for prices in (high, low, close)]
    lists = [prices.tolist() for prices in few]
    own, other = medians(lambda: compute_atlas8(*few), lambda: by_python(*lists))
    figure("features.atlas8.python", own, "ms", "Python loop", other, other / own, f"{PYTHON_ROWS:,} rows, one thread")

    _bandwidth(milliseconds)
    _stream(high, low, close)
    _cores()
    _first_call()


def _bandwidth(milliseconds: float) -> None:
    """Compare the bytes that must move (three columns of float64 in, eight of float32 out) with a plain copy's."""
    source, target = np.ones(ROWS * 7), np.ones(ROWS * 7)
    copy, _ = medians(lambda: np.copyto(target, source), lambda: None)
    copied = 2 * source.nbytes / copy / 1e6
    moved = ROWS * (3 * 8 + 8 * 4) / milliseconds / 1e6
    figure(
        "features.bandwidth", moved, "GB/s", "copy of as many bytes", copied, moved / copied, "the eight, one thread"
    )


def _stream(high: np.ndarray, low: np.ndarray, close: np.ndarray) -> None:
    state, out = np.zeros(STEP_STATE), np.empty(8, np.float32)
    top, bottom, price = high[:STREAMED], low[:STREAMED], close[:STREAMED]
    few = [prices[: STREAMED // 100].tolist() for prices in (high, low, close)]
    own, other = medians(lambda: streamed(state, top, bottom, price, out), lambda: by_talipp(*few))
    own, other = 1e3 * own / STREAMED, 1e3 * other / len(few[0])
    peer = f"talipp {version('talipp')}"
    figure("features.stream.talipp", own, "us", peer, other, other / own, "a bar, all eight, compiled")
    instants = pd.date_range("2000-01-03 21:00", periods=len(few[0]), freq="D", tz="UTC", unit="us").to_pydatetime()

    def every() -> None:
        stream = FeatureStream("S")
        for instant, high, low, close in zip(instants, *few, strict=True):
            stream.update(instant, open=close, high=high, low=low, close=close, volume=1.0)

    own, other = medians(every, lambda: by_talipp(*few))
    own, other = 1e3 * own / len(few[0]), 1e3 * other / len(few[0])
    figure("features.stream.every", own, "us", peer, other, other / own, "a bar, all from Python; talipp its eight")


def _cores() -> None:
    """Compute every feature of many symbols on two cores and on one."""
    made = bars(SYMBOLS, BARS)
    allowed = sorted(os.sched_getaffinity(0))

    def on(cores: list[int]) -> None:
        os.sched_setaffinity(0, cores)
        try:
            compute_features(made)
        finally:
            os.sched_setaffinity(0, allowed)

    own, other = medians(lambda: on(allowed[:2]), lambda: on(allowed[:1]), 7)
    note = f"{SYMBOLS} symbols of {BARS:,} bars, all features, frames included"
    figure("features.symbols.scaling", own / 1e3, "s", "one core", other / 1e3, other / own, note)


def _first_call() -> None:
    """Time the first call of a process that has imported pandas, but neither Numba nor anything of ours."""
    seconds = []
    with TemporaryDirectory() as folder:
        file = f"{folder}/bars.pickle"
        bars(2, 500).to_pickle(file)
        for _ in range(6):
            done = subprocess.run([sys.executable, "-c", FIRST_CALL, file], capture_output=True, text=True, check=True)
            seconds.append(float(done.stdout))
    # The first fills the cache of compiled code.
    own = statistics.median(seconds[1:])
    figure(
        "features.first_call",
        own,
        "s",
        "the limit",
        1.0,
        1.0 / own,
        "fresh process, imports included, compiled code on disk",
    )


if __name__ == "__main__":
    main()
