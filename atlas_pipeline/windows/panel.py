"""The panel: what models read, one contiguous block of rows that can be mapped into memory.

Here live its layout in memory and on disk and the bound in time that every read may set. Which features stand
in it is decided in ``features``; which rows make a window in ``index``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.market.adjustment import forward_factors
from atlas_pipeline.market.instants import microseconds
from atlas_pipeline.whole_file import whole_file

if TYPE_CHECKING:
    import pandas as pd

PRICES = ("open", "high", "low", "close", "volume")
CLOSE = PRICES.index("close")
# Little-endian on every machine: the file is mapped, not decoded.
_LAYOUT = {
    "symbol": ("I32", "<i4"),
    "available_at": ("I64", "<i8"),
    "values": ("F32", "<f4"),
    "prices": ("F64", "<f8"),
    "volatility": ("F64", "<f8"),
    "split": ("F64", "<f8"),
    "dividend": ("F64", "<f8"),
}


class PanelError(RuntimeError):
    """A panel is missing, damaged or does not fit the others it is opened with."""


@dataclass(frozen=True, eq=False)
class Panel:
    """Model inputs, prices and trailing volatility of one or more symbols, sorted by symbol and then by time.

    Attributes
    ----------
    symbols, features
        Names; ``symbol`` points into the first, the columns of ``values`` are the second.
    symbol
        int32 [rows], index into ``symbols``.
    available_at
        int64 [rows], the instant the bar is complete, microseconds since 1970 UTC.
    values
        float32 [rows, features], causal model inputs; NaN while an indicator warms up.
    prices
        float64 [rows, 5]: open, high, low, close (currency of the quote) and volume, as traded.
    volatility
        float64 [rows], EWMA volatility of 100 x log returns, percent per bar, known at that bar.
    split
        float64 [rows], shares at the bar for one at the bar before; 1 but for splits.
    dividend
        float64 [rows], cash paid at the bar on each share held into it, counted after the split; 0 but for ex-dates.

    Raises
    ------
    PanelError
        Where shapes or types differ from these, or the rows are not sorted.
    """

    symbols: tuple[str, ...]
    features: tuple[str, ...]
    symbol: NDArray[np.int32]
    available_at: NDArray[np.int64]
    values: NDArray[np.float32]
    prices: NDArray[np.float64]
    volatility: NDArray[np.float64]
    split: NDArray[np.float64]
    dividend: NDArray[np.float64]

    def __post_init__(self) -> None:
        rows = len(self.symbol)
        expected = {"values": (rows, len(self.features)), "prices": (rows, len(PRICES))}
        for name, (_, dtype) in _LAYOUT.items():
            array = getattr(self, name)
            shape = expected.get(name, (rows,))
            if array.shape != shape or array.dtype != np.dtype(dtype):
                raise PanelError(
                    f"panel array {name!r} is {array.dtype}{array.shape}, expected {np.dtype(dtype)}{shape}: "
                    "build the panel with Panel.from_frame"
                )
        same = self.symbol[1:] == self.symbol[:-1]
        unsorted = np.flatnonzero(np.where(same, np.diff(self.available_at) <= 0, np.diff(self.symbol) < 0))
        if unsorted.size:
            row = int(unsorted[0]) + 1
            raise PanelError(
                f"panel rows are not sorted by symbol and strictly by time at row {row} "
                f"({self.symbols[self.symbol[row]]}): sort them and remove duplicate bars first"
            )

    def __len__(self) -> int:
        return len(self.symbol)

    @cached_property
    def total_return_close(self) -> NDArray[np.float64]:
        """Closes with their dividends reinvested, float64 [rows]: what returns are made of.

        Each symbol's begin at the close of its first row; without corporate actions they are the closes.
        """
        index: NDArray[np.float64] = np.array(self.prices[:, CLOSE])
        for first, last in pairwise(np.flatnonzero(np.diff(self.symbol, prepend=-1, append=-1))):
            rows = slice(first, last)
            index[rows] *= forward_factors(index[rows], self.split[rows], self.dividend[rows])
        return index

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, features: Sequence[str], *, volatility: str = "volatility_ewma") -> Panel:
        """Make a panel of a frame with ``symbol``, ``available_at``, features, prices, volatility, split and dividend.

        Parameters
        ----------
        frame
            One row a symbol and bar, in any order.
        features
            Columns that become ``values``, in this order.
        volatility
            Column of the EWMA volatility of 100 x log returns (percent per bar).
        """
        ordered = frame.sort_values(["symbol", "available_at"], kind="stable")
        symbols = tuple(sorted(ordered["symbol"].unique()))
        instants = ordered["available_at"].dt.tz_convert("UTC").dt.tz_localize(None)
        return cls(
            symbols=symbols,
            features=tuple(features),
            symbol=np.searchsorted(np.array(symbols), ordered["symbol"].to_numpy(str)).astype(np.int32),
            available_at=instants.to_numpy("datetime64[us]").astype(np.int64),
            values=np.ascontiguousarray(ordered[list(features)], np.float32),
            prices=np.ascontiguousarray(ordered[list(PRICES)], np.float64),
            volatility=ordered[volatility].to_numpy(np.float64),
            split=ordered["split"].to_numpy(np.float64),
            dividend=ordered["dividend"].to_numpy(np.float64),
        )

    @classmethod
    def concatenate(cls, panels: Sequence[Panel]) -> Panel:
        """Join panels with the same features into one, sorted again by symbol and time.

        Raises
        ------
        PanelError
            Where there is none, features differ, or a bar is in two of them.
        """
        if not panels:
            raise PanelError("no panel was given: materialize the panel of at least one year first")
        features = panels[0].features
        for other in panels[1:]:
            if other.features != features:
                raise PanelError(f"panels hold different features, {features} and {other.features}: rebuild all years")
        if len(panels) == 1:
            return panels[0]
        symbols = tuple(sorted({name for panel in panels for name in panel.symbols}))
        positions = {name: i for i, name in enumerate(symbols)}
        symbol = np.concatenate([np.array([positions[name] for name in p.symbols], np.int32)[p.symbol] for p in panels])
        available_at = np.concatenate([p.available_at for p in panels])
        order = np.lexsort((available_at, symbol))
        renumbered = {"symbol": symbol, "available_at": available_at}
        arrays = {
            name: renumbered[name] if name in renumbered else np.concatenate([getattr(p, name) for p in panels])
            for name in _LAYOUT
        }
        return cls(symbols=symbols, features=features, **{name: array[order] for name, array in arrays.items()})

    def select(self, features: Sequence[str]) -> Panel:
        """Keep these columns of ``values``, in this order; this panel itself where they are all it has.

        Only their values are copied; everything else stays where it is, in the mapped file as well.

        Raises
        ------
        PanelError
            Where it lacks one of them.
        """
        names = tuple(features)
        if names == self.features:
            return self
        missing = [name for name in names if name not in self.features]
        if missing:
            raise PanelError(
                f"the panel lacks {missing}, it holds {list(self.features)}: materialize features and panel of its "
                "years again, or choose another set of features"
            )
        values = np.asarray(self.values).take([self.features.index(name) for name in names], axis=1)
        return dataclasses.replace(self, features=names, values=values)

    def before(self, instant: datetime | None) -> Panel:
        """Keep the rows known strictly before an instant; this panel itself where that is all of them."""
        if instant is None:
            return self
        known = self.available_at < microseconds(instant)
        if known.all():
            return self
        arrays = {name: getattr(self, name)[known] for name in _LAYOUT}
        return Panel(symbols=self.symbols, features=self.features, **arrays)

    def sha256(self) -> str:
        """Return the SHA-256 (hex) of names and rows, independent of how the file lays them out."""
        digest = hashlib.sha256(json.dumps([self.symbols, self.features]).encode())
        for name, (_, dtype) in _LAYOUT.items():
            digest.update(np.ascontiguousarray(getattr(self, name), dtype=dtype).data)
        return digest.hexdigest()

    def write(self, path: Path) -> str:
        """Write one safetensors file, atomically, and return the ``sha256`` of its content.

        A reader sees the old file or the new one, never a part; equal panels make equal files, byte by byte.
        """
        content = self.sha256()
        header: dict[str, Any] = {
            "__metadata__": {
                "panel": json.dumps({"symbols": self.symbols, "features": self.features, "sha256": content})
            }
        }
        offset = 0
        # Wide types first, so that every array begins at a multiple of its item size.
        names = sorted(_LAYOUT, key=lambda name: -np.dtype(_LAYOUT[name][1]).itemsize)
        for name in names:
            array = getattr(self, name)
            header[name] = {
                "dtype": _LAYOUT[name][0],
                "shape": list(array.shape),
                "data_offsets": [offset, offset + array.nbytes],
            }
            offset += array.nbytes
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            file.write(struct.pack("<Q", len(encoded)) + encoded)
            for name in names:
                file.write(np.ascontiguousarray(getattr(self, name), dtype=_LAYOUT[name][1]).tobytes())
        return content

    @classmethod
    def open(
        cls, paths: Path | Sequence[Path], before: datetime | None = None, features: Sequence[str] | None = None
    ) -> Panel:
        """Open the panel in these files; a single one is mapped into memory, several are joined.

        Parameters
        ----------
        paths
            Files that ``write`` made, in any order.
        before
            Rows available at or after this instant (UTC) are never returned; None returns all.
        features
            Columns of ``values`` to read, in this order; None reads all.

        Raises
        ------
        PanelError
            Where a file is missing or damaged (it is named), lacks a column, or the files do not fit each other.
        """
        chosen = [paths] if isinstance(paths, Path) else list(paths)
        return cls.concatenate([_map(path, features).before(before) for path in chosen])


def _map(path: Path, features: Sequence[str] | None) -> Panel:
    if not path.is_file():
        raise PanelError(f"panel {path} is missing: materialize the panel of that year")
    damaged = f"panel {path} is damaged: delete it and materialize the panel of that year again"
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise PanelError(f"{damaged} (the file ends within its header)")
        encoded = file.read(length)
    try:
        header = json.loads(encoded)
        about = json.loads(header["__metadata__"]["panel"])
        arrays = {}
        for name, (_, dtype) in _LAYOUT.items():
            entry = header[name]
            begin, end = entry["data_offsets"]
            if end + 8 + length > size:
                raise PanelError(f"{damaged} (the file ends within {name!r})")
            shape = tuple(entry["shape"])
            if end == begin:
                arrays[name] = np.empty(shape, dtype)
            else:
                arrays[name] = np.memmap(path, dtype=dtype, mode="r", offset=8 + length + begin, shape=shape)
        panel = Panel(symbols=tuple(about["symbols"]), features=tuple(about["features"]), **arrays)
    except (ValueError, KeyError, TypeError) as error:
        raise PanelError(f"{damaged} ({type(error).__name__}: {error})") from error
    if panel.sha256() != about["sha256"]:
        raise PanelError(f"{damaged} (its rows are not those that were written)")
    if features is None:
        return panel
    try:
        return panel.select(features)
    except PanelError as error:
        raise PanelError(f"{path}: {error}") from error
