"""Pictures of the market stage, as PNG bytes; what they show is counted in ``coverage``."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd

ROWS_SHOWN = 40
LINES_SHOWN = 12


def plot_coverage(coverage: pd.DataFrame) -> bytes:
    """Closes, or the number of symbols, by month above the share of each symbol's expected bars that are there.

    Of many symbols the least complete are shown.

    Parameters
    ----------
    coverage
        Rows of ``BAR_COVERAGE``, of one interval.

    Returns
    -------
    bytes
        A PNG picture.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    months = pd.period_range(coverage["month"].min(), coverage["month"].max(), freq="M").astype(str)
    bars, expected = (
        coverage.pivot_table(index="symbol", columns="month", values=name, aggfunc="sum").reindex(columns=months)
        for name in ("bars", "expected")
    )
    share = (bars / expected.where(expected > 0)).clip(upper=1.0)
    shown = share.loc[
        (bars.sum(axis=1) / expected.sum(axis=1)).sort_values(kind="stable").index[:ROWS_SHOWN]
    ].sort_index()

    figure = Figure(figsize=(9, 3.4 + 0.22 * max(4, len(shown))), dpi=80, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[5, max(1.5, 0.4 * len(shown))])
    positions = np.arange(len(months))
    if len(share) <= LINES_SHOWN:
        closes = coverage.pivot_table(index="month", columns="symbol", values="last_close").reindex(months)
        for symbol in closes:
            above.plot(positions, closes[symbol].to_numpy(), linewidth=1, label=symbol)
        above.set_yscale("log")
        above.set_ylabel("last close of the month,\nas traded (log)")
        above.legend(frameon=False, fontsize=8, ncols=4)
    else:
        above.plot(positions, np.sum(expected.to_numpy() > 0, axis=0), color="0.6", linewidth=2, label="expected")
        above.plot(positions, np.sum(bars.to_numpy() > 0, axis=0), linewidth=1.2, label="with bars")
        above.plot(positions, np.sum(share.to_numpy() >= 1.0, axis=0), linewidth=1.2, label="complete")
        above.set_ylim(bottom=0)
        above.set_ylabel("symbols")
        above.legend(frameon=False, fontsize=8)
    above.set_title(f"Bars of {len(share)} symbols, {months[0]} to {months[-1]}", loc="left", fontsize=10)
    above.set_xlim(-0.5, len(months) - 0.5)
    above.grid(alpha=0.25)
    ticks = _january_ticks(list(months))
    above.set_xticks(
        ticks, [months[i][:4] for i in ticks] if len(months) > 24 else [months[i] for i in ticks], fontsize=8
    )

    colours = colormaps["RdYlGn"].with_extremes(bad="0.88")
    image = below.imshow(shown.to_numpy(), aspect="auto", vmin=0, vmax=1, cmap=colours, interpolation="nearest")
    below.set_xticks(ticks, [label.get_text() for label in above.get_xticklabels()], fontsize=8)
    below.set_yticks(range(len(shown)), shown.index, fontsize=8)
    which = "" if len(shown) == len(share) else f", the {len(shown)} least complete symbols"
    below.set_title(f"Share of the expected bars that are stored (grey: none expected){which}", loc="left", fontsize=10)
    figure.colorbar(image, ax=below, fraction=0.02, pad=0.01)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _january_ticks(months: list[str]) -> list[int]:
    if len(months) <= 24:
        return list(range(0, len(months), max(1, len(months) // 8)))
    januaries = [i for i, month in enumerate(months) if month.endswith("-01")]
    return januaries[:: max(1, len(januaries) // 10)]
