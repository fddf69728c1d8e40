"""Which bars the features of some months are computed from: those since the last month whose memory was kept.

A month's memory is kept under a name made of all bars and actions up to its end. Where one of them was restated the
name is another, nothing is found, and the history is computed again. What is computed is ``features``' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from assets.ingestion import month_bounds
from atlas_pipeline.config import DataSettings, digest_of
from atlas_pipeline.features.kernels.inputs import NEVER
from atlas_pipeline.features.registry import FEATURES
from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS
from atlas_pipeline.market.instants import EPOCH
from resources.artifacts import Artifacts
from resources.lake import Lake
from resources.market import Market
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from atlas_pipeline.features.memory import SeriesMemory

FEATURES_VERSION = "4"
"""Of the features' code; raised when it would compute other numbers from the same bars."""
KEPT_MONTHS = 3
"""Newest months whose memory is kept: the month in progress goes on from the one before it, and that one, whose last
bars may come late, from the one before that."""
_MEMORY_FILE = "memory.safetensors"
_INDEX_REACH = timedelta(days=10)
_COLUMNS = [*BARS.key, "month", "open", "high", "low", "close", "volume"]


@dataclass(frozen=True)
class History:
    """Bars, actions and volatility index of one snapshot of the lake, and the memory of the bars before them.

    ``since`` is the month after which the bars begin, None where they are all there are; ``names`` are the digests that
    memories are kept under, by month.
    """

    memory: SeriesMemory
    since: str | None
    bars: pd.DataFrame
    actions: pd.DataFrame
    volatility_index: pd.DataFrame | None
    names: Mapping[str, str]


@dataclass(frozen=True)
class ComputedMonths:
    """Features of the bars of a history, with the ages of their inputs, and the newest months' memories."""

    frame: pd.DataFrame
    ages: NDArray[np.int32]
    memories: Mapping[str, SeriesMemory]


def read_history(lake: Lake, market: Market, artifacts: Artifacts, months: list[str]) -> History:
    """Read what the features of these months are computed from, as one snapshot of the lake holds it.

    Raises
    ------
    CorruptCheckpointError
        Where a kept memory is damaged.
    SeriesMemoryError
        Where it is of other features than today's.
    """
    from atlas_pipeline.features.memory import SeriesMemory

    snapshot = lake.snapshot()
    names = _names(lake, market, snapshot, months[-1])
    for month in sorted((month for month in names if month < months[0]), reverse=True):
        folder = artifacts.find("features", month, names[month])
        if folder is not None:
            memory = SeriesMemory.read(artifacts.verify(folder) / _MEMORY_FILE)
            return _read(lake, market, snapshot, months, names, month, memory)
    return _read(lake, market, snapshot, months, names, None, SeriesMemory.empty())


def read_all(lake: Lake, market: Market, months: list[str]) -> History:
    """Read all bars up to the end of these months."""
    from atlas_pipeline.features.memory import SeriesMemory

    return _read(lake, market, lake.snapshot(), months, {}, None, SeriesMemory.empty())


def _read(
    lake: Lake,
    market: Market,
    snapshot: int,
    months: list[str],
    names: Mapping[str, str],
    since: str | None,
    memory: SeriesMemory,
) -> History:
    start = EPOCH if since is None else month_bounds([since])[1]
    _, end = month_bounds(months)
    # What a series paid since its last close falls on its next, however long it was silent.
    priced = memory.last_priced[memory.last_priced > NEVER]
    booked = min(start, EPOCH + timedelta(microseconds=int(priced.min()))) if len(priced) else start
    bars = lake.read(BARS, columns=_COLUMNS, start=start, before=end, snapshot=snapshot)
    actions = lake.read(CORPORATE_ACTIONS, start=booked, before=end, snapshot=snapshot)
    index = None
    if market.volatility_index is not None:
        index = lake.read(
            BARS,
            columns=["available_at", "close"],
            start=max(start - _INDEX_REACH, EPOCH),
            before=end,
            snapshot=snapshot,
            where={"symbol": market.volatility_index, "interval": market.interval},
        )
        # The index is an input: nothing is forecast of it, and nobody can hold it.
        bars = bars[bars["symbol"] != market.volatility_index]
    return History(memory, since, bars, actions, index, names)


def compute_months(history: History, remembered: list[str]) -> ComputedMonths:
    """Compute the features of a history's bars, stopping at the ends of the months to be remembered."""
    from atlas_pipeline.features.compute import continue_features

    memory, frames, ages, memories = history.memory, [], [], {}
    month = history.bars["month"]
    begin = ""
    for end in [*sorted(remembered), "9999-99"]:
        own = history.bars[(month > begin) & (month <= end)]
        computed = continue_features(memory, own, history.actions, volatility_index=history.volatility_index)
        memory = memory.updated(computed.memory)
        frames.append(computed.frame)
        ages.append(computed.ages)
        memories[end] = memory
        begin = end
    del memories[begin]
    return ComputedMonths(pd.concat(frames, ignore_index=True), np.concatenate(ages), memories)


def to_remember(warehouse: Warehouse, history: History, months: list[str]) -> list[str]:
    """Months that are computed, have bars, and will be among the newest stored."""
    newest = sorted({*warehouse.partitions(FEATURES), *months})[-KEPT_MONTHS:]
    return [month for month in newest if month in history.names and month > (history.since or "")]


def keep_memories(
    artifacts: Artifacts, warehouse: Warehouse, computed: ComputedMonths, names: Mapping[str, str]
) -> None:
    """Publish the memories, once their features are stored, and remove those that nothing will go on from."""
    for month, memory in computed.memories.items():
        with artifacts.publish("features", month, names[month], {"code_version": FEATURES_VERSION}) as folder:
            memory.write(folder / _MEMORY_FILE)
    newest = set(sorted(warehouse.partitions(FEATURES))[-KEPT_MONTHS:])
    for folder in artifacts.kept("features"):
        month = folder.parent.name
        if month not in newest or folder.name != names.get(month, folder.name):
            artifacts.discard(folder)


def _names(lake: Lake, market: Market, snapshot: int, last: str) -> dict[str, str]:
    """Digest of all bars and actions up to the end of each month, and of what is made of them."""
    months = [month for month in sorted(lake.partitions(BARS, snapshot)) if month <= last]
    versions = [
        lake.data_versions(table, sorted({*months} & {*lake.partitions(table, snapshot)}), snapshot)
        for table in (BARS, CORPORATE_ACTIONS)
    ]
    names: dict[str, str] = {}
    digest = digest_of([FEATURES_VERSION, DataSettings.volatility_decay, market.volatility_index])
    for month in months:
        digest = names[month] = digest_of([digest, month, *(own.get(month) for own in versions)])
    return names
