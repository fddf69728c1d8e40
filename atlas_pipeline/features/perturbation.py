"""How the causality audit alters what lies after an instant: bars, corporate actions and the volatility index.

Every function leaves what was known at the instant as it is. Where the instants lie, and what is compared, stands in
``causality``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import CORPORATE_ACTIONS
from atlas_pipeline.market.quarantine import month_of

CONTINUATION_INSTANTS = 32
_MICROSECOND = pd.Timedelta(microseconds=1)


@dataclass(frozen=True)
class Inputs:
    """What a feature function is given; None for what it does not take."""

    bars: pd.DataFrame
    actions: pd.DataFrame | None = None
    volatility_index: pd.DataFrame | None = None

    def given_to(self, function: Callable[..., pd.DataFrame]) -> pd.DataFrame:
        """Call a feature function with copies, so that it may write into them."""
        actions = () if self.actions is None else (self.actions.copy(),)
        index = {} if self.volatility_index is None else {"volatility_index": self.volatility_index.copy()}
        return function(self.bars.copy(), *actions, **index)


def cut_off(inputs: Inputs, cut: pd.Timestamp, random: np.random.Generator) -> Inputs:
    """Remove the future."""
    others = (inputs.actions, inputs.volatility_index)
    known = (None if frame is None else frame[frame["available_at"] <= cut] for frame in others)
    return Inputs(inputs.bars[inputs.bars["available_at"] <= cut], *known)


def changed(inputs: Inputs, cut: pd.Timestamp, random: np.random.Generator) -> Inputs:
    """Multiply every future row by a factor of its own, some by a thousand, and add unannounced corporate actions."""
    bars = _changed_rows(inputs.bars, cut, random)
    index = None if inputs.volatility_index is None else _changed_rows(inputs.volatility_index, cut, random)
    return Inputs(bars, _changed_actions(inputs.actions, bars, cut, random), index)


def permuted(inputs: Inputs, cut: pd.Timestamp, random: np.random.Generator) -> Inputs:
    """Let the future rows of each frame exchange their values."""
    bars = _permuted_rows(inputs.bars, cut, random)
    index = None if inputs.volatility_index is None else _permuted_rows(inputs.volatility_index, cut, random)
    actions = None if inputs.actions is None else _payable(_permuted_rows(inputs.actions, cut, random), bars, cut)
    return Inputs(bars, actions, index)


def continued(inputs: Inputs, cut: pd.Timestamp, random: np.random.Generator) -> Inputs:
    """Replace the future by another: the last bars once more, some weeks later, with other values.

    It gives the newest bar of all, which has no future, one to be compared with.
    """
    known = cut_off(inputs, cut, random)
    bars = pd.concat([known.bars, _changed_rows(_later(known.bars, cut), cut, random)], ignore_index=True)
    index = known.volatility_index
    if index is not None and len(index):
        later = _changed_rows(index.tail(1).assign(available_at=cut + _MICROSECOND), cut, random)
        index = pd.concat([index, later.astype(index.dtypes.to_dict())], ignore_index=True)
    return Inputs(bars, _changed_actions(known.actions, bars, cut, random), index)


Perturbation = Callable[[Inputs, pd.Timestamp, np.random.Generator], Inputs]

PERTURBATIONS: dict[str, Perturbation] = {"cut off": cut_off, "changed": changed, "permuted": permuted}


def _changed_rows(frame: pd.DataFrame, cut: pd.Timestamp, random: np.random.Generator) -> pd.DataFrame:
    future = (frame["available_at"] > cut).to_numpy()
    rows = int(future.sum())
    # One factor a row for all its columns keeps a bar a bar; now and then one that no minimum or maximum survives.
    factor = np.exp(random.normal(0.0, 0.3, rows))
    factor[random.random(rows) < 0.01] *= 1000.0
    factor[-1:] *= 1000.0
    return _with_future(frame, future, lambda values: values * factor[:, None])


def _permuted_rows(frame: pd.DataFrame, cut: pd.Timestamp, random: np.random.Generator) -> pd.DataFrame:
    future = (frame["available_at"] > cut).to_numpy()
    order = random.permutation(int(future.sum()))
    return _with_future(frame, future, lambda values: values[order])


def _with_future(frame: pd.DataFrame, future: np.ndarray, alter: Callable[[np.ndarray], np.ndarray]) -> pd.DataFrame:
    """Alter the numbers of the future rows."""
    numbers = frame.select_dtypes("number")
    values = numbers.to_numpy(dtype="float64", copy=True)
    values[future] = alter(values[future])
    return frame.assign(**{str(name): values[:, column] for column, name in enumerate(numbers.columns)})


def _later(bars: pd.DataFrame, cut: pd.Timestamp) -> pd.DataFrame:
    """The bars of the last instants, moved by whole weeks to after the cut."""
    instants = np.sort(bars["available_at"].unique())
    begin = pd.Timestamp(instants[-min(CONTINUATION_INSTANTS, len(instants))])
    moved = bars[bars["available_at"] >= begin]
    weeks = pd.Timedelta(weeks=(cut - begin) // pd.Timedelta(weeks=1) + 1)
    times = {str(name): moved[name] + weeks for name in moved.select_dtypes(["datetime", "datetimetz"])}
    moved = moved.assign(**times)
    return moved.assign(month=month_of(moved["available_at"])) if "month" in moved.columns else moved


def _changed_actions(
    actions: pd.DataFrame | None, bars: pd.DataFrame, cut: pd.Timestamp, random: np.random.Generator
) -> pd.DataFrame | None:
    """Change the values of the future actions, and let every symbol split and pay right after the cut."""
    if actions is None:
        return None
    future = actions["available_at"] > cut
    altered = actions.assign(value=actions["value"].where(~future, actions["value"] * random.uniform(0.2, 5.0)))
    instant = cut + _MICROSECOND
    session = instant.tz_localize(None).normalize()
    unannounced = [
        (symbol, instant, session, kind, value, f"{session:%Y-%m}")
        for symbol in bars["symbol"].unique()
        for kind, value in (("split", 7.0), ("dividend", random.uniform(0.1, 10.0)))
    ]
    invented = pd.DataFrame(unannounced, columns=list(CORPORATE_ACTIONS.names)).astype(actions.dtypes.to_dict())
    return _payable(pd.concat([altered, invented], ignore_index=True), bars, cut)


def _payable(actions: pd.DataFrame, bars: pd.DataFrame, cut: pd.Timestamp) -> pd.DataFrame:
    """Keep the future dividends below what the shares are worth: a function may refuse impossible ones.

    A price may have fallen by two splits before a dividend is compared with it, where both fall on one bar.
    """
    future = actions["available_at"] > cut
    prices = bars["close"].where(bars["close"] > 0).groupby(bars["symbol"]).min()
    splits = actions["value"].where(future & (actions["kind"] == "split")).groupby(actions["symbol"]).max()
    lowest, splitting = (actions["symbol"].map(own).astype("float64") for own in (prices, splits))
    limit = 0.1 * lowest / splitting.fillna(1.0).clip(lower=1.0) ** 2
    excessive = future & (actions["kind"] == "dividend") & (actions["value"] > limit)
    return actions.assign(value=actions["value"].where(~excessive, limit))
