"""The picture of what option chains say about their underlyings, as PNG bytes."""

from __future__ import annotations

import io

import pandas as pd

LINES_SHOWN = 12


def plot_option_surface(features: pd.DataFrame) -> bytes:
    """Level of the at-the-money volatility, its term slope and its put-call skew in time, a line an underlying.

    Parameters
    ----------
    features
        Rows of ``UNDERLYING_OPTION_FEATURES``. Of more than twelve underlyings those with most values are drawn.

    Returns
    -------
    bytes
        A PNG picture.
    """
    from matplotlib.figure import Figure

    known = features.groupby("symbol")["atm_volatility"].count()
    shown = sorted(known.sort_values(ascending=False, kind="stable").index[:LINES_SHOWN])
    figure = Figure(figsize=(9, 6), dpi=80, layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    for axis, name, unit, title in zip(
        axes,
        ("atm_volatility", "term_slope", "put_call_skew"),
        ("percent per root year", "points per root year", "percent of the level"),
        ("At the money, 30 days", "At the money, 90 days less 30", "25-delta put less 25-delta call, 30 days"),
        strict=True,
    ):
        for symbol in shown:
            own = features[features["symbol"] == symbol].sort_values("available_at")
            axis.plot(own["available_at"], 100 * own[name], linewidth=1, marker=".", markersize=3, label=symbol)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylabel(unit, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        if name != "atm_volatility":
            axis.axhline(0, color="0.6", linewidth=0.8)
    if shown:
        axes[0].legend(frameon=False, fontsize=8, ncols=6)
    if len(shown) < len(known):
        figure.suptitle(f"{len(shown)} of {len(known)} underlyings", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
