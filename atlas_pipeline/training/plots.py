"""Pictures of calibration as PNG bytes; the numbers in them come from ``density``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.training.calibration import LEVELS, Array, coverage
from atlas_pipeline.training.density import DensityForecast

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#333333"
BINS = 10
LOSS_LABELS = {
    "nll_loss": "NLL (nats a bar)",
    "cross_entropy": "cross-entropy (nats a bar)",
    "pinball_loss": "pinball loss (multiples of the volatility)",
    "huber_loss": "Huber loss (squares of the volatility)",
}
"""What each head's loss is called, with its unit."""
RELIABILITY_LABELS = {
    "probability": ("probability that was said, mean of each tenth (1)", "share of outcomes in which it came (1)"),
    "quantile": ("level of the quantile (1)", "share of outcomes at or below it (1)"),
    "location": ("location that was said, mean of each tenth (%)", "what came, mean (%)"),
}
"""By quantity, what is said and what is observed of it."""
FAN_BARS = 120


def pit_histogram(transform: Array, title: str) -> bytes:
    """Histogram of the PIT beside the band in which 95% of the bars of a calibrated forecast lie.

    Parameters
    ----------
    transform
        PIT of the outcomes, [n] in [0, 1].
    title
        What was forecast.

    Returns
    -------
    bytes
        PNG.
    """
    from scipy import stats

    n = len(transform)
    counts, edges = np.histogram(transform, bins=BINS, range=(0, 1))
    low, high = stats.binom.ppf((0.025, 0.975), n, 1 / BINS) * BINS / n
    figure = _figure()
    axes = figure.subplots()
    axes.axhspan(low, high, color=INK, alpha=0.12, lw=0, label="95% band if calibrated")
    for level in (low, 1, high):
        axes.axhline(level, color=INK, lw=1, ls="--" if level == 1 else ":", zorder=3)
    axes.bar(edges[:-1], counts * BINS / n, width=1 / BINS, align="edge", color=COLOURS[0],
             edgecolor="white", label=f"forecasts (n = {n})")  # fmt: skip
    axes.set(
        xlim=(0, 1),
        xlabel="probability integral transform of the outcome (1)",
        ylabel="relative frequency (1)",
    )
    axes.set_title(title, loc="left")
    return _png(figure)


def reliability(transforms: Mapping[str, Array], title: str) -> bytes:
    """Observed against nominal coverage of central intervals, a line a model, with the 95% binomial band.

    Parameters
    ----------
    transforms
        Model name to the PIT of the outcomes, each [n].
    title
        What was forecast.

    Returns
    -------
    bytes
        PNG.
    """
    from scipy import stats

    levels = np.linspace(0.02, 0.98, 49)
    n = min(len(transform) for transform in transforms.values())
    low, high = (stats.binom.ppf(quantile, n, levels) / n - levels for quantile in (0.025, 0.975))
    figure = _figure()
    axes = figure.subplots()
    axes.fill_between(100 * levels, 100 * low, 100 * high, color=INK, alpha=0.12, lw=0, label="95% band if calibrated")
    axes.axhline(0, color=INK, lw=1, ls="--")
    for i, (name, transform) in enumerate(transforms.items()):
        excess = np.array([coverage(transform, level) - level for level in levels])
        axes.plot(100 * levels, 100 * excess, color=COLOURS[i % len(COLOURS)], lw=2 if i == 0 else 1.3, label=name)
    axes.set(xlim=(0, 100), xlabel="nominal coverage of the central interval (%)",
             ylabel="observed minus nominal (% points)")  # fmt: skip
    axes.set_title(title, loc="left")
    return _png(figure)


def cumulative_gain(gains: Mapping[str, tuple[NDArray[np.datetime64], Array]], title: str) -> bytes:
    """NLL gained on an opponent since the first bar, a line a symbol.

    Parameters
    ----------
    gains
        Symbol to instants and to the opponent's NLL minus the forecaster's at each (nats), both [n].
    title
        What was forecast, and against whom.

    Returns
    -------
    bytes
        PNG.
    """
    figure = _figure()
    axes = figure.subplots()
    axes.axhline(0, color=INK, lw=1, ls="--")
    for i, (symbol, (instants, gain)) in enumerate(gains.items()):
        axes.plot(instants, np.cumsum(gain), color=COLOURS[i % len(COLOURS)], lw=1.6, label=symbol)
    axes.set(xlabel="bar (UTC)", ylabel="cumulative gain in log-likelihood (nats)")
    axes.set_title(title, loc="left")
    return _png(figure)


def fan_chart(instants: NDArray[np.datetime64], outcome: Array, forecast: DensityForecast, title: str) -> bytes:
    """Central 50, 80 and 95% intervals of the last ``FAN_BARS`` bars and what came.

    Parameters
    ----------
    instants
        When each forecast was made, [n].
    outcome
        The returns that followed, percent, [n].
    forecast
        Their densities, n of them.
    title
        What was forecast.

    Returns
    -------
    bytes
        PNG.
    """
    shown = slice(max(len(instants) - FAN_BARS, 0), None)
    at, came, said = instants[shown], outcome[shown], forecast[shown]
    figure = _figure()
    axes = figure.subplots()
    for level, alpha in zip(reversed(LEVELS), (0.18, 0.3, 0.45), strict=True):
        low, high = said.interval(level)
        axes.fill_between(at, low, high, color=COLOURS[0], alpha=alpha, lw=0, label=f"{level:.0%} interval")
    axes.plot(at, said.median, color=COLOURS[0], lw=1.2, label="median")
    low, high = said.interval(LEVELS[-1])
    outside = (came < low) | (came > high)
    axes.plot(at, came, ".", color=INK, ms=4, label="outcome")
    axes.plot(at[outside], came[outside], "o", color=COLOURS[1], ms=5, label=f"outside the {LEVELS[-1]:.0%} interval")
    axes.set(xlabel="bar (UTC)", ylabel="return over the horizon (%)")
    axes.set_title(title, loc="left")
    return _png(figure)


def learning_curve(epochs: list[dict[str, float]], title: str) -> bytes:
    """Training and validation loss by evaluation, as PNG; ``epochs`` are the metrics of a trained forecaster."""
    figure = _figure()
    axes = figure.subplots()
    number = np.arange(1, len(epochs) + 1)
    # The head's loss comes first of what validation judged.
    loss = next(name for name in epochs[0] if name.startswith("val/")).removeprefix("val/")
    for i, (part, label) in enumerate((("train", "training"), ("val", "validation (EMA weights)"))):
        axes.plot(number, [epoch[f"{part}/{loss}"] for epoch in epochs], "o-", color=COLOURS[i], lw=2, label=label)
    axes.set(
        xlabel="evaluation",
        ylabel=LOSS_LABELS[loss],
        xticks=number if len(number) <= 20 else number[:: len(number) // 10],
    )
    axes.set_title(title, loc="left")
    return _png(figure)


def prediction_reliability(table: pd.DataFrame, title: str) -> bytes:
    """What came against what was said, a colour a horizon, with the intervals of ``reliability_table``.

    Parameters
    ----------
    table
        As ``reliability_table`` makes it.
    title
        What was predicted.

    Returns
    -------
    bytes
        PNG.
    """
    figure = _figure()
    axes = figure.subplots()
    middle = table["said"].mean()
    axes.axline((middle, middle), slope=1, color=INK, lw=1, ls="--", label="what is said comes")
    for i, (horizon, own) in enumerate(table.groupby("horizon")):
        error = (own["observed"] - own["low"], own["high"] - own["observed"])
        bars = "1 bar ahead" if horizon == 1 else f"{horizon} bars ahead"
        axes.errorbar(own["said"], own["observed"], yerr=error, fmt="o", color=COLOURS[i % len(COLOURS)], capsize=3,
                      label=f"{bars}, 95% interval")  # fmt: skip
    said, came = RELIABILITY_LABELS[table["quantity"].iloc[0]]
    axes.set(xlabel=said, ylabel=came)
    axes.set_title(title, loc="left")
    return _png(figure)


def _figure() -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(7.2, 4.2), dpi=120, layout="constrained")


def _png(figure: Figure) -> bytes:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=INK, alpha=0.15, lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK)
    # Below the axes, where it covers no data.
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
