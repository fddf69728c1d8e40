"""Ingestion from a vendor that restates, splits, falls silent and talks nonsense: nothing is lost unsaid."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets import bar_checks
from assets.ingestion import ingest
from assets.snapshots import option_chain, quotes
from atlas_pipeline.features.registry import FEATURES
from atlas_pipeline.market.bars import (
    BAR_COVERAGE,
    BAR_REVISIONS,
    BAR_TRIPWIRES,
    BARS,
    CORPORATE_ACTIONS,
    QUARANTINED_BARS,
)
from atlas_pipeline.market.bundled import BundledSource
from atlas_pipeline.market.errors import BrokenSchemaError, SourceUnavailableError
from atlas_pipeline.market.option_chain import OPTION_CHAIN
from atlas_pipeline.market.quotes import QUOTES
from atlas_pipeline.market.resampling import RESAMPLED_BARS
from resources.market import Market
from tests.yahoo_server import YahooServer

SYMBOLS = ("AAA", "BBB", "CCC")
CLOCK = datetime(2017, 11, 30, 21, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[YahooServer]:
    with YahooServer(SYMBOLS, years=2, now=datetime(2017, 12, 29, 22, tzinfo=UTC), events=False) as made:
        yield made


@pytest.fixture
def yahoo(server: YahooServer, pipeline_at, tmp_path: Path):
    """The code location on the local server's market; other settings on request."""

    def make(home: str = "home", **settings: Any):
        options = {
            "endpoint": server.endpoint,
            "requests_per_second": 1e6,
            "attempts": 1,
            "first": "2015-01-01",
            **settings.pop("options", {}),
        }
        given = {"source": "yahoo", "symbols": list(SYMBOLS), "replay_start": CLOCK.isoformat(), "options": options}
        return pipeline_at(tmp_path / home, **{**given, **settings})

    return make


def made(result: dg.ExecuteInProcessResult, asset: str = "bars") -> list[tuple[str, str]]:
    """Partition and data version of every materialization that a run made."""
    return [
        (event.partition, event.tags["dagster/data_version"])
        for event in result.asset_materializations_for_node(asset)
        if event.partition
    ]


def latest(pipeline, asset: str, month: str) -> str:
    filters = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[month])
    (record,) = pipeline.instance.fetch_materializations(filters, limit=1).records
    return record.asset_materialization.tags["dagster/data_version"]


def value(frame: pd.DataFrame, symbol: str, session: str, column: str) -> float:
    chosen = (frame["symbol"] == symbol) & (frame["session"] == pd.Timestamp(session))
    (found,) = frame.loc[chosen, column]
    return float(found)


def test_a_bar_restated_in_the_overlap_makes_its_own_month_stale_and_no_other(yahoo, server: YahooServer) -> None:
    pipeline = yahoo(replay_start="2017-12-01T21:00:00+00:00")
    assert pipeline.run("ingest", partitions=("2017-09", "2017-12")).success
    months = ("2017-09", "2017-10", "2017-11")
    before = {(asset, month): latest(pipeline, asset, month) for asset in ("bars", "features") for month in months}
    original, snapshot = pipeline.warehouse.read(BARS), pipeline.warehouse.snapshot()
    close = value(original, "BBB", "2017-11-28", "close")

    server.market.revise("BBB", "2017-11-28", close=close + 0.01)
    later = yahoo(replay_start="2017-12-04T21:00:00+00:00")
    result = later.run("ingest", partition="2017-12", checks=True)
    assert result.success
    assert [month for month, _ in made(result)] == ["2017-11", "2017-12"]
    assert [month for month, _ in made(result, "features")] == ["2017-11", "2017-12"], "what recurs carries it on"
    revisions = later.warehouse.read(BAR_REVISIONS)
    assert revisions[["symbol", "column"]].to_numpy().tolist() == [["BBB", "close"]]
    np.testing.assert_allclose(revisions[["old", "new"]].to_numpy(), [[close, close + 0.01]], rtol=1e-6)
    assert (revisions["seen_at"] == pd.Timestamp("2017-12-04T21:00", tz="UTC")).all()
    for asset in ("bars", "features"):
        assert latest(later, asset, "2017-11") != before[asset, "2017-11"]
        assert latest(later, asset, "2017-10") == before[asset, "2017-10"]
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert checks["features_causality"].passed and not checks["bars_revisions"].passed
    assert "| BBB | 2017-11-28 21:00 | close |" in checks["bars_revisions"].metadata["latest"].value
    # What a model saw can be read again.
    pd.testing.assert_frame_equal(later.warehouse.read(BARS, snapshot=snapshot), original)


def test_a_split_announced_later_changes_no_stored_bar(yahoo, server: YahooServer) -> None:
    pipeline = yahoo(replay_start="2017-12-01T21:00:00+00:00")
    assert pipeline.run("ingest", "bars", partitions=("2017-10", "2017-12")).success
    before = pipeline.warehouse.read(BARS, partitions=["2017-10", "2017-11"])
    server.market.split("AAA", "2017-12-05", 7)
    later = yahoo(replay_start="2017-12-06T21:00:00+00:00")
    result = later.run("ingest", "bars", partitions=("2017-10", "2017-12"))
    assert result.success
    after = later.warehouse.read(BARS)
    pd.testing.assert_frame_equal(after[after["month"] < "2017-12"].reset_index(drop=True), before)
    assert later.warehouse.read(BAR_REVISIONS).empty
    actions = later.warehouse.read(CORPORATE_ACTIONS)
    assert actions[["symbol", "kind", "value"]].to_numpy().tolist() == [["AAA", "split", 7.0]]
    assert later.warehouse.read(BAR_TRIPWIRES).query("kind == 'jump'").empty, "a recorded split is no jump"
    ratio = value(after, "AAA", "2017-12-04", "close") / value(after, "AAA", "2017-12-05", "close")
    assert 6 < ratio < 8, "prices are as traded"


def test_a_dividend_announced_after_its_day_makes_its_month_stale(yahoo, server: YahooServer) -> None:
    pipeline = yahoo(replay_start="2017-12-01T21:00:00+00:00")
    assert pipeline.run("ingest", "bars", partitions=("2017-11", "2017-12")).success
    version = latest(pipeline, "bars", "2017-11")
    server.market.dividend("CCC", "2017-11-28", 0.25)
    result = yahoo(replay_start="2017-12-04T21:00:00+00:00").run("ingest", "bars", partition="2017-12")
    assert dict(made(result))["2017-11"] != version
    (revision,) = pipeline.warehouse.read(BAR_REVISIONS).itertuples()
    assert (revision.symbol, revision.column, revision.new) == ("CCC", "dividend", 0.25) and np.isnan(revision.old)


def test_the_last_bars_of_a_month_come_in_with_the_next(yahoo) -> None:
    """The schedule paused from the 24th to the 4th: the overlap completes November, and its features."""
    early = yahoo(replay_start="2017-11-24T18:00:00+00:00")
    assert early.run("ingest", partitions=("2017-10", "2017-11")).success
    assert early.warehouse.partitions(BARS)["2017-11"] == 3 * 17
    result = yahoo(replay_start="2017-12-04T21:00:00+00:00").run("ingest", partition="2017-12", checks=True)
    assert result.success and early.warehouse.partitions(BARS)["2017-11"] == 3 * 21
    assert early.warehouse.partitions(FEATURES)["2017-11"] == 3 * 21
    assert early.warehouse.read(BAR_REVISIONS).empty, "a bar that is new is no revision"
    assert bar_checks.bars_sessions(warehouse=early.warehouse, market=early.market).passed, (
        "the half day after Thanksgiving too"
    )


def test_one_bad_symbol_loses_no_other_and_keeps_what_it_had(yahoo, server: YahooServer) -> None:
    pipeline = yahoo(symbols=[*SYMBOLS, "NOPE"])
    assert pipeline.run("ingest", "bars", partition="2017-10").success
    before = pipeline.warehouse.read(BARS)
    server.refuse("AAA", 503)
    result = pipeline.run("ingest", "bars", partitions=("2017-10", "2017-11"))
    assert result.success
    (whole, *_) = result.asset_materializations_for_node("bars")
    shown = whole.metadata["not answered"].value
    for symbol, outcome in (("AAA", "failed"), ("NOPE", "unknown")):
        assert f"| {symbol} | {outcome} | 0 |" in shown
    after = pipeline.warehouse.read(BARS)
    pd.testing.assert_frame_equal(after[after["month"] == "2017-10"].reset_index(drop=True), before)
    assert set(after.loc[after["month"] == "2017-11", "symbol"]) == {"BBB", "CCC"}
    missing = bar_checks.bars_sessions(warehouse=pipeline.warehouse, market=pipeline.market).metadata["missing"].value
    assert "| NOPE | 43 | 43 | 2017-10-02 |" in missing and "| AAA | 21 | 21 | 2017-11-01 |" in missing

    # The next ingestion asks again, and makes up for it.
    assert pipeline.run("ingest", "bars", partition="2017-11").success
    assert pipeline.warehouse.partitions(BARS)["2017-11"] == 3 * 21


def test_a_vendor_that_answers_for_few_changes_nothing_and_is_asked_for_the_rest(yahoo, server: YahooServer) -> None:
    pipeline = yahoo()
    ingest(pipeline.market, pipeline.warehouse, ["2017-10"])
    counts, snapshot, asked = pipeline.counts(), pipeline.warehouse.snapshot(), len(server.asked())
    server.refuse("AAA", 503)
    server.truncate("BBB")
    with pytest.raises(SourceUnavailableError, match="answered for 1 of 3 symbols"):
        ingest(pipeline.market, pipeline.warehouse, ["2017-10"])
    assert (pipeline.counts(), pipeline.warehouse.snapshot()) == (counts, snapshot)
    ingest(pipeline.market, pipeline.warehouse, ["2017-10"])
    assert sorted(server.asked()[asked:]) == ["AAA", "AAA", "BBB", "BBB", "CCC"]


def test_a_stored_bar_outlives_a_new_version_that_is_refused(yahoo, server: YahooServer) -> None:
    pipeline = yahoo()
    assert pipeline.run("ingest", "bars", partition="2017-11").success
    before = pipeline.warehouse.read(BARS)
    server.market.revise("AAA", "2017-11-20", high=0.01)
    server.market.revise("BBB", "2017-11-21", close=value(before, "BBB", "2017-11-21", "close") * 100)
    assert pipeline.run("ingest", "bars", partition="2017-11").success
    pd.testing.assert_frame_equal(pipeline.warehouse.read(BARS), before)
    refused = pipeline.warehouse.read(QUARANTINED_BARS)
    assert refused[["symbol", "session"]].astype(str).to_numpy().tolist() == [
        ["AAA", "2017-11-20"],
        ["BBB", "2017-11-21"],
    ]
    assert pipeline.warehouse.read(BAR_REVISIONS).empty, "nothing stored was changed"
    assert not bar_checks.bars_quarantine(warehouse=pipeline.warehouse).passed


def test_a_restart_asks_for_nothing_that_was_answered(yahoo, server: YahooServer, monkeypatch) -> None:
    pipeline = yahoo()
    market = pipeline.market
    months = ["2017-10", "2017-11"]
    with monkeypatch.context() as patch:
        patch.setattr("assets.ingestion.validate_bars", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            ingest(market, pipeline.warehouse, months)
    assert sorted(server.asked()) == sorted(SYMBOLS) and pipeline.counts() == {}
    ingest(market, pipeline.warehouse, months)
    assert sorted(server.asked()) == sorted(SYMBOLS), "what was answered was asked for again"
    ingest(market, pipeline.warehouse, months)
    assert len(server.asked()) == 2 * len(SYMBOLS), "a committed ingestion is over: the next one asks anew"


def test_listings_bound_what_is_stored_and_what_is_missed(yahoo) -> None:
    symbols = [{"symbol": "AAA", "listed": "2017-10-16"}, {"symbol": "OLD", "ticker": "BBB", "delisted": "2017-11-08"}]
    pipeline = yahoo(symbols=symbols)
    assert pipeline.run("ingest", "bars", partitions=("2017-10", "2017-11")).success
    bars = pipeline.warehouse.read(BARS)
    spans = bars.groupby("symbol")["session"].agg(["min", "max"]).astype(str)
    assert spans.to_numpy().tolist() == [["2017-10-16", "2017-11-30"], ["2017-10-02", "2017-11-08"]]
    assert bar_checks.bars_sessions(warehouse=pipeline.warehouse, market=pipeline.market).passed
    coverage = pipeline.warehouse.read(BAR_COVERAGE)
    assert coverage.set_index(["symbol", "month"])["sessions"].to_dict() == {
        ("AAA", "2017-10"): 12,
        ("AAA", "2017-11"): 21,
        ("OLD", "2017-10"): 22,
        ("OLD", "2017-11"): 6,
    }


def test_todays_members_over_the_past_are_called_survivors(yahoo) -> None:
    pipeline = yahoo()
    result = pipeline.run("ingest", "bars", partitions=("2016-01", "2017-11"))
    (whole, *_) = result.asset_materializations_for_node("bars")
    assert "3 instruments over 1.9 years, none of which was ever delisted" in whole.metadata["survivorship"].value


def test_a_symbol_that_left_the_universe_blocks(yahoo) -> None:
    pipeline = yahoo()
    assert pipeline.run("ingest", "bars", partition="2017-10").success
    fewer = yahoo(symbols=["AAA", "BBB"])
    result = fewer.run("ingest", "bars", "features", partition="2017-11", checks=True)
    check = {each.check_name: each for each in result.get_asset_check_evaluations()}["bars_universe"]
    assert not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
    assert "CCC" in check.description and "the day it was delisted" in check.description
    assert "features" not in fewer.counts()


def test_resampled_bars_are_whole(yahoo, server: YahooServer) -> None:
    pipeline = yahoo(timescales=["1wk", "1mo"], replay_start="2017-11-29T21:00:00+00:00")
    assert pipeline.run("ingest", partitions=("2017-10", "2017-11"), checks=True).success
    rows = pipeline.warehouse.read(RESAMPLED_BARS)
    assert rows.query("interval == '1mo'")["session"].astype(str).unique().tolist() == ["2017-10-31"]
    weeks = rows.query("interval == '1wk' and symbol == 'AAA'")
    # The week of the first of October began in September, of which nothing is stored; Thanksgiving's is not over.
    assert weeks["session"].astype(str).tolist() == [
        "2017-10-06",
        "2017-10-13",
        "2017-10-20",
        "2017-10-27",
        "2017-11-03",
        "2017-11-10",
        "2017-11-17",
        "2017-11-24",
    ]
    bars = pipeline.warehouse.read(BARS).query("symbol == 'AAA' and session > '2017-11-17' and session < '2017-11-25'")
    last = weeks.iloc[-1]
    assert (last["open"], last["high"], last["low"], last["close"], last["volume"]) == (
        bars["open"].iloc[0], bars["high"].max(), bars["low"].min(), bars["close"].iloc[-1], bars["volume"].sum(),
    )  # fmt: skip


def test_quotes_and_chains_of_a_live_source_are_kept_from_poll_to_poll(yahoo) -> None:
    context = dg.build_asset_context(partition_key=f"{datetime.now(UTC):%Y-%m}")
    seen = {}
    with YahooServer(SYMBOLS, years=1) as today:
        live = yahoo(replay_start=None, options={"endpoint": today.endpoint})
        for poll in (1, 2):
            for asset, table in ((quotes, QUOTES), (option_chain, OPTION_CHAIN)):
                asset(context, market=live.market, warehouse=live.warehouse)
                rows = live.warehouse.read(table)
                assert rows.groupby(table.key[0])["available_at"].nunique().to_dict() == dict.fromkeys(SYMBOLS, poll)
                if poll == 2:
                    kept = rows.merge(seen[table.name][list(table.key)], on=list(table.key))
                    pd.testing.assert_frame_equal(kept, seen[table.name])
                seen[table.name] = rows
    chain = seen[OPTION_CHAIN.name]
    assert chain["bid_size"].isna().all() and chain["implied_volatility"].notna().any()


class Feed(BundledSource):
    """The bundled bars as a source gives them that a test changes."""

    def __init__(self, change, actions: pd.DataFrame | None = None) -> None:
        self.change, self.actions = change, actions

    def bars(self, symbols, start, end) -> pd.DataFrame:
        return self.change(super().bars(symbols, start, end))

    def corporate_actions(self, symbols, start, end) -> pd.DataFrame:
        return super().corporate_actions(symbols, start, end) if self.actions is None else self.actions


@pytest.fixture
def bundled(pipeline_at, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ingest a month of the bundled market from a feed that is changed."""
    pipeline = pipeline_at(tmp_path / "home", replay_start="1999-04-30T20:00:00+00:00")

    def run(month: str, change=lambda frame: frame, actions: pd.DataFrame | None = None, **options: Any):
        settings = options.pop("market", {})
        monkeypatch.setattr(Market, "feed", property(lambda market: Feed(change, actions)))
        market = Market(warehouse=pipeline.warehouse, replay_start="1999-04-30T20:00:00+00:00", **settings)
        return ingest(market, pipeline.warehouse, [month], **options)

    run.pipeline = pipeline
    return run


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.groupby("symbol").head(1),
        lambda frame: frame.groupby("symbol").tail(3),
        lambda frame: frame.assign(available_at=frame["available_at"] + pd.Timedelta(hours=1)),
        lambda frame: frame[(frame["session"].dt.day < 8) | (frame["session"].dt.day > 20)],
    ],
    ids=["only the first day", "only the last days", "labels an hour late", "two weeks missing"],
)
def test_a_partial_or_mislabelled_answer_takes_nothing_away(bundled, change) -> None:
    bundled("1999-03")
    before = bundled.pipeline.warehouse.read(BARS)
    done = bundled("1999-03", change)
    pd.testing.assert_frame_equal(bundled.pipeline.warehouse.read(BARS), before)
    assert done.revisions.empty and (done.outcomes["kept"] > 0).all()


def test_a_mass_restatement_is_believed_only_where_a_person_does(bundled) -> None:
    bundled("1999-03")
    before = bundled.pipeline.warehouse.read(BARS)

    def doubled(frame: pd.DataFrame) -> pd.DataFrame:
        factor = np.where(frame["symbol"] == "SP500", 2.0, 1.0)
        return frame.assign(**{name: factor * frame[name] for name in ("open", "high", "low", "close")})

    done = bundled("1999-03", doubled)
    pd.testing.assert_frame_equal(bundled.pipeline.warehouse.read(BARS), before)
    detail = done.outcomes.set_index("symbol")["detail"]
    assert "restates 23 of 23 stored closes, by 2:" in detail["SP500"] and "accept_restatements" in detail["SP500"]
    assert detail["NASDAQ"] == "", "the other symbol is believed"
    done = bundled("1999-03", doubled, accept_restatements=True)
    assert len(done.revisions) == 4 * 23
    after = bundled.pipeline.warehouse.read(BARS)
    assert (
        after.loc[after["symbol"] == "SP500", "close"] == 2 * before.loc[before["symbol"] == "SP500", "close"]
    ).all()


def test_bars_of_another_security_leave_when_the_listing_says_so(bundled) -> None:
    bundled("1999-03")
    symbols = [
        {"symbol": "SP500", "listed": "1999-03-15", "kind": "index"},
        {"symbol": "SP500.OLD", "ticker": "SP500", "delisted": "1999-03-14", "kind": "index"},
        {"symbol": "NASDAQ", "kind": "index"},
    ]
    bundled("1999-03", market={"symbols": symbols})
    stored = bundled.pipeline.warehouse.read(BARS)
    spans = stored.groupby("symbol")["session"].agg(["min", "max"]).astype(str)
    assert spans.loc["SP500"].tolist() == ["1999-03-15", "1999-03-31"]
    assert spans.loc["SP500.OLD"].tolist() == ["1999-03-01", "1999-03-12"]


def test_what_was_refused_stays_in_quarantine_while_the_source_is_silent(bundled) -> None:
    bundled("1999-03", lambda frame: frame.assign(high=frame["high"].where(frame.index != 5, 1.0)))
    refused = bundled.pipeline.warehouse.read(QUARANTINED_BARS)
    assert len(refused) == 1
    bundled("1999-03", lambda frame: frame[frame["symbol"] != refused["symbol"].iloc[0]])
    pd.testing.assert_frame_equal(bundled.pipeline.warehouse.read(QUARANTINED_BARS), refused)
    bundled("1999-03")
    assert bundled.pipeline.warehouse.read(QUARANTINED_BARS).empty, "the source was mended"


def test_actions_that_contradict_one_another_stop_the_ingestion(bundled, make_actions) -> None:
    contradicting = make_actions(("SP500", "1999-03-10", "split", 2.0), ("SP500", "1999-03-10", "split", 10.0))
    with pytest.raises(BrokenSchemaError, match=r"SP500 has the splits \[2.0, 10.0\] on 1999-03-10"):
        bundled("1999-03", actions=contradicting)
    assert bundled.pipeline.counts() == {}


def test_a_universe_that_nobody_was_listed_in_is_told_so(bundled) -> None:
    with pytest.raises(dg.Failure, match="no instrument of the universe was listed from 1999-03-01"):
        bundled("1999-03", market={"symbols": [{"symbol": "SP500", "listed": "2001-01-02"}]})
