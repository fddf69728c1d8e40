from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS, empty
from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.sources import Fetched, Outcome, RecordedSource, within
from atlas_pipeline.market.universe import Instrument, Universe

START, END = datetime(2014, 12, 1, tzinfo=UTC), datetime(2015, 4, 1, tzinfo=UTC)
CHANGE = [
    {"symbol": "NEW", "ticker": "AAA", "listed": "2015-02-09"},
    {"symbol": "OLD", "ticker": "AAA", "delisted": date(2015, 2, 4)},
    "BBB",
]


class Recorded(RecordedSource):
    """A source that counts what it is asked."""

    name, live = "recorded", False

    def __init__(self, bars, actions):
        self.rows, self.paid, self.asked = bars, actions, []

    def bars(self, symbols, start, end):
        self.asked.append(list(symbols))
        return within(self.rows[self.rows["symbol"].isin(symbols)], start, end)

    def corporate_actions(self, symbols, start, end):
        return within(self.paid[self.paid["symbol"].isin(symbols)], start, end)


@pytest.fixture
def source(make_bars) -> Recorded:
    bars = pd.concat([make_bars("AAA", 60), make_bars("BBB", 60, seed=1)], ignore_index=True)
    days = (
        sessions(date(2015, 1, 5), date(2015, 3, 20))
        .set_index("session")
        .loc[["2015-02-02", "2015-02-06", "2015-03-02"]]
    )
    paid = pd.DataFrame({"symbol": "AAA", "session": days.index, "kind": "dividend", "value": [1.0, 2.0, 3.0]})
    paid = paid.assign(available_at=days["opens_at"].array, month=days.index.strftime("%Y-%m"))
    return Recorded(bars, paid[list(CORPORATE_ACTIONS.names)])


def test_entries_are_names_or_mappings_as_yaml_gives_them():
    universe = Universe.parse(["SPY", {"symbol": "VIX", "ticker": "^VIX", "kind": "index", "calendar": "XCBF"}])
    assert universe.instruments == (Instrument("SPY"), Instrument("VIX", "^VIX", kind="index", calendar="XCBF"))
    assert universe.instruments[0].ticker == "SPY"
    assert (universe.symbols, universe.tickers) == (("SPY", "VIX"), ("SPY", "^VIX"))
    given = {"symbol": "A", "ticker": None, "listed": "2003-04-11", "delisted": date(2010, 1, 4)}
    assert Universe.parse([given]).instruments == (Instrument("A", "A", date(2003, 4, 11), date(2010, 1, 4)),)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "universe is empty"),
        ([True], "symbol=True .* in quotes where YAML reads it as a truth value"),
        ([{"symbol": 7203}], "symbol=7203"),
        ([" "], "symbol=' '"),
        ([{"symbol": "A", "ticker": 7203}], "ticker=7203"),
        ([{"symbol": "A", "delsted": "2010-01-04"}], r"unknown fields \['delsted'\]; use symbol, ticker, listed"),
        ([{"ticker": "A"}], "has no symbol"),
        ([{"symbol": "A", "listed": "soon"}], "A: listed='soon' is no day; write YYYY-MM-DD"),
        ([{"symbol": "A", "kind": "stonk"}], "A: kind='stonk' is none; use one of stock, etf"),
        ([{"symbol": "A", "listed": "2010-01-05", "delisted": "2010-01-04"}], "delisted=2010-01-04 lies before"),
        (["A", "B", "A"], r"symbol 'A' stands twice.*such as A\.1998"),
        (["A", {"symbol": "A.1", "ticker": "A"}], "nothing says until when or since when: give delisted of A"),
        ([{"symbol": "A", "listed": "2010-01-04"}, {"symbol": "A.1", "ticker": "A"}], "give delisted of A.1"),
        (
            [{"symbol": "A", "delisted": "2010-01-04"}, {"symbol": "A.1", "ticker": "A"}],
            "give listed of A.1",
        ),
        (
            [{"symbol": "A", "listed": "2010-01-04"}, {"symbol": "A.1", "ticker": "A", "delisted": "2010-01-04"}],
            "A.1 and A have the ticker 'A' at once: delisted=2010-01-04 of the first is not before listed=2010-01-04",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(entries, message):
    with pytest.raises(ValueError, match=message):
        Universe.parse(entries)


def test_the_bar_of_the_last_day_is_in_and_that_of_the_day_before_the_first_is_out():
    days = sessions(date(2015, 2, 2), date(2015, 2, 13)).set_index("session")["available_at"]
    new, old, always = Universe.parse(CHANGE).listings(START, END)
    assert (new.end, old.start, always.start, always.end) == (END, START, START, END)
    assert old.start <= days["2015-02-04"] < old.end <= days["2015-02-05"]
    # The listing is on a Monday: Friday's bar is out.
    assert days["2015-02-06"] < new.start <= days["2015-02-09"]
    # Quotes after the last close and before the first opening go with their day.
    assert old.end > days["2015-02-04"] + timedelta(hours=4)
    assert new.start < days["2015-02-09"] - timedelta(hours=12)


def test_where_trading_never_stops_a_day_ends_at_midnight():
    (listing,) = Universe((Instrument("X", "", date(2015, 1, 5), date(2015, 1, 6), "crypto", "24/7"),)).listings(
        START, END
    )
    # The bar of the 4th is complete at midnight, that of the 6th at the midnight after.
    assert datetime(2015, 1, 5, tzinfo=UTC) < listing.start < datetime(2015, 1, 5, 0, 1, tzinfo=UTC)
    assert datetime(2015, 1, 7, tzinfo=UTC) < listing.end < datetime(2015, 1, 7, 0, 1, tzinfo=UTC)


def test_a_listing_on_a_day_without_trading_begins_with_the_next_session():
    saturday = Universe((Instrument("X", "", date(2015, 2, 7), date(2015, 2, 8)),))
    assert saturday.listings(START, END) == [] or saturday.listings(START, END)[0].start.weekday() >= 5
    days = sessions(date(2015, 2, 2), date(2015, 2, 13))
    for listing in saturday.listings(START, END):
        assert not ((days["available_at"] >= listing.start) & (days["available_at"] < listing.end)).any()


def test_membership_is_of_the_instant():
    universe = Universe.parse(CHANGE)
    assert universe.members(datetime(2015, 2, 4, 21, tzinfo=UTC)) == ("OLD", "BBB")
    assert universe.members(datetime(2015, 2, 5, 21, tzinfo=UTC)) == ("BBB",)
    assert universe.members(datetime(2015, 2, 9, 21, tzinfo=UTC)) == ("NEW", "BBB")
    with pytest.raises(ValueError, match="no time zone"):
        universe.members(datetime(2015, 2, 9, 21))


def test_one_request_a_ticker_and_every_row_to_whom_it_belongs(source):
    answers = {answer.symbol: answer for answer in Universe.parse(CHANGE).fetch(source, START, END)}
    assert source.asked == [["AAA", "BBB"]]
    assert {symbol: len(answer.bars) for symbol, answer in answers.items()} == {"OLD": 23, "NEW": 35, "BBB": 60}
    assert answers["OLD"].bars["session"].max() == pd.Timestamp("2015-02-04")
    assert answers["NEW"].bars["session"].min() == pd.Timestamp("2015-02-09")
    assert {symbol: set(answer.bars["symbol"]) for symbol, answer in answers.items()} == {s: {s} for s in answers}
    # The dividend between the two listings is nobody's.
    assert answers["OLD"].actions["value"].tolist() == [1.0]
    assert answers["NEW"].actions["value"].tolist() == [3.0]
    for answer in answers.values():
        BARS.schema().validate(answer.bars, lazy=True)
        CORPORATE_ACTIONS.schema().validate(answer.actions, lazy=True)


def test_who_was_not_listed_is_not_asked_for(source):
    universe = Universe.parse([{"symbol": "AAA", "delisted": "2014-11-28"}, "BBB"])
    assert [answer.symbol for answer in universe.fetch(source, START, END)] == ["BBB"]
    assert list(Universe(universe.instruments[:1]).fetch(source, START, END)) == []
    assert source.asked == [["BBB"]]


def test_listed_but_without_a_bar_is_empty_and_a_failure_stays_one(source):
    universe = Universe.parse([{"symbol": "OLD", "ticker": "AAA", "delisted": "2014-12-31"}, CHANGE[0]])
    assert {a.symbol: a.outcome for a in universe.fetch(source, START, END)} == {
        "OLD": Outcome.EMPTY,
        "NEW": Outcome.OK,
    }

    class Failing(Recorded):
        def fetch(self, symbols, start, end):
            for symbol in symbols:
                yield Fetched(symbol, Outcome.FAILED, empty(BARS), empty(CORPORATE_ACTIONS), "timed out")

    failed = list(universe.fetch(Failing(source.rows, source.paid), START, END))
    assert [(a.symbol, a.outcome, a.detail) for a in failed] == [
        ("OLD", Outcome.FAILED, "timed out"),
        ("NEW", Outcome.FAILED, "timed out"),
    ]


def test_quotes_and_chains_are_named_alike(source):
    universe = Universe.parse(CHANGE[:2])
    named = universe.attribute(source.rows)
    assert named["symbol"].value_counts().to_dict() == {"OLD": 23, "NEW": 35}
    assert named["available_at"].is_monotonic_increasing
    chain = source.rows.rename(columns={"symbol": "underlying"})
    assert set(universe.attribute(chain, column="underlying")["underlying"]) == {"OLD", "NEW"}
    assert universe.attribute(source.rows.iloc[:0]).empty


def test_a_universe_of_survivors_says_so():
    first, last = date(2000, 1, 3), date(2019, 12, 31)
    warning = Universe.parse(["AAA", {"symbol": "BBB", "listed": "2010-01-04"}]).survivorship_warning(first, last)
    assert warning is not None
    assert warning.startswith("2 instruments over 20.0 years, none of which was ever delisted")
    assert "better than they could have been" in warning
    assert "add what was delisted" in warning
    assert Universe.parse(["AAA"]).survivorship_warning(first, last).startswith("1 instrument over")


def test_no_warning_where_nothing_was_chosen_by_hindsight():
    first, last = date(2000, 1, 3), date(2019, 12, 31)
    assert Universe.parse([{"symbol": "SP500", "kind": "index"}]).survivorship_warning(first, last) is None
    gone = {"symbol": "GONE", "delisted": "2009-06-30"}
    assert Universe.parse(["CCC", gone]).survivorship_warning(first, last) is None
    assert Universe.parse(["AAA"]).survivorship_warning(date(2019, 1, 2), last) is None
    dead_index = {"symbol": "X", "kind": "index", "delisted": "2010-01-04"}
    assert Universe.parse(["AAA", dead_index]).survivorship_warning(first, last) is not None


def test_neither_one_delisting_among_many_nor_a_reused_ticker_hides_survivors():
    first, last = date(2000, 1, 3), date(2019, 12, 31)
    many = [f"S{number}" for number in range(100)]
    gone = {"symbol": "GONE", "delisted": "2009-06-30"}
    assert "only 1 of which was ever delisted" in Universe.parse([*many, gone]).survivorship_warning(first, last)
    assert "none of which" in Universe.parse(["CCC", *CHANGE]).survivorship_warning(first, last)
