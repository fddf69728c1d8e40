from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from atlas_pipeline.config import Config
from atlas_pipeline.market.instants import microseconds
from atlas_pipeline.windows.folds import Fold, InsufficientHistoryError
from atlas_pipeline.windows.index import label_instants

SETTINGS = {"seq_length": 16, "batch_size": 8, "accumulation_steps": 1, "policy_years": 1, "feature_size": 2}


def test_instants_of_a_fold():
    fold = Fold(2016, Config())
    assert fold.fit_end == fold.policy_start == datetime(2012, 1, 1, tzinfo=UTC)
    assert (fold.start, fold.end) == (datetime(2016, 1, 1, tzinfo=UTC), datetime(2017, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("horizon", [1, 5])
def test_no_label_reaches_past_its_split(make_panel, horizon):
    panel = make_panel(rows=700)
    fold = Fold(2002, Config(**SETTINGS, horizon=horizon))
    split = fold.split(panel)
    boundary = microseconds(split.train_end)
    assert (label_instants(panel, split.train, horizon) < boundary).all()
    assert (panel.available_at[split.validation] >= boundary).all()
    assert (label_instants(panel, split.validation, horizon) < microseconds(fold.fit_end)).all()
    # Between the last training label and the first validation bar lie `horizon` bars of embargo.
    for symbol in (0, 1):
        last = split.train[panel.symbol[split.train] == symbol].max()
        first = split.validation[panel.symbol[split.validation] == symbol].min()
        assert first - (last + horizon) == horizon + 1
    share = len(split.validation) / (len(split.validation) + len(split.train))
    assert share == pytest.approx(0.15, abs=0.03)


def test_the_future_does_not_change_the_split(make_panel):
    panel = make_panel(rows=700)
    fold = Fold(2002, Config(**SETTINGS))
    whole, cut = fold.split(panel), fold.split(panel.before(fold.fit_end))
    assert whole.train_end == cut.train_end
    assert len(whole.train) == len(cut.train)
    np.testing.assert_array_equal(panel.available_at[whole.train], panel.before(fold.fit_end).available_at[cut.train])


def test_policy_and_judged_windows_are_disjoint(make_panel):
    panel = make_panel(rows=900)
    fold = Fold(2002, Config(**SETTINGS))
    policy = fold.window_ends(panel, fold.policy_start, fold.start)
    judged = fold.window_ends(panel, fold.start, fold.end, horizon=1)
    assert panel.available_at[policy].max() < microseconds(fold.start) <= panel.available_at[judged].min()
    assert panel.available_at[judged].max() < microseconds(fold.end)


def test_too_little_history_is_told_with_numbers_and_remedy(make_panel):
    panel = make_panel(rows=700)
    with pytest.raises(InsufficientHistoryError) as error:
        Fold(2001, Config(**SETTINGS)).split(panel)
    message = str(error.value)
    assert "fold 2001: 0 training and 0 validation windows of 16 bars have labels before 2000-01-01" in message
    assert "1400 rows from 2000-01-03" in message
    assert "Choose a later fold" in message
    with pytest.raises(InsufficientHistoryError, match="2048 and 30 are needed"):
        Fold(2002, Config(**(SETTINGS | {"batch_size": 512}))).split(panel)
