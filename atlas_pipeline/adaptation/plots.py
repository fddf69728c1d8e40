"""Pictures of shadow runs and of trading on paper, as PNG bytes; the numbers in them are computed elsewhere."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from atlas_pipeline.adaptation.contest import Contest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers too; the champion stands back, the candidate is
# judged.
COLOURS = {"candidate": "#D55E00", "champion": "#0072B2", "base": "#7F7F7F"}
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#333333"


def plot_shadow(contest: Contest, title: str) -> bytes:
    """Draw what candidate, champion and base would have earned, and the bounds the verdict rests on.

    Above: compound net return (%) over the shadow bars. Below: mean difference of the candidate's net return
    a bar over the other two (basis points), with its one-sided bounds; nothing while the gate still waits
    for steps.

    Returns
    -------
    bytes
        PNG.
    """
    from matplotlib.ticker import FuncFormatter

    figure = _figure()
    upper, lower = figure.subplots(2, 1, height_ratios=[3, 1])
    time = contest.instants.astype("datetime64[us]")
    for name, result in contest.results.items():
        growth = np.concatenate([[0.0], np.cumprod(1 + result.net_returns) - 1]) * 100
        ended = "not finite" if np.isnan(growth[-1]) else f"{growth[-1]:+.1f}%"
        style = {"lw": 2.0, "zorder": 3} if name == "candidate" else {"lw": 1.3, "ls": "--" if name == "base" else "-"}
        upper.plot(time, growth, color=COLOURS[name], label=f"{name} ({ended})", **style)
    upper.axhline(0, color=INK, lw=0.8, ls=":")
    upper.set_ylabel("net return since creation (%)")
    upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0f}"))
    upper.legend(loc="best", frameon=False)
    upper.set_title(title, loc="left", fontsize=12, fontweight="bold")

    numbers = contest.decision.numbers
    for row, other in enumerate(("base", "champion")):
        if f"over_{other}_mean" not in numbers:
            continue
        mean, low, high = (numbers[f"over_{other}_{measure}"] * 1e4 for measure in ("mean", "lower", "upper"))
        lower.plot([low, high], [row, row], color=COLOURS[other], lw=5, alpha=0.4, solid_capstyle="butt")
        lower.plot(mean, row, "o", color=COLOURS[other])
    lower.axvline(0, color=INK, lw=0.8, ls=":")
    lower.set_yticks([0, 1], ["over base", "over champion"])
    lower.set_ylim(-0.6, 1.6)
    lower.set_title(contest.decision.reason, loc="left", fontsize=9)
    lower.set_xlabel("candidate's mean difference of net return per bar, and its bounds (basis points)")
    return _png(figure, (upper, lower))


def plot_verdicts(decisions: pd.DataFrame) -> bytes:
    """Draw every look of the gate: the candidate's mean difference over the champion, with its bounds, by shadow steps.

    Parameters
    ----------
    decisions
        Rows of the table GATE_DECISIONS.

    Returns
    -------
    bytes
        PNG.
    """
    figure = _figure()
    axes = figure.subplots()
    looks = decisions.dropna(subset=["over_champion_mean"]).sort_values("steps")
    for number, (name, own) in enumerate(looks.groupby(["env_step", "candidate_version"])):
        mean, low, high = (own[f"over_champion_{measure}"].to_numpy() * 1e4 for measure in ("mean", "lower", "upper"))
        label = f"adapter {name[0]:06d}, version {name[1]}: {own['verdict'].iloc[-1]}"
        axes.errorbar(
            own["steps"] + 6 * number, mean, yerr=[mean - low, high - mean], fmt="o-", capsize=4,
            color=SERIES[number % len(SERIES)], label=label,
        )  # fmt: skip
    axes.axhline(0, color=INK, lw=0.8, ls=":")
    axes.set_xlabel("shadow steps (bars times symbols) since the candidate was made")
    axes.set_ylabel("net return over the champion (basis points a bar)")
    axes.set_title("The gate's looks, with one-sided bounds", loc="left", fontsize=12, fontweight="bold")
    if len(looks):
        axes.legend(loc="best", frameon=False)
    return _png(figure, (axes,))


def plot_ledger(equity: pd.DataFrame) -> bytes:
    """Draw the equity of every account of a ledger, and how far each is under its peak.

    Parameters
    ----------
    equity
        Rows of the table EQUITY, at least one.

    Returns
    -------
    bytes
        PNG.
    """
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    figure = _figure()
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for number, (name, rows) in enumerate(equity.sort_values("bar").groupby(["ledger", "symbol"])):
        time = rows["bar"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        value = rows["equity"].to_numpy()
        colour = SERIES[number % len(SERIES)]
        label = f"{name[0]}, {name[1]} ({value[-1] / value[0] - 1:+.1%})"
        upper.plot(time, value, color=colour, lw=1.6, label=label)
        lower.plot(time, value / rows["peak"].to_numpy() - 1, color=colour, lw=1.2)
    upper.axhline(equity.sort_values("bar")["equity"].iloc[0], color=INK, lw=0.8, ls=":")
    upper.set_ylabel("equity (currency), net of costs")
    upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    upper.legend(loc="upper left", frameon=False)
    upper.set_title("Trading on paper", loc="left", fontsize=12, fontweight="bold")
    lower.set_ylabel("below peak")
    lower.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    lower.set_xlabel("time (UTC)")
    return _png(figure, (upper, lower))


def _figure() -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(9, 5.4), dpi=110, layout="constrained")


def _png(figure: Figure, panels: tuple[Axes, ...]) -> bytes:
    for axes in panels:
        axes.grid(color="0.9", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    with io.BytesIO() as stream:
        figure.savefig(stream, format="png")
        return stream.getvalue()
