"""What must be remembered of series to go on with their features: averages, last rows, ages; and its file.

Nothing is computed here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.config import DataSettings
from atlas_pipeline.features.kernels.inputs import INPUTS, NEVER
from atlas_pipeline.features.registry import REGISTRY
from atlas_pipeline.whole_file import whole_file

Series = tuple[str, str]


class SeriesMemoryError(RuntimeError):
    """A memory is damaged, or of features other than today's."""


@dataclass(frozen=True, eq=False)
class SeriesMemory:
    """The memory of series after their last bars, in the order of ``series``.

    Attributes
    ----------
    series
        Symbol and interval of each.
    volatility_decay
        Decay of ``volatility_ewma``, with which they go on.
    last_bar
        int64 [series], instant of the last bar, microseconds since 1970 UTC.
    last_priced
        int64 [series], instant of the last bar that had a close: actions before it were booked.
    last_close
        float64 [series], that close, as traded.
    ages
        int32 [series, 4], consecutive rows up to the last with usable prices, open, volume and volatility index.
    averages
        float64 [series, ``kernels.series.STATE``], the recurrences and the forward factors.
    history
        float64 [series, inputs, ``kernels.series.HISTORY``], the last rows, splits and dividends taken out.
    """

    series: tuple[Series, ...]
    volatility_decay: float
    last_bar: NDArray[np.int64]
    last_priced: NDArray[np.int64]
    last_close: NDArray[np.float64]
    ages: NDArray[np.int32]
    averages: NDArray[np.float64]
    history: NDArray[np.float64]

    @classmethod
    def empty(
        cls, series: Sequence[Series] = (), volatility_decay: float = DataSettings.volatility_decay
    ) -> SeriesMemory:
        """Memory of series of which no bar was seen."""
        from atlas_pipeline.features.kernels.series import HISTORY, STATE

        count = len(series)
        return cls(
            tuple(series),
            volatility_decay,
            np.full(count, NEVER),
            np.full(count, NEVER),
            np.full(count, np.nan),
            np.zeros((count, 4), np.int32),
            np.zeros((count, STATE)),
            np.zeros((count, len(INPUTS), HISTORY)),
        )

    def of(self, series: Sequence[Series]) -> SeriesMemory:
        """Copy the memory of these series, in this order; empty for those that are not known."""
        position = {each: number for number, each in enumerate(self.series)}
        chosen = SeriesMemory.empty(series, self.volatility_decay)
        known = [number for number, each in enumerate(chosen.series) if each in position]
        source = [position[chosen.series[number]] for number in known]
        for name in _ARRAYS:
            getattr(chosen, name)[known] = getattr(self, name)[source]
        return chosen

    def updated(self, other: SeriesMemory) -> SeriesMemory:
        """Return this memory with the other's, of the same decay, in place of its own; what only one knows is kept."""
        series = sorted({*self.series, *other.series})
        joined, theirs = self.of(series), other.of(series)
        replaced = set(other.series)
        known = [number for number, each in enumerate(series) if each in replaced]
        for name in _ARRAYS:
            getattr(joined, name)[known] = getattr(theirs, name)[known]
        return joined

    def write(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        from safetensors.numpy import save_file

        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        about = {
            "series": json.dumps(self.series),
            "volatility_decay": repr(self.volatility_decay),
            "features": _DECLARED,
            "sha256": _digest(self.series, self.volatility_decay, arrays),
        }
        with whole_file(path) as temporary:
            save_file(arrays, temporary, about)

    @classmethod
    def read(cls, path: Path) -> SeriesMemory:
        """Read what ``write`` wrote.

        Raises
        ------
        SeriesMemoryError
            Where the file is damaged, or belongs to other features.
        """
        from safetensors import SafetensorError, safe_open

        remedy = "delete the file; features are then computed from the first bar on"
        try:
            with safe_open(path, "numpy") as file:
                about = file.metadata()
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
            series = tuple((str(symbol), str(interval)) for symbol, interval in json.loads(about["series"]))
            decay, features, digest = float(about["volatility_decay"]), about["features"], about["sha256"]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise SeriesMemoryError(f"memory {path} is damaged ({type(error).__name__}: {error}): {remedy}") from error
        if _digest(series, decay, arrays) != digest:
            raise SeriesMemoryError(f"memory {path} is not what was written: {remedy}")
        today = cls.empty(series)
        if features != _DECLARED or any(arrays[name].shape != getattr(today, name).shape for name in _ARRAYS):
            raise SeriesMemoryError(f"memory {path} is of other features than today's: {remedy}")
        return cls(series, decay, **arrays)


_ARRAYS = tuple(field.name for field in fields(SeriesMemory) if field.name not in ("series", "volatility_decay"))
_DECLARED = hashlib.sha256(
    json.dumps([[f.name, f.formula, f.warmup, dict(f.parameters)] for f in REGISTRY.values()]).encode()
).hexdigest()


def _digest(series: Sequence[Series], decay: float, arrays: dict[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256(json.dumps([decay, *map(list, series)]).encode())
    for name in _ARRAYS:
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
