"""What the best bid and ask say beyond their mid, quote by quote: where the price leans, how wide, how it flows.

Here the features are declared, and computed and counted in frames; the arithmetic stands in
``kernels.microstructure``, quotes one at a time in ``quote_stream``, pictures in ``quote_plots``. Trades are not used.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pandas as pd

from atlas_pipeline.features.feature import CURRENCY, Feature
from atlas_pipeline.market.bars import AVAILABLE_AT, MONTH, SYMBOL
from atlas_pipeline.market.calendars import microseconds
from atlas_pipeline.market.table import PANDAS_DTYPE, Table

WINDOW = 20
"""Quotes of the rolling forms."""

GAP = timedelta(minutes=30)
"""Longest time between two quotes that belong together. What rolls begins anew after a longer one, so that no value
bridges a night, a weekend or a halt; a poll every quarter of an hour may miss one."""

REACH = WINDOW * GAP
"""No quote older than this before a row's own has a part in it."""

SMALLEST, LARGEST = 1e-30, 1e30
"""Prices and sizes beyond these are taken for missing; between them no formula overflows."""

QUOTE = ("bid", "bid_size", "ask", "ask_size")
"""Columns of a quote, in the order the kernel takes them."""

_SIZES = ("bid_size", "ask_size")
_WEIGHTED_MID = "Stoikov, Quantitative Finance 18 (2018) 1959, sec. 1 (the weighted mid)"
_QUEUES = "Gould and Bonart, Market Microstructure and Liquidity 2 (2016) 1650006 (queue imbalance)"
_SPREADS = "Huang and Stoll, J. of Financial Economics 41 (1996) 313, sec. 3 (quoted spread)"
_FLOW = "Cont, Kukanov and Stoikov, J. of Financial Econometrics 12 (2014) 47"
_REALIZED = "Andersen, Bollerslev, Diebold and Labys, J. of the American Statistical Association 96 (2001) 42"
_LOG_RETURN = "Campbell, Lo and MacKinlay, The Econometrics of Financial Markets, 1997, eq. 1.4.4"
_ROLLING = {"window": WINDOW}
_FRACTION = "fraction of the mid"

MICROSTRUCTURE = (
    Feature("mid", "(bid + ask) / 2", ("bid", "ask"), CURRENCY, "the quote", minimum=0.0),
    Feature(
        "microprice",
        "(bid · ask_size + ask · bid_size) / (bid_size + ask_size)",
        QUOTE,
        CURRENCY,
        _WEIGHTED_MID,
        minimum=0.0,
    ),
    Feature(
        "effective_spread",
        "(microprice − mid) / mid. The documents of origin name it so; it is the signed deviation of the microprice. "
        "The literature's, twice a trade's distance from the mid, needs trades",
        ("microprice", "mid"),
        _FRACTION,
        f"the documents of origin; the microprice of {_WEIGHTED_MID}",
        minimum=-1.0,
        maximum=1.0,
    ),
    Feature(
        "order_imbalance",
        "(bid_size − ask_size) / (bid_size + ask_size)",
        _SIZES,
        "−1 to 1",
        _QUEUES,
        minimum=-1.0,
        maximum=1.0,
    ),
    Feature("quoted_spread", "(ask − bid) / mid", ("bid", "ask"), _FRACTION, _SPREADS, minimum=0.0, maximum=2.0),
    Feature("mid_return", "ln(mid[t] / mid[t−1])", ("mid",), "log return per quote", _LOG_RETURN, 1),
    Feature(
        "order_flow_imbalance",
        "e = bid_size[t] · 1{bid[t] ≥ bid[t−1]} − bid_size[t−1] · 1{bid[t] ≤ bid[t−1]} "
        "− ask_size[t] · 1{ask[t] ≤ ask[t−1]} + ask_size[t−1] · 1{ask[t] ≥ ask[t−1]}",
        QUOTE,
        "units",
        f"{_FLOW}, the contribution e of one event",
        1,
    ),
    Feature(
        "effective_spread_mean",
        "Mean of effective_spread over the window",
        ("effective_spread",),
        _FRACTION,
        "the documents of origin, averaged",
        WINDOW - 1,
        _ROLLING,
        -1.0,
        1.0,
    ),
    Feature(
        "order_imbalance_mean",
        "Mean of order_imbalance over the window",
        ("order_imbalance",),
        "−1 to 1",
        f"{_QUEUES}, averaged",
        WINDOW - 1,
        _ROLLING,
        -1.0,
        1.0,
    ),
    Feature(
        "quoted_spread_mean",
        "Mean of quoted_spread over the window",
        ("quoted_spread",),
        _FRACTION,
        f"{_SPREADS}, averaged",
        WINDOW - 1,
        _ROLLING,
        0.0,
        2.0,
    ),
    Feature(
        "quoted_spread_ratio",
        "ln(quoted_spread / quoted_spread_mean)",
        ("quoted_spread", "quoted_spread_mean"),
        "log ratio",
        f"{_SPREADS}, against its own average",
        WINDOW - 1,
        _ROLLING,
    ),
    Feature(
        "depth_ratio",
        "ln(depth / mean of depth over the window), depth = (bid_size + ask_size) / 2",
        _SIZES,
        "log ratio",
        f"{_FLOW}, the average depth, against which the last one is held",
        WINDOW - 1,
        _ROLLING,
    ),
    Feature(
        "order_flow_imbalance_sum",
        "Sum of order_flow_imbalance over the window",
        ("order_flow_imbalance",),
        "units",
        f"{_FLOW}, the order flow imbalance of an interval",
        WINDOW,
        _ROLLING,
    ),
    Feature(
        "order_flow_imbalance_relative",
        "order_flow_imbalance_sum / mean of depth over the window, depth = (bid_size + ask_size) / 2",
        ("order_flow_imbalance_sum", *_SIZES),
        "average depths",
        f"{_FLOW}, order flow imbalance over average depth, to which its price impact is proportional",
        WINDOW,
        _ROLLING,
    ),
    Feature(
        "mid_volatility",
        "√(mean of mid_return² over the window)",
        ("mid_return",),
        "log return per quote",
        f"{_REALIZED} (realized volatility, without removal of the noise of quotes)",
        WINDOW,
        _ROLLING,
        0.0,
    ),
    Feature(
        "microprice_momentum",
        "ln(microprice[t] / microprice[t−window])",
        ("microprice",),
        "log return",
        f"{_LOG_RETURN}; the microprice of {_WEIGHTED_MID}",
        WINDOW,
        _ROLLING,
    ),
)
"""The features of quotes, in the order of the kernel's result."""

MICROSTRUCTURE_SET: tuple[str, ...] = tuple(
    feature.name for feature in MICROSTRUCTURE if feature.unit not in (CURRENCY, "units")
)
"""Those that mean the same at any price and size: what a model can read."""

MICROSTRUCTURE_FEATURES = Table(
    name="microstructure_features",
    description="Features of the best bid and ask, one row a quote",
    columns=(
        SYMBOL,
        AVAILABLE_AT,
        *(feature.column("float64" if feature.in_currency else "float32") for feature in MICROSTRUCTURE),
        MONTH,
    ),
    key=("symbol", "available_at"),
    partition_by="month",
    time="available_at",
)

_DTYPES = {column.name: PANDAS_DTYPE[column.dtype] for column in MICROSTRUCTURE_FEATURES.columns}


def compute_microstructure(quotes: pd.DataFrame) -> pd.DataFrame:
    """Compute the features of every quote.

    A row depends on its own quote and the ``WINDOW`` before it, as far back as no two of them lie more than ``GAP``
    apart: a month's rows are those of a full computation where the quotes of ``REACH`` before it are given with it.

    Parameters
    ----------
    quotes
        Rows of ``QUOTES``, in any order of symbols; within a symbol ``available_at`` increases. A quote with a missing,
        infinite, absurd or not positive value, a locked and a crossed one have no features, and rolling forms begin
        anew after it; ``validate_quotes`` leaves none.

    Returns
    -------
    pandas.DataFrame
        Rows of ``MICROSTRUCTURE_FEATURES``, one a quote, sorted by its key.

    Raises
    ------
    ValueError
        Where a column is missing, or times of a symbol do not increase.
    """
    from atlas_pipeline.features.quote_stream import QuoteStream

    missing = [name for name in ("symbol", "available_at", *QUOTE, "month") if name not in quotes.columns]
    if missing:
        raise ValueError(f"quotes lack the columns {missing}: pass rows of the table 'quotes'")
    symbols = quotes.groupby("symbol", sort=True).ngroup().to_numpy()
    order = np.argsort(symbols, kind="stable")
    ordered = quotes.iloc[order]
    times = microseconds(ordered["available_at"])
    values = np.ascontiguousarray(ordered[list(QUOTE)].to_numpy(dtype="float64").T)
    computed = {feature.name: np.empty(len(ordered), _DTYPES[feature.name]) for feature in MICROSTRUCTURE}
    for begin, end in pairwise(np.flatnonzero(np.diff(symbols[order], prepend=-1, append=-1))):
        try:
            columns = QuoteStream().extend(times[begin:end], values[:, begin:end])
        except ValueError as error:
            raise ValueError(f"quotes of {ordered['symbol'].iloc[begin]!r}: {error}") from error
        for column, own in zip(computed.values(), columns, strict=True):
            column[begin:end] = own
    keys = {name: ordered[name].array for name in ("symbol", "available_at", "month")}
    return pd.DataFrame({**keys, **computed})[list(MICROSTRUCTURE_FEATURES.names)]


def quote_coverage(rows: pd.DataFrame) -> pd.DataFrame:
    """Count values, and what is missing by its reason, of each feature of quotes.

    Parameters
    ----------
    rows
        Rows of ``MICROSTRUCTURE_FEATURES``, sorted by its key.

    Returns
    -------
    pandas.DataFrame
        ``feature``, ``rows``, ``valid_share``, and in columns of the reasons' names the rows without a value: "no
        usable quote" in the row itself, "warm-up" (too few quotes since a gap or a quote that was none), "undefined".
    """
    usable = rows["mid"].notna()
    by_symbol = rows.groupby("symbol", sort=False)
    begins = ~(by_symbol["available_at"].diff() <= GAP) | ~usable | by_symbol["mid"].shift().isna()
    age = begins.groupby(begins.cumsum()).cumcount()
    counts = []
    for feature in MICROSTRUCTURE:
        missing = rows[feature.name].isna() & usable
        warming = missing & (age < feature.warmup)
        counts.append((feature.name, (~usable).sum(), warming.sum(), (missing & ~warming).sum()))
    found = pd.DataFrame(counts, columns=["feature", "no usable quote", "warm-up", "undefined"])
    empty = found.iloc[:, 1:].sum(axis=1)
    found.insert(1, "rows", len(rows))
    found.insert(2, "valid_share", 1.0 - empty / len(rows) if len(rows) else np.nan)
    return found
