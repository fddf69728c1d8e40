"""Answers survive a kill, are used while they are whole, and are asked for again otherwise."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS, empty
from atlas_pipeline.market.resumable import ResumableSource
from atlas_pipeline.market.sources import Fetched, Outcome

NOW = datetime(2020, 1, 2, 22, tzinfo=UTC)
CLOSE = datetime(2020, 1, 2, 21, tzinfo=UTC)
RANGE = (datetime(2015, 1, 1, tzinfo=UTC), NOW)


class Vendor:
    """Answers with prepared outcomes, and is killed after some."""

    def __init__(self, make_bars, outcomes: dict[str, Outcome], killed_after: int | None = None) -> None:
        self.make_bars, self.outcomes, self.killed_after = make_bars, outcomes, killed_after
        self.asked: list[str] = []

    def fetch(self, symbols, start, end) -> Iterator[Fetched]:
        for symbol in symbols:
            if len(self.asked) == self.killed_after:
                raise KeyboardInterrupt
            self.asked.append(symbol)
            outcome = self.outcomes[symbol]
            bars = self.make_bars(symbol) if outcome == Outcome.OK else empty(BARS)
            yield Fetched(symbol, outcome, bars, empty(CORPORATE_ACTIONS), "what it said")


@pytest.fixture
def vendor(make_bars):
    def make(*symbols: str, killed_after: int | None = None, **outcomes: Outcome) -> Vendor:
        return Vendor(make_bars, dict.fromkeys(symbols, Outcome.OK) | outcomes, killed_after)

    return make


def resumable(vendor: Vendor, folder: Path, now: datetime = NOW, since: datetime = CLOSE) -> ResumableSource:
    return ResumableSource(vendor, folder / "question", since, now)


def test_a_killed_download_asks_only_for_what_is_missing(vendor, tmp_path: Path) -> None:
    symbols = ["A", "^B", "C/D", "E"]
    with pytest.raises(KeyboardInterrupt):
        list(resumable(vendor(*symbols, killed_after=2), tmp_path).fetch(symbols, *RANGE))
    again = vendor(*symbols)
    answers = {answer.symbol: answer for answer in resumable(again, tmp_path).fetch(symbols, *RANGE)}
    assert again.asked == ["C/D", "E"] and list(answers) == symbols
    for symbol in symbols:
        assert (answers[symbol].outcome, answers[symbol].detail) == (Outcome.OK, "what it said")
        pd.testing.assert_frame_equal(answers[symbol].bars, again.make_bars(symbol))
        pd.testing.assert_frame_equal(answers[symbol].actions, empty(CORPORATE_ACTIONS))


def test_only_final_answers_are_kept(vendor, tmp_path: Path) -> None:
    outcomes = {outcome.name: outcome for outcome in Outcome}
    list(resumable(vendor(**outcomes), tmp_path).fetch(list(outcomes), *RANGE))
    again = vendor(**outcomes)
    list(resumable(again, tmp_path).fetch(list(outcomes), *RANGE))
    assert again.asked == ["RATE_LIMITED", "FAILED"]


def test_an_answer_older_than_the_last_bar_is_asked_for_again(vendor, tmp_path: Path) -> None:
    list(resumable(vendor("A"), tmp_path).fetch(["A"], *RANGE))
    for days, asked in ((0, []), (1, ["A"])):
        again, later = vendor("A"), timedelta(days=days)
        list(resumable(again, tmp_path, NOW + later, CLOSE + later).fetch(["A"], *RANGE))
        assert again.asked == asked


def test_an_answer_that_a_crash_left_half_written_is_asked_for_again(vendor, tmp_path: Path) -> None:
    list(resumable(vendor("A", "B"), tmp_path).fetch(["A", "B"], *RANGE))
    whole = (tmp_path / "question" / "A.arrows").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "question" / "A.arrows").write_bytes(whole[:size])
        again = vendor("A", "B")
        answers = {answer.symbol: answer for answer in resumable(again, tmp_path).fetch(["A", "B"], *RANGE)}
        assert again.asked == ["A"], size
        pd.testing.assert_frame_equal(answers["A"].bars, again.make_bars("A"))


def test_a_committed_ingestion_leaves_nothing_behind(vendor, tmp_path: Path) -> None:
    source = resumable(vendor("A"), tmp_path)
    list(source.fetch(["A"], *RANGE))
    other = tmp_path / "another question"
    other.mkdir()
    source.discard()
    assert not source.folder.exists() and other.exists(), "another ingestion may go on"
