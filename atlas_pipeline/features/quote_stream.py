"""Features of quotes as they come, one or many at a time; the batch is one block of the same code."""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atlas_pipeline.features.kernels.microstructure import microstructure
from atlas_pipeline.features.microstructure import (
    GAP,
    LARGEST,
    MICROSTRUCTURE,
    MICROSTRUCTURE_FEATURES,
    QUOTE,
    SMALLEST,
    WINDOW,
)
from atlas_pipeline.market.calendars import microsecond, microseconds
from atlas_pipeline.market.table import PANDAS_DTYPE

_GAP = GAP // timedelta(microseconds=1)
_WARMUPS = np.array([feature.warmup for feature in MICROSTRUCTURE])
_ROW = np.dtype([("time", "<i8"), ("quote", "<f8", (4,))])
# What it is, the window it was kept for, the checksum of what follows.
_HEADER = struct.Struct("<8sII")
_MAGIC = b"QUOTES-1"


class QuoteStream:
    """The features of one symbol's quotes, in the order in which they came.

    What it keeps is its last ``WINDOW`` quotes. Any division of the quotes into calls gives the same bits, those of
    ``compute_microstructure`` before it rounds to the types of its table; so does a stream that was saved and restored
    in between. Feed it what ``validate_quotes`` accepts.
    """

    names = tuple(feature.name for feature in MICROSTRUCTURE)
    """Of the values of a result, in their order."""

    def __init__(self) -> None:
        self._times = np.empty(0, dtype="int64")
        self._quotes = np.empty((4, 0))

    def update(
        self, available_at: datetime, bid: float, bid_size: float, ask: float, ask_size: float
    ) -> NDArray[np.float64]:
        """Take one quote and return its features, in the order of ``names``.

        Parameters
        ----------
        available_at
            Instant with a time zone, later than that of the quote before.
        bid, ask
            Prices in currency.
        bid_size, ask_size
            Units on offer.

        Returns
        -------
        float64[features]
            NaN during warm-up and where a formula is undefined.

        Raises
        ------
        ValueError
            Where the instant has no time zone or is not later than the last one.
        """
        if available_at.tzinfo is None:
            raise ValueError(f"available_at={available_at} has no time zone: give an instant, such as one in UTC")
        return self.extend(
            np.array([microsecond(available_at)]), np.array([[bid], [bid_size], [ask], [ask_size]], dtype="float64")
        )[:, 0]

    def extend(self, times: NDArray[np.int64], quotes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take a block of quotes and return their features.

        Parameters
        ----------
        times : int64[n]
            Microseconds since 1970 (UTC), increasing, all later than those taken before.
        quotes : float64[4, n]
            Bid, bid size, ask, ask size.

        Returns
        -------
        float64[features, n]
            NaN during warm-up and where a formula is undefined.

        Raises
        ------
        ValueError
            Where times do not increase.
        """
        kept = len(self._times)
        times, quotes = np.concatenate([self._times, times]), np.concatenate([self._quotes, quotes], axis=1)
        back = np.flatnonzero(times[1:] <= times[:-1])
        if len(back):
            before, after = (pd.Timestamp(times[back[0] + step], unit="us", tz="UTC") for step in (0, 1))
            raise ValueError(f"{after} does not come after {before}: sort the quotes and remove duplicates")
        result = np.empty((len(MICROSTRUCTURE), len(times) - kept))
        microstructure(times, quotes, kept, WINDOW, _GAP, SMALLEST, LARGEST, _WARMUPS, result)
        # A copy: a view would keep the whole block alive.
        self._times, self._quotes = times[-WINDOW:].copy(), quotes[:, -WINDOW:].copy()
        return result

    def save(self) -> bytes:
        """Return the state as bytes, the same on every machine."""
        rows = np.empty(len(self._times), _ROW)
        rows["time"], rows["quote"] = self._times, self._quotes.T
        content = rows.tobytes()
        return _HEADER.pack(_MAGIC, WINDOW, zlib.crc32(content)) + content

    @classmethod
    def restore(cls, saved: bytes) -> QuoteStream:
        """Return a stream that goes on where the saved one stood.

        Raises
        ------
        ValueError
            Where the bytes are not what ``save`` wrote, or were saved for another window.
        """
        remedy = "feed a new stream with the quotes before the next one"
        if len(saved) < _HEADER.size or (len(saved) - _HEADER.size) % _ROW.itemsize:
            raise ValueError(f"{len(saved)} bytes are no saved QuoteStream: {remedy}")
        magic, window, checksum = _HEADER.unpack_from(saved)
        content = saved[_HEADER.size :]
        if magic != _MAGIC or zlib.crc32(content) != checksum:
            raise ValueError(f"a saved QuoteStream is damaged, or of another version (it begins {magic!r}): {remedy}")
        if window != WINDOW:
            raise ValueError(f"a QuoteStream was saved for a window of {window} quotes, not {WINDOW}: {remedy}")
        rows = np.frombuffer(content, _ROW)
        stream = cls()
        stream._times, stream._quotes = rows["time"].astype("int64"), rows["quote"].T.astype("float64", order="C")
        return stream


def replay_quotes(quotes: pd.DataFrame) -> pd.DataFrame:
    """Compute the features of quotes one at a time: no row can have seen a later one.

    What ``compute_microstructure`` gives for all quotes at once equals this, or it looks ahead.

    Parameters
    ----------
    quotes
        Rows of ``QUOTES``; within a symbol ``available_at`` increases.

    Returns
    -------
    pandas.DataFrame
        Rows of ``MICROSTRUCTURE_FEATURES``, one a quote, in the order of ``quotes``.
    """
    times = microseconds(quotes["available_at"])
    values = np.ascontiguousarray(quotes[list(QUOTE)].to_numpy(dtype="float64").T)
    streams: defaultdict[str, QuoteStream] = defaultdict(QuoteStream)
    result = np.empty((len(MICROSTRUCTURE), len(quotes)))
    for row, symbol in enumerate(quotes["symbol"]):
        one = slice(row, row + 1)
        result[:, one] = streams[symbol].extend(times[one], values[:, one])
    columns = dict(zip(QuoteStream.names, result, strict=True))
    frame = quotes[["symbol", "available_at", "month"]].assign(**columns)[list(MICROSTRUCTURE_FEATURES.names)]
    types = {column.name: PANDAS_DTYPE[column.dtype] for column in MICROSTRUCTURE_FEATURES.columns}
    return frame.astype(types).reset_index(drop=True)
