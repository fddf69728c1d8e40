"""Bars, quotes, option chains and corporate actions from the user's own CSV or Parquet files.

Files are read as they are and labelled (``file_rows``); what is wrong with a row is for validation to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS, empty
from atlas_pipeline.market.errors import NotOfferedError, SourceUnavailableError
from atlas_pipeline.market.file_rows import STARTS_AT, FileSet, read_rows
from atlas_pipeline.market.option_chain import OPTION_CHAIN
from atlas_pipeline.market.price_factors import PRICE_FACTOR, SPLIT_FACTOR, actions_from_factors, known_at_the_opening
from atlas_pipeline.market.quarantine import conform
from atlas_pipeline.market.quotes import QUOTES
from atlas_pipeline.market.sources import RecordedSource, require_known, within
from atlas_pipeline.market.table import Table

Files = FileSet | Mapping[str, Any]

_FACTORS = (PRICE_FACTOR, SPLIT_FACTOR)


class FilesSource(RecordedSource):
    """The user's own files, each kind of data read once, when it is first asked for.

    Parameters
    ----------
    bars, quotes, option_chain, corporate_actions
        Which files hold which kind of data, as a ``FileSet``, a mapping of its fields, or several of them where files
        differ in columns or calendar; a kind without files is not offered. Bars with ``price_factor`` or
        ``split_factor`` bring corporate actions with them (see ``price_factors``); a row of ``corporate_actions``
        (``symbol``, ``session``, ``kind``, ``value``) takes the place of one deduced for its symbol, day and kind.
    """

    name = "files"
    live = False

    def __init__(
        self,
        bars: Files | Sequence[Files] | None = None,
        quotes: Files | Sequence[Files] | None = None,
        option_chain: Files | Sequence[Files] | None = None,
        corporate_actions: Files | Sequence[Files] | None = None,
    ) -> None:
        given = {"bars": bars, "quotes": quotes, "option chains": option_chain, "corporate actions": corporate_actions}
        self._sets = {what: _file_sets(files) for what, files in given.items()}
        if not (self._sets["bars"] or self._sets["quotes"] or self._sets["option chains"]):
            raise ValueError("a files source needs at least one FileSet: bars, quotes or option_chain")

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols in the files of bars; where there are none, those in the quotes or chains. Sorted."""
        return self._main.symbols

    def range(self) -> tuple[datetime, datetime]:
        """Instants of the first and the last bar; where there are none, of quotes or chains."""
        return self._main.range

    def bars(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Read bars with ``start <= available_at < end``; ``volume`` is null where no column holds it.

        Raises
        ------
        UnknownSymbolError
            Where no file has a symbol.
        SourceUnavailableError
            Where a file is missing, unreadable or lacks a column.
        NotOfferedError
            Where the source has no files of bars.
        """
        return self._bars[0].select(symbols, start, end)

    def quotes(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Read quotes with ``start <= available_at < end``; raises as ``bars`` does."""
        return self._quotes.select(symbols, start, end)

    def option_chain(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Chains of the underlyings with ``start <= available_at < end``; raises as ``bars`` does."""
        return self._option_chain.select(symbols, start, end)

    def corporate_actions(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Splits and dividends with an ex-date in the range: those in files, and those the bars' factors tell."""
        require_known(self.name, symbols, self.symbols)
        return within(self._actions[self._actions["symbol"].isin(list(symbols))], start, end)

    @property
    def _main(self) -> _RowsBySymbol:
        if self._sets["bars"]:
            return self._bars[0]
        return self._quotes if self._sets["quotes"] else self._option_chain

    @cached_property
    def _bars(self) -> tuple[_RowsBySymbol, pd.DataFrame]:
        """The bars, and the corporate actions that their factors tell."""
        frames, actions = [], [empty(CORPORATE_ACTIONS)]
        for files in self._required("bars"):
            rows = read_rows(files, BARS, extra=(*_FACTORS, STARTS_AT))
            factors = [name for name in _FACTORS if name in rows]
            if factors:
                actions.append(actions_from_factors(rows, files.calendar))
            frames.append(rows.drop(columns=factors))
        return _RowsBySymbol(self.name, frames, BARS), pd.concat(actions, ignore_index=True)

    @cached_property
    def _quotes(self) -> _RowsBySymbol:
        return _RowsBySymbol(self.name, [read_rows(files, QUOTES) for files in self._required("quotes")], QUOTES)

    @cached_property
    def _option_chain(self) -> _RowsBySymbol:
        found = [read_rows(files, OPTION_CHAIN) for files in self._required("option chains")]
        return _RowsBySymbol(self.name, found, OPTION_CHAIN)

    @cached_property
    def _actions(self) -> pd.DataFrame:
        stated = [_stated_actions(files) for files in self._sets["corporate actions"]]
        deduced = self._bars[1] if self._sets["bars"] else empty(CORPORATE_ACTIONS)
        # Each file's rows stay, even where two contradict one another: that is for validation to say.
        told = pd.concat([empty(CORPORATE_ACTIONS), *stated], ignore_index=True)
        key = list(CORPORATE_ACTIONS.key)
        known = pd.MultiIndex.from_frame(deduced[key]).isin(pd.MultiIndex.from_frame(told[key]))
        return pd.concat([told, deduced[~known]], ignore_index=True).sort_values(key, kind="stable", ignore_index=True)

    def _required(self, what: str) -> list[FileSet]:
        if not self._sets[what]:
            raise NotOfferedError(self.name, what, f"give the source a FileSet for {what}")
        return self._sets[what]


class _RowsBySymbol:
    """Rows in memory, found by symbol and time without a look at the others."""

    def __init__(self, source: str, frames: list[pd.DataFrame], table: Table) -> None:
        self._source, self._table = source, table
        rows = frames[0] if len(frames) == 1 else _united(frames)
        codes = rows[table.key[0]].cat.codes.to_numpy()
        if (codes[1:] < codes[:-1]).any():
            rows = rows.take(np.argsort(codes, kind="stable"))
            codes = rows[table.key[0]].cat.codes.to_numpy()
        names = rows[table.key[0]].cat.categories
        starts = np.searchsorted(codes, np.arange(len(names) + 1))
        self._rows = rows
        self._instants = rows["available_at"].dt.tz_localize(None).to_numpy()
        falls = np.flatnonzero(self._instants[1:] < self._instants[:-1]) + 1
        inside = falls[~np.isin(falls, starts)]
        self._in_order = np.diff(np.searchsorted(inside, starts)) == 0
        self._spans = {str(name): (starts[code], starts[code + 1]) for code, name in enumerate(names)}
        self._codes = {str(name): code for code, name in enumerate(names)}
        self.symbols = tuple(sorted(name for name, (first, last) in self._spans.items() if first < last))

    @cached_property
    def range(self) -> tuple[datetime, datetime]:
        instants = self._rows["available_at"]
        return instants.min().to_pydatetime(), instants.max().to_pydatetime()

    def select(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        require_known(self._source, symbols, self.symbols)
        positions = [self._positions(symbol, start, end) for symbol in symbols]
        found = self._rows.iloc[np.concatenate([np.empty(0, np.int64), *positions])]
        texts = {name: "str" for name in found.columns if isinstance(found[name].dtype, pd.CategoricalDtype)}
        return conform(within(found.astype(texts), start, end), self._table)

    def _positions(self, symbol: str, start: datetime, end: datetime) -> np.ndarray:
        first, last = self._spans[symbol]
        if not self._in_order[self._codes[symbol]]:
            return np.arange(first, last)
        own = self._instants[first:last]
        after = np.searchsorted(own, _in_utc(start), side="left")
        before = np.searchsorted(own, _in_utc(end), side="right")
        return np.arange(first + after, first + before)


def _in_utc(instant: datetime) -> np.datetime64:
    stamp = pd.Timestamp(instant)
    return np.datetime64((stamp.tz_convert(None) if stamp.tzinfo else stamp).to_pydatetime(warn=False), "us")


def _file_sets(files: Files | Sequence[Files] | None) -> list[FileSet]:
    if files is None:
        return []
    several = [files] if isinstance(files, FileSet | Mapping) else list(files)
    return [FileSet(**each) if isinstance(each, Mapping) else each for each in several]


def _united(frames: list[pd.DataFrame]) -> pd.DataFrame:
    rows = pd.concat([frame.astype(dict.fromkeys(frame.select_dtypes("category"), "str")) for frame in frames])
    return rows.astype(dict.fromkeys(rows.select_dtypes("str"), "category")).reset_index(drop=True)


def _stated_actions(files: FileSet) -> pd.DataFrame:
    rows = read_rows(files, CORPORATE_ACTIONS).drop(columns="available_at", errors="ignore")
    rows = rows.astype({"symbol": "str", "kind": "str"})
    rows["kind"] = rows["kind"].str.lower()
    wrong = ~rows["kind"].isin(["split", "dividend"]) | ~(rows["value"] > 0) | np.isinf(rows["value"])
    if wrong.any():
        first = rows[wrong].iloc[0]
        raise SourceUnavailableError(
            f"{files.path}: {first['symbol']} has on {first['session'].date()} the action {first['kind']!r} of "
            f"{first['value']}: write split or dividend, and a value above 0"
        )
    return known_at_the_opening(rows, files.calendar)
