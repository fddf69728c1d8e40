"""One ingestion of bars: what is asked for, what is kept of what is stored, what is written in one transaction.

Nothing that is stored is lost: a symbol that the source did not answer, a month it suddenly has no bar of, a bar whose
new version is refused keep what they had. How the asset reports all this is in ``market``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg
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
from atlas_pipeline.market.reconciliation import answered, consistent, kept_bars, with_silent, without
from atlas_pipeline.market.resumable import FINAL, ResumableSource
from atlas_pipeline.market.revisions import compare_actions, compare_bars, settle
from atlas_pipeline.market.sources import BarSource
from atlas_pipeline.market.table import Table
from atlas_pipeline.market.validation import validate_bars
from resources.lake import Lake
from resources.market import Market
from resources.rows import content_version
from resources.warehouse import Warehouse

REPLACED = (BARS, QUARANTINED_BARS, CORPORATE_ACTIONS, BAR_TRIPWIRES)


@dataclass(frozen=True)
class Ingested:
    """What an ingestion did.

    Attributes
    ----------
    snapshot
        The lake's snapshot after it.
    versions
        Version of each month written, also of those before the ones asked for that the overlap reaches back into: of
        its bars, and of its corporate actions where there are any.
    bars, quarantined, tripwires, revisions, coverage
        Rows of their tables in the months written.
    outcomes
        What came of asking for each symbol: ``symbol``, ``outcome``, ``bars``, ``detail`` and the bars ``kept`` because
        the source said nothing of them, or something that was refused.
    """

    snapshot: int
    versions: dict[str, str]
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


def ingest(market: Market, warehouse: Warehouse, months: list[str], accept_restatements: bool = False) -> Ingested:
    """Read months from the source, overlapping what is stored before them, and write them in one transaction.

    Parameters
    ----------
    market, warehouse
        Where bars come from and go to.
    months
        ``YYYY-MM``, in order and without a gap.
    accept_restatements
        Take what a symbol's source says now also where it withdraws many stored bars or restates most of them. Without
        it such an answer is distrusted, and what is stored is kept.

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
        month_began = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        history = lake.read(BARS, start=min(start - market.lookback, month_began), end=start)
        stored = {table: lake.read(table, start=start, end=end) for table in REPLACED}
        own = stored[BARS]["interval"] == market.interval
        other_intervals, before = stored[BARS][~own], stored[BARS][own]
        silent = {table: rows[~answered(rows, raw)] for table, rows in stored.items() if table is not BARS}
        actions = with_silent(settle(stored[CORPORATE_ACTIONS], fetched_actions), silent[CORPORATE_ACTIONS])
        accepted, refused, tripwires = _validated(market, raw, history, actions)
        accepted = settle(before, accepted)
        listed = market.universe.while_listed(before, market.calendar)
        kept, distrusted = kept_bars(before, listed, accepted, refused, accept_restatements)
        accepted = accepted[~accepted["symbol"].isin(distrusted)]
        read_again = without(before, kept)
        revisions = pd.concat(
            [
                compare_bars(read_again, accepted, seen_at=now),
                compare_actions(stored[CORPORATE_ACTIONS], actions, before, seen_at=now),
            ],
            ignore_index=True,
        )
        written = {
            BARS: pd.concat([accepted, kept, other_intervals], ignore_index=True),
            QUARANTINED_BARS: with_silent(refused, silent[QUARANTINED_BARS]),
            CORPORATE_ACTIONS: actions,
            BAR_TRIPWIRES: with_silent(tripwires, silent[BAR_TRIPWIRES]),
        }
        whole = {table: _after_what_precedes(lake, table, earlier, start, rows) for table, rows in written.items()}
        touched = [*earlier, *months]
        past = history[history["available_at"] < month_began]
        whole[BAR_COVERAGE] = market.coverage(whole[BARS], whole[QUARANTINED_BARS], past, touched, now)
        with lake.transaction() as transaction:
            for table, rows in whole.items():
                transaction.replace(table, by_month(rows, touched))
            transaction.append(BAR_REVISIONS, revisions)
        commit = transaction.commit
        assert commit is not None
        versions = _versions(lake, touched)
    if isinstance(source, ResumableSource) and outcomes["outcome"].isin(FINAL).all():
        source.discard()
    outcomes["detail"] = outcomes["symbol"].map(distrusted).fillna(outcomes["detail"])
    return Ingested(
        snapshot=commit.snapshot,
        versions=versions,
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
    if table.empty:
        raise dg.Failure(
            f"no instrument of the universe was listed from {start:%Y-%m-%d} to {end:%Y-%m-%d}: choose months in which "
            "one was, or correct its listing",
            allow_retries=False,
        )
    unanswered = table[~table["outcome"].isin(FINAL)]
    if 2 * len(unanswered) > len(table):
        reasons = unanswered["detail"].value_counts().head(3).to_dict()
        raise SourceUnavailableError(
            f"{market.source} answered for {len(table) - len(unanswered)} of {len(table)} symbols: {reasons}. Wait "
            "where it is rate-limited, else check the network; its answers are kept, the next attempt asks for the rest"
        )
    return pd.concat(bars, ignore_index=True), consistent(pd.concat(actions, ignore_index=True)), table


def _require_months(raw: pd.DataFrame, months: list[str], market: Market, now: datetime) -> None:
    absent = [month for month in sorted(set(months) - set(raw["month"].unique())) if market.must_have_bars(month, now)]
    if absent or raw.empty:
        symbols = market.universe.symbols
        named = ", ".join(symbols[:5]) + (f" and {len(symbols) - 5} more" if len(symbols) > 5 else "")
        raise dg.Failure(
            f"no bar of {named} from the {market.source} source in {', '.join(absent or months)} "
            f"(the project's clock stands at {now:%Y-%m-%d %H:%M} UTC): choose months the source has, "
            "or let the replay reach them first",
            allow_retries=False,
        )


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
