"""One ingestion of bars: what is asked for, what is kept of what is stored, what is written in one transaction.

Nothing that is stored is lost: a symbol that the source did not answer, a month it suddenly has no bar of, a bar whose
new version is refused keep what they had. How the asset reports all this is in ``market``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg
import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import (
    BAR_COVERAGE,
    BAR_REVISIONS,
    BAR_TRIPWIRES,
    BARS,
    CORPORATE_ACTIONS,
    QUARANTINED_BARS,
    empty,
)
from atlas_pipeline.market.calendars import sessions_around
from atlas_pipeline.market.errors import SourceUnavailableError
from atlas_pipeline.market.resumable import ResumableSource
from atlas_pipeline.market.revisions import compare_actions, compare_bars, settle
from atlas_pipeline.market.sources import BarSource, Outcome
from atlas_pipeline.market.table import Table
from atlas_pipeline.market.validation import validate_bars
from resources.lake import Lake
from resources.market import Market
from resources.rows import content_version
from resources.warehouse import Warehouse


@dataclass(frozen=True)
class Ingested:
    """What an ingestion did.

    Attributes
    ----------
    snapshot
        The lake's snapshot after it.
    versions
        Version of each month written: of its bars, and of its corporate actions where there are any.
    restated_months
        Months before the ones asked for whose rows changed, because the vendor restated them or they were not whole.
    bars, quarantined, tripwires, revisions, coverage
        Rows of their tables in the months written.
    outcomes
        What came of asking for each symbol: ``symbol``, ``outcome``, ``bars``, ``detail`` and the bars ``kept`` because
        the source said nothing of them, or something that was refused.
    """

    snapshot: int
    versions: dict[str, str]
    restated_months: list[str]
    bars: pd.DataFrame
    quarantined: pd.DataFrame
    tripwires: pd.DataFrame
    revisions: pd.DataFrame
    coverage: pd.DataFrame
    outcomes: pd.DataFrame


def month_bounds(months: list[str]) -> tuple[datetime, datetime]:
    """First instant of the first month and first instant after the last (UTC)."""
    first, last = pd.Period(min(months), freq="M"), pd.Period(max(months), freq="M")
    return (
        first.start_time.tz_localize("UTC").to_pydatetime(),
        (last + 1).start_time.tz_localize("UTC").to_pydatetime(),
    )


def by_month(rows: pd.DataFrame, months: list[str]) -> dict[str, pd.DataFrame]:
    """Split rows by their month; a month without rows gets a frame without rows."""
    grouped = {str(month): own for month, own in rows.groupby("month")}
    return {month: grouped.get(month, rows.iloc[:0]) for month in months}


def ingest(market: Market, warehouse: Warehouse, months: list[str]) -> Ingested:
    """Read months from the source, overlapping what is stored before them, and write them in one transaction.

    Raises
    ------
    SourceUnavailableError
        Where no symbol at all could be read.
    UnknownSymbolError, NotOfferedError
        Where the source lacks what the market's settings name.
    dagster.Failure
        Where a month has no bar of any symbol.
    BrokenSchemaError
        Where the source changed its format.
    """
    now = market.now()
    first, end = month_bounds(months)
    with warehouse.session() as lake:
        start = _window_start(lake, first, market.overlap)
        source = market.answers(start, end)
        raw, fetched_actions, outcomes = _fetch(market, source, start, end)
        _require_months(raw, months, market, now)
        earlier = months_between(start, first)
        touched = [*earlier, *months]
        stored = lake.read(BARS, start=start, end=end)
        stored_actions = lake.read(CORPORATE_ACTIONS, start=start, end=end)
        answered = _pairs(raw)
        actions = _kept_or_fetched(stored_actions, settle(stored_actions, fetched_actions), answered)
        month_began = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        history = lake.read(BARS, start=min(start - market.lookback, month_began), end=start)
        accepted, refused, tripwires = _validated(market, raw, history, actions)
        accepted = settle(stored, accepted)
        kept = _kept(stored, accepted, refused, answered)
        read_again = stored.merge(kept[list(BARS.key)], how="left", indicator=True).query("_merge == 'left_only'")
        revisions = pd.concat(
            [
                compare_bars(read_again[list(BARS.names)], accepted, seen_at=now),
                compare_actions(stored_actions, actions, stored, seen_at=now),
            ],
            ignore_index=True,
        )
        whole = {
            table: _after_what_precedes(lake, table, earlier, start, rows)
            for table, rows in (
                (BARS, pd.concat([accepted, kept], ignore_index=True)),
                (QUARANTINED_BARS, refused),
                (CORPORATE_ACTIONS, actions),
                (BAR_TRIPWIRES, tripwires),
            )
        }
        before = history[history["available_at"] < month_began]
        whole[BAR_COVERAGE] = market.coverage(whole[BARS], whole[QUARANTINED_BARS], before, touched, now)
        before_it = _versions(lake, earlier)
        with lake.transaction() as transaction:
            for table, rows in whole.items():
                transaction.replace(table, by_month(rows, touched))
            transaction.append(BAR_REVISIONS, revisions)
        commit = transaction.commit
        assert commit is not None
        versions = _versions(lake, touched)
    if isinstance(source, ResumableSource):
        source.discard()
    return Ingested(
        snapshot=commit.snapshot,
        versions=versions,
        restated_months=[month for month in earlier if versions[month] != before_it[month]],
        bars=whole[BARS],
        quarantined=whole[QUARANTINED_BARS],
        tripwires=whole[BAR_TRIPWIRES],
        revisions=revisions,
        coverage=whole[BAR_COVERAGE],
        outcomes=outcomes.assign(kept=outcomes["symbol"].map(kept.groupby("symbol").size()).fillna(0).astype("int64")),
    )


def months_between(start: datetime, end: datetime) -> list[str]:
    """Months from the one of ``start`` up to, not including, the one that begins at ``end``."""
    return [str(month) for month in pd.period_range(start.replace(tzinfo=None), end.replace(tzinfo=None), freq="M")][
        :-1
    ]


def _versions(lake: Lake, months: list[str]) -> dict[str, str]:
    """Of all that features are made from: a dividend announced late makes its month stale as a restated bar does."""
    bars, actions = (lake.data_versions(table, months) for table in (BARS, CORPORATE_ACTIONS))
    nothing = content_version(CORPORATE_ACTIONS, empty(CORPORATE_ACTIONS))
    return {month: bars[month] if actions[month] == nothing else f"{bars[month]}-{actions[month]}" for month in months}


def _window_start(lake: Lake, first: datetime, overlap: timedelta) -> datetime:
    """Begin before the months asked for where bars are stored there, so that what was restated since is seen."""
    before = lake.read(BARS, columns=["available_at"], start=first - overlap, end=first)
    return first if before.empty else first - overlap


def _fetch(
    market: Market, source: BarSource, start: datetime, end: datetime
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    bars, actions, outcomes = [empty(BARS)], [empty(CORPORATE_ACTIONS)], []
    for answer in market.fetch(source, start, end):
        bars.append(answer.bars)
        actions.append(answer.actions)
        outcomes.append((answer.symbol, str(answer.outcome), len(answer.bars), answer.detail))
    table = pd.DataFrame(outcomes, columns=["symbol", "outcome", "bars", "detail"])
    if table["outcome"].isin([Outcome.RATE_LIMITED, Outcome.FAILED]).all():
        reasons = table["detail"].value_counts().head(3).to_dict()
        raise SourceUnavailableError(
            f"{market.source} answered for none of {len(table)} symbols: {reasons}. Wait where it is rate-limited, "
            "else check the network; what was stored is kept"
        )
    return pd.concat(bars, ignore_index=True), pd.concat(actions, ignore_index=True), table


def _require_months(raw: pd.DataFrame, months: list[str], market: Market, now: datetime) -> None:
    absent = sorted(set(months) - set(raw["month"].unique()))
    if absent:
        symbols = market.universe.symbols
        named = ", ".join(symbols[:5]) + (f" and {len(symbols) - 5} more" if len(symbols) > 5 else "")
        raise dg.Failure(
            f"no bar of {named} from the {market.source} source in {', '.join(absent)} "
            f"(the project's clock stands at {now:%Y-%m-%d %H:%M} UTC): choose months the source has, "
            "or let the replay reach them first",
            allow_retries=False,
        )


def _pairs(rows: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(rows[["symbol", "month"]].drop_duplicates())


def _among(rows: pd.DataFrame, pairs: pd.MultiIndex) -> np.ndarray:
    return pd.MultiIndex.from_frame(rows[list(pairs.names)]).isin(pairs)


def _kept_or_fetched(stored: pd.DataFrame, fetched: pd.DataFrame, answered: pd.MultiIndex) -> pd.DataFrame:
    """Actions as fetched, and the stored ones of symbols and months that the source said nothing of."""
    kept = stored[~_among(stored, answered)]
    both = pd.concat([kept, fetched], ignore_index=True)
    return both.drop_duplicates(list(CORPORATE_ACTIONS.key), keep="last", ignore_index=True)


def _kept(stored: pd.DataFrame, accepted: pd.DataFrame, refused: pd.DataFrame, answered: pd.MultiIndex) -> pd.DataFrame:
    """Stored bars that no new reading replaces: the source said nothing, or what it says now is refused."""
    key = list(BARS.key)
    silent = ~_among(stored, answered)
    spoiled = _among(stored, pd.MultiIndex.from_frame(refused[key])) & ~_among(
        stored, pd.MultiIndex.from_frame(accepted[key])
    )
    return stored[silent | spoiled]


def _validated(
    market: Market, raw: pd.DataFrame, history: pd.DataFrame, actions: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Judge the bars of each exchange by its own sessions."""
    judged = []
    for calendar, symbols in market.symbols_by_calendar.items():
        own = raw[raw["symbol"].isin(symbols)]
        if len(own):
            past = history[history["symbol"].isin(symbols)]
            begin = past["available_at"].min() if len(past) else own["available_at"].min()
            judged.append(
                validate_bars(
                    own,
                    sessions_around(begin, own["available_at"].max(), market.interval, calendar),
                    history=past,
                    actions=actions,
                    jump_sigmas=market.jump_sigmas,
                )
            )
    return tuple(
        pd.concat([getattr(found, name) for found in judged], ignore_index=True)
        for name in ("bars", "quarantined", "tripwires")
    )


def _after_what_precedes(
    lake: Lake, table: Table, earlier: list[str], start: datetime, rows: pd.DataFrame
) -> pd.DataFrame:
    """Rows of the window after those that stand before it in the month it begins in."""
    if not earlier:
        return rows
    return pd.concat([lake.read(table, partitions=earlier, end=start), rows], ignore_index=True)
