"""Pictures of the features of quotes, as PNG bytes."""

from __future__ import annotations

import io

import pandas as pd

from atlas_pipeline.features.microstructure import WINDOW

SYMBOLS_SHOWN = 8
_POINTS = 400
_STEPS = ("1min", "5min", "15min", "1h", "4h", "1D")
_TICKS = 10


def plot_microstructure(rows: pd.DataFrame) -> bytes:
    """Quoted spread, order imbalance and volatility in time, of the symbols with the most quotes.

    Times without any quote, such as nights, take no room.

    Parameters
    ----------
    rows
        Rows of ``MICROSTRUCTURE_FEATURES``, at least one.

    Returns
    -------
    bytes
        A PNG picture.
    """
    from matplotlib.figure import Figure

    counts = rows["symbol"].value_counts()
    shown = rows[rows["symbol"].isin(counts.index[:SYMBOLS_SHOWN])]
    step = next((step for step in _STEPS if shown["available_at"].dt.ceil(step).nunique() <= _POINTS), _STEPS[-1])
    times = shown["available_at"].dt.ceil(step)
    panels = (
        (1e4 * shown["quoted_spread"], "median", "quoted spread,\nbasis points of the mid"),
        (shown["order_imbalance"], "mean", "order imbalance,\n−1 (asks) to 1 (bids)"),
        (1e4 * shown["mid_volatility"], "median", f"volatility of {WINDOW} quotes,\nbasis points per quote"),
    )
    figure = Figure(figsize=(9, 7), dpi=80, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True)
    for axis, (values, average, label) in zip(axes, panels, strict=True):
        lines = values.astype("float64").groupby([times, shown["symbol"]]).agg(average).unstack()
        for symbol in lines:
            axis.plot(range(len(lines)), lines[symbol].to_numpy(), linewidth=0.9, label=symbol)
        axis.set_ylabel(label, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    axes[1].axhline(0.0, color="0.4", linewidth=0.8)
    axes[0].set_ylim(bottom=0.0)
    axes[2].set_ylim(bottom=0.0)
    axes[0].legend(frameon=False, fontsize=7, ncols=SYMBOLS_SHOWN, loc="lower right", bbox_to_anchor=(1.0, 0.98))
    others = "" if len(counts) <= SYMBOLS_SHOWN else f", the {SYMBOLS_SHOWN} most quoted of {len(counts)} symbols"
    axes[0].set_title(f"{len(shown):,} quotes, averaged over {step}{others}", loc="left", fontsize=10)
    days = times.drop_duplicates().sort_values(ignore_index=True).dt.strftime("%Y-%m-%d")
    # A day of a few quotes, such as those after midnight UTC on a Saturday, has no room for a label.
    sizes = days.groupby(days).transform("size")
    firsts = days[~days.duplicated() & (sizes >= sizes.median() / 2)]
    firsts = firsts.iloc[:: -(-len(firsts) // _TICKS)]
    axes[-1].set_xticks(firsts.index, firsts, fontsize=8)
    axes[-1].set_xlabel("day (UTC)", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
