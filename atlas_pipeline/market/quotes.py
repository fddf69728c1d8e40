"""What a quote is: best bid and ask with sizes, their table and the rules they must pass."""

from __future__ import annotations

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import AVAILABLE_AT, MONTH, SYMBOL
from atlas_pipeline.market.quarantine import conform, duplicate_rules, quarantine_table, reasons_of, split
from atlas_pipeline.market.table import Column, Table

QUOTES = Table(
    name="quotes",
    description="Best bid and ask with the sizes on offer, as of an instant",
    columns=(
        SYMBOL,
        AVAILABLE_AT,
        Column("bid", "float64", "Best price to sell at", "currency", minimum=0.0),
        Column("bid_size", "float64", "Units wanted at the bid", "units", minimum=0.0),
        Column("ask", "float64", "Best price to buy at", "currency", minimum=0.0),
        Column("ask_size", "float64", "Units offered at the ask", "units", minimum=0.0),
        MONTH,
    ),
    key=("symbol", "available_at"),
    partition_by="month",
    time="available_at",
)

QUARANTINED_QUOTES = quarantine_table(QUOTES)


def validate_quotes(frame: pd.DataFrame, *, max_relative_spread: float = 0.02) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split quotes into accepted rows of ``QUOTES`` and refused rows of ``QUARANTINED_QUOTES``.

    Refused are: missing, infinite or not positive prices and sizes, crossed (bid above ask) and locked (bid
    equals ask) quotes, spreads too wide to mean a price, and duplicates.

    Parameters
    ----------
    frame
        The columns of ``QUOTES``; ``month`` may be left out.
    max_relative_spread
        Widest spread as a fraction of the mid. Liquid stocks stay under 0.003 in the regular session; the
        stub quotes before and after it reach 0.05.

    Raises
    ------
    BrokenSchemaError
        Where a column is missing or of the wrong type, or a row lacks its key.
    """
    rows = conform(frame, QUOTES)
    bid, ask = rows["bid"].to_numpy(), rows["ask"].to_numpy()
    values = rows[["bid", "bid_size", "ask", "ask_size"]].to_numpy()
    usable = (np.isfinite(values) & (values > 0)).all(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = (ask - bid) / ((ask + bid) / 2)
    rules = [
        ("a price or size is missing", np.isnan(values).any(axis=1)),
        ("a price or size is infinite", np.isinf(values).any(axis=1)),
        ("a price is not positive", (values[:, [0, 2]] <= 0).any(axis=1)),
        ("a size is not positive", (values[:, [1, 3]] <= 0).any(axis=1)),
        ("crossed: bid is above ask", usable & (bid > ask)),
        ("locked: bid equals ask", usable & (bid == ask)),
        (f"spread is above {max_relative_spread:.1%} of the mid", usable & (spread > max_relative_spread)),
    ]
    reasons = reasons_of(rules, len(rows))
    duplicates = duplicate_rules(rows, QUOTES.key, reasons == "")
    reasons = np.where(reasons == "", reasons_of(duplicates, len(rows)), reasons)
    accepted, quarantined = split(rows, reasons, QUOTES)
    return accepted, quarantined
