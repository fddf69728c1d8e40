"""Pictures of the market stage, as PNG bytes; what is judged stands in ``validation``."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd


def plot_bars(bars: pd.DataFrame, sessions: pd.DataFrame) -> bytes:
    """Closes of every symbol on a logarithmic axis above the share of each month's sessions that have a bar.

    Parameters
    ----------
    bars
        Rows of ``BARS``.
    sessions
        ``calendars.sessions`` over the time the bars should cover.

    Returns
    -------
    bytes
        A PNG picture.
    """
    from matplotlib.figure import Figure

    symbols = sorted(bars["symbol"].unique())
    expected = sessions.groupby(sessions["session"].dt.to_period("M")).size()
    found = bars.groupby(["symbol", bars["session"].dt.to_period("M")]).size().unstack(fill_value=0)
    share = found.reindex(index=symbols, columns=expected.index, fill_value=0).to_numpy() / expected.to_numpy()

    figure = Figure(figsize=(9, 3.2 + 0.3 * len(symbols)), dpi=80, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[5, max(1.0, 0.5 * len(symbols))])
    for symbol in symbols:
        own = bars[bars["symbol"] == symbol]
        above.plot(own["session"].to_numpy(), own["close"].to_numpy(), linewidth=1, label=symbol)
    above.set_yscale("log")
    above.set_ylabel("close, as traded (log)")
    above.set_title("Bars by symbol", loc="left", fontsize=10)
    above.legend(frameon=False, fontsize=8)
    above.grid(alpha=0.25)
    image = below.imshow(np.clip(share, 0, 1), aspect="auto", vmin=0, vmax=1, cmap="RdYlGn", interpolation="nearest")
    months = [str(month) for month in expected.index]
    ticks = [i for i, month in enumerate(months) if month.endswith("-01")][:: max(1, len(months) // 120)]
    below.set_xticks(ticks, [months[i][:4] for i in ticks], fontsize=8)
    below.set_yticks(range(len(symbols)), symbols, fontsize=8)
    below.set_title("Share of each month's sessions that have a bar", loc="left", fontsize=10)
    figure.colorbar(image, ax=below, fraction=0.02, pad=0.01)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
