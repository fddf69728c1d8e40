"""Quotes one at a time, in blocks and saved in between: the same bits; and none sees a later one."""

import math
import struct
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.features.microstructure import MICROSTRUCTURE, WINDOW
from atlas_pipeline.features.quote_stream import QuoteStream

MINUTE = 60_000_000


def random_quotes(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Times and quotes with holes: gaps longer than half an hour, locked and missing quotes."""
    random = np.random.default_rng(seed)
    times = 1_400_000_000_000_000 + np.cumsum(
        random.choice([1, MINUTE, 30 * MINUTE, 31 * MINUTE], rows, p=[0.1, 0.8, 0.08, 0.02])
    )
    bid = 100.0 + 0.01 * np.cumsum(random.integers(-2, 3, rows))
    ask = bid + 0.01 * random.integers(1, 4, rows)
    quotes = np.array([bid, random.integers(1, 1000, rows), ask, random.integers(1, 1000, rows)], dtype="float64")
    locked, missing = random.random((2, rows)) < 0.01
    quotes[2, locked] = quotes[0, locked]
    quotes[random.integers(0, 4), missing] = math.nan
    return times, quotes


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def in_blocks(times: np.ndarray, quotes: np.ndarray, ends: list[int], saved: bool = False) -> np.ndarray:
    stream, parts, begin = QuoteStream(), [], 0
    for end in [*sorted(ends), len(times)]:
        parts.append(stream.extend(times[begin:end], quotes[:, begin:end]))
        begin = end
        if saved:
            stream = QuoteStream.restore(stream.save())
    return np.concatenate(parts, axis=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 150), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 150)), st.booleans())
def test_any_division_into_blocks_gives_the_same_bits(rows, seed, ends, saved):
    times, quotes = random_quotes(rows, seed)
    whole = QuoteStream().extend(times, quotes)
    assert same_bits(in_blocks(times, quotes, [min(end, rows) for end in ends], saved), whole)
    assert same_bits(in_blocks(times, quotes, list(range(rows)), saved), whole)


def test_many_rows_are_worked_off_in_blocks_without_a_seam():
    times, quotes = random_quotes(10_000, 1)
    whole = QuoteStream().extend(times, quotes)
    assert same_bits(in_blocks(times, quotes, list(range(0, 10_000, 777))), whole)
    assert same_bits(in_blocks(times, quotes, list(range(10_000))), whole)
    assert np.isfinite(whole[:, WINDOW:]).mean() > 0.5


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 120), st.integers(0, 2**32 - 1))
def test_nothing_before_changes_with_the_future_at_every_row(rows, seed):
    times, quotes = random_quotes(rows, seed)
    random = np.random.default_rng(seed)
    whole = QuoteStream().extend(times, quotes)
    for now in range(1, rows):
        future = quotes[:, now:]
        changed = future * np.exp(random.normal(0, 3, future.shape[1]))
        futures = [future[:, :0], changed, future[:, random.permutation(rows - now)], np.full_like(future, math.nan)]
        for other in futures:
            known = np.concatenate([quotes[:, :now], other], axis=1)
            # The times of the future are as little known.
            moved = times[: known.shape[1]] + np.where(np.arange(known.shape[1]) >= now, 31 * MINUTE, 0)
            assert same_bits(QuoteStream().extend(moved, known)[:, :now], whole[:, :now])


def test_one_quote_with_a_time_zone():
    stream, now = QuoteStream(), datetime(2015, 1, 5, 10, tzinfo=UTC)
    times, quotes = random_quotes(30, 4)
    times = int(now.timestamp()) * 1_000_000 + MINUTE * np.arange(30)
    whole = QuoteStream().extend(times, quotes)
    for row, quote in enumerate(quotes.T.tolist()):
        assert same_bits(stream.update(now + timedelta(minutes=row), *quote), np.ascontiguousarray(whole[:, row]))
    assert dict(zip(stream.names, stream.update(now + timedelta(hours=1), 9.0, 3, 11.0, 1), strict=True))["mid"] == 10.0
    with pytest.raises(ValueError, match="has no time zone"):
        stream.update(datetime(2015, 1, 6), 9.0, 3, 11.0, 1)


@pytest.mark.parametrize("step", [0, -1])
def test_a_quote_that_does_not_come_later_is_refused_and_changes_nothing(step):
    times, quotes = random_quotes(40, 5)
    stream = QuoteStream()
    stream.extend(times[:30], quotes[:, :30])
    before = stream.save()
    with pytest.raises(ValueError, match="sort the quotes and remove duplicates"):
        stream.extend(times[29:30] + step, quotes[:, 30:31])
    assert stream.save() == before


def test_the_state_is_small_and_its_own_copy():
    times, quotes = random_quotes(5_000, 6)
    stream = QuoteStream()
    stream.extend(times, quotes)
    saved = stream.save()
    assert len(saved) <= 16 + WINDOW * 40
    quotes[:] = 0.0
    assert stream.save() == saved
    assert len(QuoteStream().save()) == 16


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda saved: saved[:-1], "bytes are no saved QuoteStream"),
        (lambda saved: b"", "0 bytes are no saved QuoteStream"),
        (lambda saved: saved[:-1] + bytes([saved[-1] ^ 1]), "damaged"),
        (lambda saved: b"X" + saved[1:], "another version"),
        (lambda saved: saved[:-40], "damaged"),
        (lambda saved: saved[:8] + struct.pack("<I", WINDOW + 1) + saved[12:], "window of 21 quotes, not 20"),
    ],
)
def test_a_spoilt_state_is_refused(spoil, message):
    stream = QuoteStream()
    stream.extend(*random_quotes(30, 7))
    with pytest.raises(ValueError, match=f"{message}.*feed a new stream"):
        QuoteStream.restore(spoil(stream.save()))


def test_names_are_those_of_the_declarations():
    assert QuoteStream.names == tuple(feature.name for feature in MICROSTRUCTURE)
    assert len(QuoteStream().extend(*random_quotes(3, 8))) == len(MICROSTRUCTURE)
