"""Pictures of the feature matrix, as PNG bytes of 1000 pixels' width.

What they show is counted in ``coverage`` and ``drift``; what a feature is stands in ``registry``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from atlas_pipeline.features.coverage import valid_share_by_year
from atlas_pipeline.features.drift import BINS, LARGE, MODERATE
from atlas_pipeline.features.registry import REGISTRY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_WIDTH, _DPI = 10, 100
_ROW = 0.22
_YEARS_WITH_NUMBERS = 25


def plot_coverage(coverage: pd.DataFrame, rows: pd.Series) -> bytes:
    """Share of the cells that have a value, of each feature of the registry in each year.

    Parameters
    ----------
    coverage
        Rows of ``FEATURE_COVERAGE``.
    rows
        Rows of the feature matrix by month (index ``YYYY-MM``), of the same symbols.

    Returns
    -------
    bytes
        A PNG picture.
    """
    from matplotlib.colors import Normalize

    # Rounded down, so that 100 says that nothing is missing.
    shares = 100.0 * valid_share_by_year(coverage, rows) // 1.0
    figure, axis = _table_figure(len(shares))
    image = _heat_map(axis, shares, "RdYlGn", Normalize(0.0, 100.0))
    _write(axis, image, shares.where(shares < 100.0).to_numpy(), ".0f")
    axis.set_title(
        f"Bars whose feature has a value, in percent of the year's bars; all where no number stands\n"
        f"{int(rows.sum()):,} bars, {rows.index.min()} to {rows.index.max()}",
        loc="left",
        fontsize=10,
    )
    _colour_bar(figure, axis, image, "percent of the bars")
    return _png(figure)


def plot_distributions(frame: pd.DataFrame, features: Sequence[str]) -> bytes:
    """Distribution of features, the older half of the rows beside the newer, from the 0.1 to the 99.9% quantile.

    Parameters
    ----------
    frame
        Rows with ``available_at`` and the features, at least one.
    features
        Columns to show, those of a set for instance.

    Returns
    -------
    bytes
        A PNG picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = 4
    lines = -(-len(features) // columns)
    figure = Figure(figsize=(_WIDTH, 0.5 + 1.75 * lines), dpi=_DPI, layout="constrained")
    axes = np.ravel(figure.subplots(lines, columns))
    times = frame["available_at"]
    middle = times.sort_values().iloc[len(frame) // 2]
    older = (times < middle).to_numpy()
    halves = {f"before {middle:%Y-%m-%d}": older, f"from {middle:%Y-%m-%d}": ~older}
    for axis, name in zip(axes, features, strict=False):
        values = frame[name].to_numpy(dtype="float64")
        known = values[~np.isnan(values)]
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_yticks([])
        axis.tick_params(labelsize=8)
        if not len(known):
            axis.text(0.5, 0.5, "no values", ha="center", va="center", fontsize=9, transform=axis.transAxes)
            axis.set_xticks([])
            continue
        low, high = np.quantile(known, [0.001, 0.999])
        bins = np.linspace(low, high, 41) if low < high else np.array([low - 0.5, low + 0.5])
        for colour, half in zip(("C0", "C1"), halves.values(), strict=True):
            own = values[half & ~np.isnan(values)]
            if len(own):  # the older half may be all warm-up
                axis.hist(own, bins=bins, density=True, histtype="stepfilled", alpha=0.45, color=colour)
        axis.set_xlabel(REGISTRY[name].unit, fontsize=8)
    for axis in axes[len(features) :]:
        axis.set_visible(False)
    handles = [Patch(color=colour, alpha=0.45, label=label) for colour, label in zip(("C0", "C1"), halves, strict=True)]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    figure.suptitle("Density of the values", x=0.01, ha="left", fontsize=10)
    return _png(figure)


def plot_drift(drift: pd.DataFrame, reference_end: datetime) -> bytes:
    """Population stability index of each feature and year against the reference years.

    Parameters
    ----------
    drift
        What ``drift`` gives.
    reference_end
        End of the reference, exclusive.

    Returns
    -------
    bytes
        A PNG picture.
    """
    from matplotlib.colors import BoundaryNorm

    psi = drift.pivot(index="feature", columns="year", values="psi").reindex(drift["feature"].unique())
    figure, axis = _table_figure(len(psi))
    bounds = [0.0, MODERATE / 2, MODERATE, LARGE, 2 * LARGE, 4 * LARGE]
    image = _heat_map(axis, psi, "RdYlGn_r", BoundaryNorm(bounds, 256, extend="max"))
    _write(axis, image, psi.to_numpy(), ".2f")
    position = np.searchsorted(psi.columns.to_numpy(), pd.Timestamp(reference_end).year) - 0.5
    axis.axvline(position, color="black", linewidth=2)
    axis.set_title(
        f"Drift: population stability index of each year against all bars before {reference_end:%Y-%m-%d} (line)\n"
        f"below {MODERATE}: no shift; {MODERATE} to {LARGE}: moderate; from {LARGE}: large; grey: too few values; "
        f"{BINS} bins of the reference",
        loc="left",
        fontsize=10,
    )
    _colour_bar(figure, axis, image, "population stability index")
    return _png(figure)


def _table_figure(lines: int) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 1.4 + _ROW * lines), dpi=_DPI, layout="constrained")
    return figure, figure.subplots()


def _heat_map(axis: Axes, values: pd.DataFrame, colours: str, norm: Normalize) -> AxesImage:
    from matplotlib import colormaps

    colormap = colormaps[colours].with_extremes(bad="0.85")
    image = axis.imshow(values.to_numpy(), aspect="auto", norm=norm, cmap=colormap, interpolation="nearest")
    step = -(-values.shape[1] // _YEARS_WITH_NUMBERS)
    axis.set_xticks(range(0, values.shape[1], step), [str(year) for year in values.columns[::step]], fontsize=8)
    axis.set_yticks(range(len(values)), values.index, fontsize=8)
    axis.set_xlabel("year (UTC)", fontsize=8)
    return image


def _write(axis: Axes, image: AxesImage, values: np.ndarray, style: str) -> None:
    """Write the number into each cell, where there is room."""
    if values.shape[1] > _YEARS_WITH_NUMBERS:
        return
    for row, column in np.argwhere(~np.isnan(values)):
        value = values[row, column]
        red, green, blue, _ = image.to_rgba(value)
        # Luma of ITU-R BT.601: what is dark carries white letters.
        colour = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
        axis.text(column, row, format(value, style), ha="center", va="center", fontsize=7, color=colour)


def _colour_bar(figure: Figure, axis: Axes, image: AxesImage, label: str) -> None:
    bar = figure.colorbar(image, ax=axis, fraction=0.02, pad=0.01, anchor=(0.0, 1.0))
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
