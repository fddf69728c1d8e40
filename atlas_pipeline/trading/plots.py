"""Pictures of a policy's training and of its backtest, as PNG bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from atlas_pipeline.trading.backtest import Track

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1f5fa8", "#d1495b", "#3a9d6e", "#8a6fb0", "#c98b2b")


def equity_curves(strategies: dict[str, list[Track]], title: str) -> bytes:
    """Draw the equity of strategies over time, and below it how far each is under its peak.

    Parameters
    ----------
    strategies : dict of str to list of Track
        Per strategy its tracks, one a symbol, on the same bars; their mean equity is drawn. The first
        strategy is drawn heavier: it is the one the others stand beside.
    title : str

    Returns
    -------
    bytes
        PNG.

    Raises
    ------
    ValueError
        Where there is nothing to draw.
    """
    if not strategies or not all(strategies.values()):
        raise ValueError("no tracks to draw: trade at least one path for every strategy")
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    figure = Figure(figsize=(9, 5.4), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for number, (name, tracks) in enumerate(strategies.items()):
        time = tracks[0].path.available_at.astype("datetime64[us]")
        equity = np.mean([track.equity for track in tracks], axis=0)
        drawdown = equity / np.maximum.accumulate(equity) - 1.0
        # The first is wider and lies beneath: a baseline that it coincides with stays visible on it.
        colour, width, layer = COLOURS[number % len(COLOURS)], 2.8 if number == 0 else 1.1, 2 + (number > 0)
        label = f"{name.replace('_', ' ')} ({equity[-1] / equity[0] - 1.0:+.1%})"
        upper.plot(time, equity, color=colour, linewidth=width, label=label, zorder=layer)
        lower.plot(time, drawdown, color=colour, linewidth=width * 0.8, zorder=layer)
        if number == 0:
            lower.fill_between(time, drawdown, 0.0, color=colour, alpha=0.15, linewidth=0)
    opening = next(iter(strategies.values()))[0].equity[0]
    upper.axhline(opening, color="0.6", linewidth=0.8, linestyle=":")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    upper.set_ylabel("equity (currency), net of costs")
    upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    upper.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(strategies), frameon=False, borderpad=0.2)
    lower.set_ylabel("below peak")
    lower.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    lower.set_xlabel("time (UTC)")
    return _png(figure, (upper, lower))


def training_curve(history: list[dict[str, float]], title: str) -> bytes:
    """Draw a policy's training: Sharpe ratio where it learns and where it is only looked at, and its entropy.

    Parameters
    ----------
    history : list of dict
        Of `ppo.TrainedPolicy`.
    title : str

    Returns
    -------
    bytes
        PNG.

    Raises
    ------
    ValueError
        Where the history is empty.
    """
    if not history:
        raise ValueError("no history to draw: train the policy for at least one update")
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(9, 5.0), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for name, label, colour, marker in (
        ("sharpe_ratio", "episodes, sampled actions", COLOURS[0], ""),
        ("held_out_sharpe", "held-out bars, likeliest actions", COLOURS[1], "o"),
    ):
        known = [record for record in history if name in record]
        steps = [record["step"] for record in known]
        ratios = [record[name] for record in known]
        upper.plot(steps, ratios, color=colour, marker=marker, linewidth=1.6, label=label)
    upper.axhline(0.0, color="0.6", linewidth=0.8, linestyle=":")
    upper.set_title(title, loc="left", fontsize=12, fontweight="bold")
    upper.set_ylabel("Sharpe ratio (annualised), net")
    upper.legend(loc="best", frameon=False)
    lower.plot([r["step"] for r in history], [r["entropy"] for r in history], color=COLOURS[2], linewidth=1.6)
    lower.set_ylabel("entropy (nats)")
    lower.set_ylim(0.0, 1.15)
    lower.set_xlabel("environment steps")
    lower.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return _png(figure, (upper, lower))


def _png(figure: Figure, panels: tuple[Axes, ...]) -> bytes:
    for axes in panels:
        axes.grid(color="0.9", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    with io.BytesIO() as stream:
        figure.savefig(stream, format="png")
        return stream.getvalue()
