"""Scalers of model inputs: fitted on a fold's training rows only, carried with the model, refused to other folds.

How scaled rows become the windows that a network reads is in ``scaled_windows``.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.market.instants import microseconds
from atlas_pipeline.windows.folds import Split
from atlas_pipeline.windows.panel import Panel

if TYPE_CHECKING:
    import torch

# The interquartile range of a standard normal variable, so that scaled Gaussian inputs have unit variance.
NORMAL_IQR = 1.3489795003921634
# Inputs are float32, of seven digits: what spreads less than this, for its size, spreads by rounding alone.
FLAT = 1e-6


class ScalerLeakError(RuntimeError):
    """A scaler was to learn from rows that are not its fold's training rows, or to serve another fold."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Scaler(ABC):
    """What was learned of the inputs of one fold's training rows.

    Attributes
    ----------
    features
        Inputs, in the order of the columns.
    fold
        The fold it was fitted for; it serves this one only.
    train_end
        All rows it was fitted on are known strictly before this instant (UTC).
    lowest, highest
        Least and greatest value in those rows, float32 [features].
    """

    kind: ClassVar[str]

    features: tuple[str, ...]
    fold: int
    train_end: datetime
    lowest: NDArray[np.float32]
    highest: NDArray[np.float32]

    @classmethod
    def fit(cls, panel: Panel, split: Split) -> Self:
        """Fit on a panel that holds no row at or after the end of the split's training rows.

        Parameters
        ----------
        panel
            Training rows; take them with ``panel.before(split.train_end)``. Missing values are left out.
        split
            The fold's split.

        Raises
        ------
        ScalerLeakError
            Where a row is not a training row, or a feature has no value at all.
        """
        late = np.flatnonzero(panel.available_at >= microseconds(split.train_end))
        if late.size:
            instant = datetime.fromtimestamp(int(panel.available_at[late[0]]) / 1e6, tz=UTC)
            raise ScalerLeakError(
                f"{late.size} of {len(panel)} rows are not training rows of fold {split.fold}, the first at "
                f"{instant:%Y-%m-%d %H:%M}; training rows end before {split.train_end:%Y-%m-%d %H:%M}: "
                "fit on panel.before(split.train_end)"
            )
        known = np.isfinite(panel.values)
        empty = [name for place, name in enumerate(panel.features) if not known[:, place].any()]
        if empty:
            raise ScalerLeakError(
                f"features {empty} have no value before {split.train_end:%Y-%m-%d}: choose a set of features without "
                "them, or ingest what they are made of"
            )
        values = np.where(known, panel.values, np.float32(np.nan))
        return cls(
            features=panel.features,
            fold=split.fold,
            train_end=split.train_end,
            lowest=np.nanmin(values, axis=0),
            highest=np.nanmax(values, axis=0),
            **cls._learned(values),
        )

    @classmethod
    def _learned(cls, values: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        """What this kind learns beyond the range."""
        return {}

    def transform(self, values: NDArray[np.float32], fold: int) -> NDArray[np.float32]:
        """Scale rows on behalf of a fold.

        Parameters
        ----------
        values
            float32 [rows, features].
        fold
            The fold of the model that reads them.

        Returns
        -------
        float32 [rows, features]
            A copy; NaN stays NaN.

        Raises
        ------
        ScalerLeakError
            Where the scaler was fitted for another fold.
        """
        if fold != self.fold:
            raise ScalerLeakError(
                f"the scaler was fitted for fold {self.fold}, on rows before {self.train_end:%Y-%m-%d}, and is asked "
                f"to scale rows for fold {fold}: fit one on the training rows of fold {fold}"
            )
        scaled = np.empty(values.shape, np.float32)
        for place, column in enumerate(values.T):
            scaled[:, place] = self._scaled(np.asarray(column, np.float64), place)
        return scaled

    @abstractmethod
    def _scaled(self, column: NDArray[np.float64], place: int) -> NDArray[np.float64]:
        """One column, scaled."""

    def normalize(self, windows: torch.Tensor) -> torch.Tensor:
        """Normalise gathered windows, float32 [n, seq_length, features]; only ``InstanceScaler`` changes them."""
        return windows

    def outside(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Flag values beyond what was seen in training, bool [rows, features]; a missing one is not beyond it."""
        return (values < self.lowest) | (values > self.highest)

    def outside_share(self, values: NDArray[np.float32]) -> dict[str, float]:
        """Share of each feature's known values that ``outside`` flags; NaN for a feature that has none."""
        known = np.isfinite(values).sum(axis=0)
        flagged = self.outside(values).sum(axis=0)
        return {
            name: float(count / total) if total else float("nan")
            for name, count, total in zip(self.features, flagged, known, strict=True)
        }

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the arrays and a JSON record that ``restore`` makes the same scaler of."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        rest = {name: value for name, value in values.items() if name not in arrays}
        return arrays, {**rest, "kind": self.kind, "train_end": self.train_end.isoformat()}


@dataclass(frozen=True, eq=False, kw_only=True)
class RobustScaler(Scaler):
    """Centres by the median, divides by the interquartile range over 1.349, cuts to [-clip, clip].

    Quantiles, because inputs of markets have tails that would carry a mean and a standard deviation away
    (Huber and Ronchetti, Robust Statistics, 2nd ed., 2009, ch. 5). ``centre`` and ``scale`` are float64 [features].
    """

    kind: ClassVar[str] = "robust"

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    clip: float = 8.0

    @classmethod
    def _learned(cls, values: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        low, centre, high = np.nanquantile(values.astype(np.float64), (0.25, 0.5, 0.75), axis=0)
        spread = (high - low) / NORMAL_IQR
        # A feature that hardly moves is centred only; dividing by zero would make it infinite.
        moves = spread > FLAT * np.maximum(np.abs(low), np.abs(high))
        return {"centre": centre, "scale": np.where(moves, spread, 1.0)}

    def _scaled(self, column: NDArray[np.float64], place: int) -> NDArray[np.float64]:
        return np.clip((column - self.centre[place]) / self.scale[place], -self.clip, self.clip)


@dataclass(frozen=True, eq=False, kw_only=True)
class MinMaxScaler(Scaler):
    """Maps the training range to [0, 1] and cuts what is beyond it; a constant becomes 0, as in scikit-learn."""

    kind: ClassVar[str] = "min_max"

    def _scaled(self, column: NDArray[np.float64], place: int) -> NDArray[np.float64]:
        lowest = np.float64(self.lowest[place])
        width = np.float64(self.highest[place]) - lowest
        return np.clip((column - lowest) / (width if width > 0.0 else 1.0), 0.0, 1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class InstanceScaler(Scaler):
    """Normalises each window by its own mean and deviation; of training it keeps the range, to flag what is beyond.

    The first half of RevIN (Kim et al., Reversible Instance Normalization, ICLR 2022, eq. 1 and 2). The other half,
    which puts mean and deviation back into the output, has no place here: densities are multiples of the trailing
    volatility. Nor has the learned affine map: the network's first layer is one. A window's values are within
    √(seq_length − 1); a feature that is constant in it is 0.
    """

    kind: ClassVar[str] = "instance"

    def _scaled(self, column: NDArray[np.float64], place: int) -> NDArray[np.float64]:
        return column

    def normalize(self, windows: torch.Tensor) -> torch.Tensor:
        """Normalise each feature of each window, float32 [n, seq_length, features]."""
        size = windows.abs().amax(dim=1, keepdim=True)
        # Of size one, so that squares of tiny or huge values neither vanish nor overflow.
        values = windows / size.masked_fill(size == 0, 1.0)
        centred = values - values.mean(dim=1, keepdim=True)
        deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
        return (centred / deviation).masked_fill(deviation <= FLAT, 0.0)


SCALERS: dict[str, type[Scaler]] = {kind.kind: kind for kind in (RobustScaler, MinMaxScaler, InstanceScaler)}
"""Kinds of scaler by the name that ``Config.scaler`` gives them."""


def restore(arrays: Mapping[str, NDArray[Any]], record: Mapping[str, Any]) -> Scaler:
    """Make the scaler again whose ``state`` this is.

    Raises
    ------
    ValueError
        Where the record names no known kind, or does not fit it.
    """
    values: dict[str, Any] = {**arrays, **record}
    kind = values.pop("kind", None)
    if kind not in SCALERS:
        raise ValueError(f"there is no scaler of kind {kind!r}, only {', '.join(SCALERS)}")
    made = SCALERS[kind]
    expected = {field.name for field in dataclasses.fields(made)}
    if expected != values.keys():
        raise ValueError(f"a scaler of kind {kind!r} is made of {sorted(expected)}, not of {sorted(values)}")
    values["features"] = tuple(values["features"])
    values["train_end"] = datetime.fromisoformat(values["train_end"])
    return made(**values)
