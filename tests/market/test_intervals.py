import pytest

from atlas_pipeline.market.intervals import Interval, parse_interval


def test_names_are_read_and_written():
    for name in ("1m", "5m", "90m", "1h", "4h", "1d", "5d", "1wk", "2wk", "1mo", "3mo", "1y"):
        assert str(parse_interval(name)) == name
    assert parse_interval("2wk") == Interval(2, "wk")
    assert parse_interval("90m").minutes == 90
    assert parse_interval("2h").minutes == 120
    assert [parse_interval(name).intraday for name in ("60m", "1h", "1d", "1wk")] == [True, True, False, False]


@pytest.mark.parametrize(
    "name", ["", "d", "0d", "-1d", "05m", "1.5h", "1 d", "1D", "1M", "1w", "1week", "5min", "1d ", "10000m"]
)
def test_what_is_none_is_refused_with_an_example(name):
    with pytest.raises(ValueError, match=r"is none: write a number and m \(minutes\).*such as 5m"):
        parse_interval(name)


def test_minutes_beyond_a_day_and_minutes_of_a_day_are_refused():
    with pytest.raises(ValueError, match="write it in sessions, such as 1d"):
        parse_interval("24h")
    with pytest.raises(ValueError, match="'1d' is counted in sessions"):
        _ = parse_interval("1d").minutes


def test_intervals_are_ordered_by_length():
    names = ["1m", "5m", "60m", "90m", "4h", "1d", "2d", "5d", "1wk", "2wk", "1mo", "3mo", "1y"]
    assert [str(interval) for interval in sorted(map(parse_interval, sorted(names)))] == names
    assert parse_interval("1d") <= parse_interval("1d")


@pytest.mark.parametrize(
    ("finer", "coarser", "divides"),
    [
        ("5m", "15m", True),
        ("5m", "5m", True),
        ("30m", "90m", True),
        ("1h", "90m", False),
        ("15m", "5m", False),
        ("1m", "1d", True),
        ("1h", "3mo", True),
        ("1d", "1h", False),
        ("1d", "2wk", True),
        ("1d", "1y", True),
        ("2d", "4d", True),
        ("2d", "5d", False),
        ("5d", "1wk", False),
        ("1wk", "2wk", True),
        ("1wk", "1mo", False),
        ("1mo", "3mo", True),
        ("2mo", "3mo", False),
        ("3mo", "1y", True),
        ("5mo", "1y", False),
        ("1y", "2y", True),
        ("1y", "1mo", False),
    ],
)
def test_which_interval_is_made_of_which(finer, coarser, divides):
    assert parse_interval(finer).divides(parse_interval(coarser)) is divides
