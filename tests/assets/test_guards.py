"""Guards against results that would be silently wrong, each shown firing."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets.adapter import _judged_from, own_experience
from assets.experiment import Experiment
from assets.serving import with_rules_of
from atlas_pipeline.adaptation.contest import _on_common_bars
from atlas_pipeline.adaptation.ledger import EXPERIENCE
from atlas_pipeline.config import Config
from atlas_pipeline.market.bars import BAR_REVISIONS, BARS
from atlas_pipeline.trading.market_path import MarketPath
from resources.tracking import CHAMPION, MODEL, ModelVersion


def version(number: int, **tags: str) -> ModelVersion:
    return ModelVersion(MODEL, number, Path(), "", tags, ())


def test_a_source_that_lost_a_symbol_takes_no_stored_bar_away(market_copy, change_feed) -> None:
    before = market_copy.warehouse.read(BARS, partitions=["2007-12"])
    change_feed(lambda frame: frame[frame["symbol"] != "NASDAQ"])
    result = market_copy.run("ingest", "bars", partition="2007-12")
    assert result.success, "the other symbols were lost"
    *_, made = result.asset_materializations_for_node("bars")
    assert "| NASDAQ | empty | 0 |  | 27 |" in made.metadata["not answered"].value
    assert market_copy.warehouse.read(BAR_REVISIONS).empty
    pd.testing.assert_frame_equal(market_copy.warehouse.read(BARS, partitions=["2007-12"]), before)


def test_a_model_does_not_name_a_snapshot_that_its_panels_are_not_made_of(market_copy, execute_sql) -> None:
    execute_sql(market_copy, "UPDATE {lake}.bars SET volume = volume + 1 WHERE session = DATE '2004-03-10'")
    message = market_copy.failure(market_copy.fold("forecaster"))
    assert "the panels before 2006" in message and "materialize the panel of the years" in message


def test_an_adapter_older_than_what_is_live_is_refused(traded_copy) -> None:
    assert traded_copy.adapt(100).success
    traded_copy.tracking.set_alias(MODEL, CHAMPION, 2)
    message = traded_copy.failure(traded_copy.adapt(60))
    assert "adapter 000060 would continue version 2, which learned up to step 100" in message
    assert traded_copy.adapt(100).success, "what is live itself can be asked for again"
    assert len(traded_copy.tracking.versions(MODEL)) == 2
    assert traded_copy.adapt(200).success, "a later one can be made"


def test_an_adapter_is_not_judged_on_bars_its_parent_learned_from() -> None:
    reached, learned, looked = (datetime(2017, month, 1, tzinfo=UTC) for month in (3, 5, 7))
    parent = version(4, created_at=learned.isoformat())
    none = pd.DataFrame({"candidate_version": [], "bar": []})
    assert _judged_from(reached, parent, none) == learned
    promoted = pd.DataFrame({"candidate_version": ["4", "5"], "bar": pd.to_datetime([looked, datetime.now(UTC)])})
    assert _judged_from(reached, parent, promoted) == looked


def test_only_a_base_s_own_experience_is_learned_from(traded_copy) -> None:
    experience = traded_copy.warehouse.read(EXPERIENCE)
    decisions = pd.DataFrame(
        {
            "symbol": experience["symbol"],
            "bar": experience["bar"],
            "base_sha256": "base",
            "policy_sha256": np.where(experience["env_step"] <= 300, "old", "new"),
        }
    )
    own = own_experience(experience, decisions, "base", "new")
    assert own["env_step"].tolist() == list(range(301, 501))
    assert own_experience(experience, decisions, "other base", "new").empty


def test_what_trades_keeps_the_rules_it_was_trained_by() -> None:
    launched = Config(min_position=-1, commission=0.0, online_update_freq=100)
    rules = with_rules_of(version(1, trading='{"min_position": 0, "commission": 0.001}'), launched)
    assert (rules.min_position, rules.commission, rules.online_update_freq) == (0, 0.001, 100)


def test_a_volatility_that_the_features_do_not_have_is_refused() -> None:
    with pytest.raises(dg.Failure, match=r"volatility_decay=0\.5: the features are computed with 0\.94"):
        Experiment(overrides={"volatility_decay": 0.5}).load()


def test_a_bar_that_one_symbol_or_contender_lacks_is_left_out_of_the_contest() -> None:
    def path(symbol: str, instants: list[int]) -> MarketPath:
        n = len(instants)
        ones = np.ones(n)
        times = np.array(instants, np.int64)
        embedding = np.ones((n, 2), np.float32)
        return MarketPath(symbol, times, ones, ones + times, ones, embedding, ones, ones, ones, 0 * ones)

    common = _on_common_bars(
        {
            "champion": [path("A", [1, 2, 3, 4, 5]), path("B", [1, 3, 4, 5])],
            "candidate": [path("A", [1, 2, 3, 4]), path("B", [1, 2, 3, 4])],
            "broken": None,
        }
    )
    assert common["broken"] is None
    for name in ("champion", "candidate"):
        first, second = common[name]
        assert first.available_at.tolist() == second.available_at.tolist() == [1, 3, 4]
        assert first.close.tolist() == [2.0, 4.0, 5.0]


def test_a_split_on_a_bar_left_out_of_the_contest_is_booked_at_the_next() -> None:
    def path(symbol: str, instants: list[int], split: list[float], dividend: list[float]) -> MarketPath:
        n = len(instants)
        ones, embedding = np.ones(n), np.ones((n, 2), np.float32)
        times = np.array(instants, np.int64)
        booked = (np.array(split), np.array(dividend))
        return MarketPath(symbol, times, ones, ones, ones, embedding, ones, ones, *booked)

    a, b = path("A", [1, 2, 3, 4], [1, 7, 2, 1], [0, 0.4, 0.1, 0]), path("B", [1, 3, 4], [1, 1, 1], [0, 0, 0.3])
    first, second = _on_common_bars({"champion": [a, b]})["champion"]
    assert first.split.tolist() == [1, 14, 1]
    assert first.dividend.tolist() == [0, 0.4 / 2 + 0.1, 0]
    assert second.dividend.tolist() == [0, 0, 0.3]
