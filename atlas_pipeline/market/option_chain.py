"""What a row of an option chain is: its table and the rules it must pass; its features are elsewhere."""

from __future__ import annotations

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import AVAILABLE_AT, MONTH, SESSION
from atlas_pipeline.market.quarantine import conform, duplicate_rules, quarantine_table, reasons_of, split
from atlas_pipeline.market.table import Column, Table

CALL, PUT = "call", "put"

OPTION_CHAIN = Table(
    name="option_chain",
    description="Option chains at an instant, mostly the session's end; null where nobody quoted or traded",
    columns=(
        Column("underlying", "string", "The source's name of the underlying"),
        AVAILABLE_AT,
        SESSION,
        Column("expiry", "date", "Last day of the contract"),
        Column("right", "string", "call or put"),
        Column("strike", "float64", "Price at which the contract may be exercised", "currency", minimum=0.0),
        Column("bid", "float64", "Best price to sell at", "currency", True, 0.0),
        Column("bid_size", "float64", "Contracts wanted at the bid", "contracts", True, 0.0),
        Column("ask", "float64", "Best price to buy at", "currency", True, 0.0),
        Column("ask_size", "float64", "Contracts offered at the ask", "contracts", True, 0.0),
        Column("last", "float64", "Last traded price", "currency", True, 0.0),
        Column("volume", "float64", "Contracts traded in the session", "contracts", True, 0.0),
        Column("open_interest", "float64", "Contracts open", "contracts", True, 0.0),
        Column("implied_volatility", "float64", "The vendor's, where it publishes one", "1/sqrt(year)", True, 0.0),
        Column("underlying_close", "float64", "The underlying's price at available_at", "currency", minimum=0.0),
        MONTH,
    ),
    key=("underlying", "available_at", "expiry", "right", "strike"),
    partition_by="month",
    time="available_at",
)

QUARANTINED_OPTION_CHAIN = quarantine_table(OPTION_CHAIN)

_NOT_NEGATIVE = ("bid", "bid_size", "ask", "ask_size", "last", "volume", "open_interest", "implied_volatility")


def validate_option_chain(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a chain into accepted rows of ``OPTION_CHAIN`` and refused rows of ``QUARANTINED_OPTION_CHAIN``.

    Refused are: expired contracts, an unknown right, strikes or underlying prices that are not positive,
    negative or infinite values, crossed quotes, and duplicates. A missing bid, ask or trade is a fact and
    stays.

    Parameters
    ----------
    frame
        The columns of ``OPTION_CHAIN``; ``month`` may be left out.

    Raises
    ------
    BrokenSchemaError
        Where a column is missing or of the wrong type, or a row lacks its key.
    """
    rows = conform(frame, OPTION_CHAIN)
    values = rows[list(_NOT_NEGATIVE)].to_numpy()
    levels = rows[["strike", "underlying_close"]].to_numpy()
    with np.errstate(invalid="ignore"):
        rules = [
            ("session is missing", rows["session"].isna().to_numpy()),
            ("expired: expiry lies before the session", (rows["expiry"] < rows["session"]).to_numpy()),
            ("right is neither call nor put", ~rows["right"].isin([CALL, PUT]).to_numpy()),
            ("strike or underlying price is missing, infinite or not positive",
             ~(np.isfinite(levels) & (levels > 0)).all(axis=1)),
            ("a price, size, count or volatility is negative", (values < 0).any(axis=1)),
            ("a price, size, count or volatility is infinite", np.isinf(values).any(axis=1)),
            ("crossed: bid is above ask", (rows["bid"] > rows["ask"]).to_numpy()),
        ]  # fmt: skip
    reasons = reasons_of(rules, len(rows))
    duplicates = duplicate_rules(rows, OPTION_CHAIN.key, reasons == "")
    reasons = np.where(reasons == "", reasons_of(duplicates, len(rows)), reasons)
    accepted, quarantined = split(rows, reasons, OPTION_CHAIN)
    return accepted, quarantined
