"""The page ``docs/features.md``, made from the registry: ``python -m atlas_pipeline.features.documentation``.

Features are declared in their sets; here they are only written down.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

from atlas_pipeline.features.atlas8 import ATLAS8
from atlas_pipeline.features.coverage import FEATURE_COVERAGE, REASONS
from atlas_pipeline.features.cross_section import MARKET
from atlas_pipeline.features.feature import CURRENCY, Feature
from atlas_pipeline.features.heterogeneous import HETEROGENEOUS
from atlas_pipeline.features.microstructure import MICROSTRUCTURE
from atlas_pipeline.features.model_inputs import MODEL_SETS
from atlas_pipeline.features.options import OPTION_CONTRACT, OPTION_UNDERLYING
from atlas_pipeline.features.registry import FEATURES, REGISTRY
from atlas_pipeline.features.relative import RELATIVE, VOLATILITY
from atlas_pipeline.features.technical import TECHNICAL, VOLATILITY_INDEX
from atlas_pipeline.market.calendars import LONGEST_CLOSURE
from atlas_pipeline.whole_file import whole_file

PAGE = Path(__file__).resolve().parents[2] / "docs" / "features.md"

_DECLARED = (
    (
        "atlas8",
        "The eight classic indicators of the documents of origin. Where TA-Lib has the indicator the values are "
        "TA-Lib's, seeds included.",
        ATLAS8,
    ),
    (
        "relative",
        "What a density forecaster reads by default: multiples of a trailing volatility σ, which mean the same at any "
        "price level. σ itself is the column `volatility_ewma`, which is not of the set.",
        (VOLATILITY, *RELATIVE),
    ),
    (
        "heterogeneous",
        "Volatility and signed returns at many memories at once, for the density forecaster too.",
        HETEROGENEOUS,
    ),
    (
        "market",
        "Means over all series at the same instant. They stand in the panels alone, made of columns of the table when "
        "rows are joined for models.",
        tuple(MARKET.values()),
    ),
    ("technical", "Averages, returns, ranges, breakouts and distances.", TECHNICAL),
    (
        "volatility index",
        "Columns of an index of implied volatility such as the VIX, joined to each bar as last published.",
        VOLATILITY_INDEX,
    ),
    (
        "microstructure",
        "Of the best bid and ask, one row a quote; windows count quotes. Table `microstructure_features`.",
        MICROSTRUCTURE,
    ),
    ("options: contracts", "One row a contract and instant. Table `option_features`.", OPTION_CONTRACT),
    (
        "options: underlying",
        "What a chain says about its underlying, one row an underlying and instant. Table "
        "`underlying_option_features`.",
        OPTION_UNDERLYING,
    ),
)

_HEADER = ("feature", "formula", "inputs", "parameters", "warm-up", "unit", "limits", "source")
_SET_HEADER = ("set", "columns", "which")
_WIDTH = 120


def feature_page() -> str:
    """Write the page of all features.

    Returns
    -------
    str
        Markdown; the same from run to run.
    """
    sections = [
        "# Features",
        _wrapped("Made from the registry by `make docs`: edit the declarations in `atlas_pipeline/features`."),
        _introduction(),
    ]
    for name, text, features in _DECLARED:
        sections += [f"## {name}", _wrapped(text), _table(_HEADER, map(_cells, features))]
    rows = ((f"`{name}`", str(len(columns)), _names(columns)) for name, columns in MODEL_SETS.items())
    sections += ["## Sets and tiers", _sets(), _table(_SET_HEADER, rows)]
    sections += ["## What NaN means", _missing(), "## Splits and dividends", _adjustment()]
    sections += ["## Streaming", _streaming(), "## Causality", _causality()]
    return "\n\n".join(sections) + "\n"


def write_feature_page(path: Path = PAGE) -> None:
    """Write the page to a file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(feature_page(), encoding="utf-8")


def _introduction() -> str:
    return _wrapped(
        f"""The table `{FEATURES.name}` has {len(REGISTRY)} features, one row a symbol, interval and bar. They are
        computed in float64 and stored as float32. O, H, L, C and V are a bar's open, high, low, close and
        volume; ln is the natural logarithm; [t−1] is the row before. Windows count rows, this one included.
        *Warm-up* is the number of rows at the start of a series that have no value. What has the unit {CURRENCY}
        is a price, or a difference of prices. *Limits* are the smallest and the largest possible value."""
    )


def _sets() -> str:
    return _wrapped(
        """A model reads the columns of one set in this order; its configuration names it (`features`, by default
        `relative`). `a20` and `a25` are the tiers of the documents of origin, which give the number of their
        columns and not their names: `a20` holds what means the same at any price level, `a25` the volatility
        index beside it."""
    )


def _missing() -> str:
    reasons = ", ".join(f"*{reason}*" for reason in REASONS)
    return _wrapped(
        f"""There is no value, and none was made up: nothing is filled, carried over or set to zero. Empty cells are
        counted by symbol, month, feature and reason in the table `{FEATURE_COVERAGE.name}`. The reasons are
        {reasons}. A bar whose high, low or close is missing, infinite or not positive has no features. After it,
        and after a hole of more than {LONGEST_CLOSURE.days} days, the series begins anew with its warm-up. Only
        `momentum_signal` has a value during its warm-up, the −1 of the documents of origin. No row with a NaN among
        a model's columns reaches the model."""
    )


def _adjustment() -> str:
    return _wrapped(
        f"""Prices are stored as traded. Row t is what the formulas give on the bars up to t, back-adjusted as of t:
        a split or a dividend is not a price move, and no later one changes the row. To this end every price is
        multiplied by a forward factor, which depends on earlier actions only; what is in {CURRENCY} is divided
        by the factor of its own bar, and so is on the scale that was traded there."""
    )


def _streaming() -> str:
    return _wrapped(
        """`FeatureStream` computes the features one bar at a time from a small saved state, with the code that
        computes whole tables: live rows and stored rows agree bit for bit."""
    )


def _causality() -> str:
    return _wrapped(
        """A row depends on what was available when its bar was complete, and on nothing later. `audit_causality`, a
        blocking check on the asset, alters the future after a number of instants: it is cut off, changed and
        permuted, with its corporate actions and its volatility index, and every earlier row must stay the same
        bit for bit. The volatility index is joined as of each bar: one that is published a quarter of an hour
        after the stocks' close is known at the next bar."""
    )


def _cells(feature: Feature) -> tuple[str, ...]:
    parameters = ", ".join(f"{name} = {value:g}" for name, value in feature.parameters.items())
    return (
        f"`{feature.name}`",
        feature.formula,
        _names(feature.inputs),
        parameters,
        str(feature.warmup),
        feature.unit,
        _limits(feature.minimum, feature.maximum),
        feature.source,
    )


def _limits(low: float | None, high: float | None) -> str:
    smallest, largest = (None if limit is None else f"{limit:g}".replace("-", "−") for limit in (low, high))
    if smallest is None:
        return "" if largest is None else f"≤ {largest}"
    return f"≥ {smallest}" if largest is None else f"{smallest} to {largest}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in (header, ("---",) * len(header), *rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in escaped)


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    write_feature_page()
