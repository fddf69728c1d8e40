"""The paper ledger: how far it trades, that it trades no bar twice, and what stops it."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from assets import paper as stage
from atlas_pipeline.adaptation.ledger import DECISIONS, EQUITY, EXPERIENCE, FILLS, LEDGER_TABLES
from atlas_pipeline.features.registry import FEATURES
from resources.tracking import CHAMPION, MODEL


def test_trading_in_pieces_equals_trading_at_once(fold_copy, traded_home: Path, pipeline_at) -> None:
    assert fold_copy.trade(20).success
    assert fold_copy.warehouse.read(EXPERIENCE)["env_step"].sort_values().tolist() == list(range(1, 21))
    assert len(fold_copy.warehouse.read(EQUITY)) == len(fold_copy.warehouse.read(DECISIONS)) == 2 * 11

    counts, snapshot = fold_copy.counts(), fold_copy.warehouse.snapshot()
    result = fold_copy.trade(20, checks=True)
    assert result.success and all(fold_copy.checks(result).values())
    (event,) = result.asset_materializations_for_node("paper_ledger")
    assert event.metadata["bars traded now"].value == 0 and event.metadata["environment steps"].value == 20
    assert (fold_copy.counts(), fold_copy.warehouse.snapshot()) == (counts, snapshot)

    assert fold_copy.trade(39).success  # two symbols: the bar that reaches it brings one more
    at_once = pipeline_at(traded_home).warehouse
    last = fold_copy.warehouse.read(EQUITY)["bar"].max()
    assert fold_copy.warehouse.read(EXPERIENCE)["env_step"].max() == 40
    for table in LEDGER_TABLES:
        own, whole = fold_copy.warehouse.read(table), at_once.read(table)
        assert fold_copy.warehouse.duplicates(table).empty
        expected = whole[whole[table.time] <= last].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, expected, check_exact=True)
    assert len(fold_copy.warehouse.read(FILLS)), "nothing was traded, so nothing was compared"


def test_trading_ends_at_the_clock(fold_copy, pipeline_at) -> None:
    pipeline = pipeline_at(fold_copy.home, replay_start="2007-01-10T21:00:00+00:00")
    for _ in range(2):
        assert pipeline.learn("trade_on_paper", "paper_ledger", partition="2007-01").success
    bars = pipeline.warehouse.read(EQUITY)["bar"]
    assert bars.min() == datetime(2007, 1, 3, 21, tzinfo=UTC), "the policy trades from its fold's year on"
    assert bars.max() == datetime(2007, 1, 10, 21, tzinfo=UTC) and len(bars) == 2 * 6


def test_a_session_without_features_stops_the_ledger(fold_copy) -> None:
    month = fold_copy.warehouse.read(FEATURES, partitions=["2007-01"])
    hole = month["available_at"] == datetime(2007, 1, 9, 21, tzinfo=UTC)
    fold_copy.warehouse.replace(FEATURES, {"2007-01": month[~hole]})
    message = fold_copy.failure(fold_copy.trade(20))
    assert "1 sessions of NASDAQ up to 2007-01-19 have no features, the first 2007-01-09" in message
    assert "materialize bars and features of 2007-01 first" in message
    assert "equity" not in fold_copy.counts()
    assert fold_copy.run("ingest", "features", partition="2007-01").success
    assert fold_copy.trade(2).success, "the remedy does not help"


def test_without_a_champion_nothing_trades(fold_copy) -> None:
    fold_copy.tracking.delete_alias(MODEL, CHAMPION)
    message = fold_copy.failure(fold_copy.trade(20))
    assert "model 'atlas' has no champion: materialize the policy of a fold" in message


@pytest.mark.parametrize(
    ("statement", "gap"),
    [
        ("UPDATE {lake}.equity SET cash = cash + 1 WHERE bar = TIMESTAMPTZ '2007-06-01 20:00:00+00'", 1e-5),
        ("UPDATE {lake}.equity SET net_return = 0.5 WHERE bar = TIMESTAMPTZ '2007-06-01 20:00:00+00'", 0.4),
    ],
    ids=["cash", "return"],
)
def test_an_account_that_does_not_balance_fails_the_check(traded_copy, execute_sql, statement: str, gap: float) -> None:
    assert stage.paper_ledger_balances(warehouse=traded_copy.warehouse).passed
    execute_sql(traded_copy, statement)
    check = stage.paper_ledger_balances(warehouse=traded_copy.warehouse)
    assert not check.passed and check.metadata["largest relative gap"].value > gap


def test_a_bar_traded_twice_fails_the_check(traded_copy, execute_sql) -> None:
    assert stage.paper_ledger_keys(warehouse=traded_copy.warehouse).passed
    execute_sql(traded_copy, "INSERT INTO {lake}.fills SELECT * FROM {lake}.fills LIMIT 1")
    check = stage.paper_ledger_keys(warehouse=traded_copy.warehouse)
    assert not check.passed and "1 keys occur twice" in check.description and check.description.startswith("fills:")


def test_tables_that_contradict_each_other_stop_the_ledger(traded_copy, execute_sql) -> None:
    execute_sql(traded_copy, "DELETE FROM {lake}.equity WHERE bar > TIMESTAMPTZ '2007-12-01 00:00:00+00'")
    message = traded_copy.failure(traded_copy.trade(600))
    assert "LedgerError" in message and "restore the table 'equity'" in message
