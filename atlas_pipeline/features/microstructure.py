"""What the best bid and ask say beyond their mid: where the price leans and how wide it is quoted.

Only the state of one quote is used here; trades, and rolling forms over quotes, are not.
"""

from __future__ import annotations

import pandas as pd

from atlas_pipeline.market.bars import AVAILABLE_AT, MONTH, SYMBOL
from atlas_pipeline.market.table import Column, Table

MICROSTRUCTURE_FEATURES = Table(
    name="microstructure_features",
    description="Features of the best bid and ask, one row a quote",
    columns=(
        SYMBOL,
        AVAILABLE_AT,
        Column("mid", "float64", "(bid + ask) / 2", "currency", minimum=0.0),
        Column(
            "microprice",
            "float64",
            "(bid · ask_size + ask · bid_size) / (bid_size + ask_size): the weighted mid of Stoikov, "
            "Quantitative Finance 18 (2018) 1959, sec. 1",
            "currency",
            minimum=0.0,
        ),
        Column(
            "effective_spread",
            "float64",
            "(microprice − mid) / mid. The documents of origin name it so; it is the signed deviation of the "
            "microprice. The literature's, twice a trade's distance from the mid, needs trades",
            "fraction of the mid",
        ),
        Column("order_imbalance", "float64", "(bid_size − ask_size) / (bid_size + ask_size)", "−1 to 1"),
        Column("quoted_spread", "float64", "(ask − bid) / mid", "fraction of the mid", minimum=0.0),
        MONTH,
    ),
    key=("symbol", "available_at"),
    partition_by="month",
    time="available_at",
)


def compute_microstructure(quotes: pd.DataFrame) -> pd.DataFrame:
    """Compute the features of each quote by itself.

    Parameters
    ----------
    quotes
        Validated rows of ``QUOTES``: positive prices and sizes, bid below ask.

    Returns
    -------
    pandas.DataFrame
        Rows of ``MICROSTRUCTURE_FEATURES``, in the order of ``quotes``.
    """
    bid, ask, bid_size, ask_size = (quotes[name] for name in ("bid", "ask", "bid_size", "ask_size"))
    mid = (bid + ask) / 2
    imbalance = (bid_size - ask_size) / (bid_size + ask_size)
    # microprice − mid = imbalance · (ask − bid) / 2: this way round the deviation keeps its digits.
    deviation = imbalance * (ask - bid) / 2
    frame = pd.DataFrame(
        {
            "symbol": quotes["symbol"],
            "available_at": quotes["available_at"],
            "mid": mid,
            "microprice": mid + deviation,
            "effective_spread": deviation / mid,
            "order_imbalance": imbalance,
            "quoted_spread": (ask - bid) / mid,
            "month": quotes["month"],
        }
    )
    return frame.reset_index(drop=True)
