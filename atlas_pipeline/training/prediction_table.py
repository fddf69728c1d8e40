"""Out-of-sample predictions of heads that say no density, as rows beside the climatology's, and their scores.

Densities are ``forecast_table``'s. A row's loss is the head's own (``models.head``), in its own unit: nats of a
probability, multiples or squares of the trailing volatility.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from atlas_pipeline.models.head import PredictionHead
from atlas_pipeline.models.quantiles import LEVELS
from atlas_pipeline.models.tasks import ThresholdHead
from atlas_pipeline.training.bundle import TrainedForecaster
from atlas_pipeline.training.calibration import Array
from atlas_pipeline.training.forecast import Forecasts
from atlas_pipeline.training.prediction_schema import PREDICTIONS
from atlas_pipeline.windows.index import density_unit, labels
from atlas_pipeline.windows.panel import Panel

if TYPE_CHECKING:
    import pandas as pd


def prediction_rows(
    fold: str, panel: Panel, ends: NDArray[np.int64], trained: TrainedForecaster, said: Forecasts
) -> pd.DataFrame:
    """Rows of ``PREDICTIONS``.

    Parameters
    ----------
    fold
        Year that is judged.
    panel
        Where symbols, instants and outcomes stand.
    ends
        Rows of the panel that were predicted from, int64 [n], each with a label at the longest horizon.
    trained
        Who predicted.
    said
        What it predicted from these rows.

    Raises
    ------
    ValueError
        Where its head says densities.
    """
    import pandas as pd

    horizons, head = trained.config.horizons, trained.model.head
    if not isinstance(head, PredictionHead):
        raise ValueError(f"Config.head={trained.config.head!r} says densities: they are rows of FORECASTS")
    unit = np.stack([density_unit(panel, ends, each) for each in horizons], axis=1)
    target = np.stack([labels(panel, ends, each) for each in horizons], axis=1) / unit
    scale = unit[:, :, None] if head.in_returns else np.ones((1, 1, 1))
    values = said.values
    baselines = np.broadcast_to(np.array(trained.metrics["climatology"]) * scale, values.shape)

    def losses(found: Array) -> Array:
        result: Array = head.value_losses(*map(torch.from_numpy, (found / scale, target, unit))).numpy()
        return result

    loss, baseline_loss = losses(values), losses(baselines)
    outcome = target * unit
    if isinstance(head, ThresholdHead):
        outcome = head.label(torch.from_numpy(target), torch.from_numpy(unit)).numpy()
    frames = [
        pd.DataFrame(
            {
                "fold": fold,
                "symbol": np.array(panel.symbols)[panel.symbol[ends]],
                "available_at": pd.to_datetime(panel.available_at[ends], unit="us", utc=True).as_unit("us"),
                "horizon": horizon,
                "head": trained.config.head,
                "quantity": quantity,
                "value": values[:, j, i],
                "baseline": baselines[:, j, i],
                "outcome": outcome[:, j],
                "loss": loss[:, j, i],
                "baseline_loss": baseline_loss[:, j, i],
            }
        )
        for i, quantity in enumerate(said.quantities)
        for j, horizon in enumerate(horizons)
    ]
    return pd.concat(frames, ignore_index=True)[list(PREDICTIONS.names)]


def prediction_scores(predictions: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of each head on each symbol and horizon, beside the climatology's.

    Of an event: ``log_loss`` (nats), ``brier_score``, ``accuracy`` of saying what is likelier, and ``auc``, the
    probability that an event was given a higher probability than a non-event (Hanley and McNeil, Radiology 143, 1982;
    NaN where there are not both). Of quantiles: ``pinball_loss`` (units of volatility), the mean over the levels, and
    ``coverage_50``, ``_80``, ``_95`` (shares). Of a location: ``huber_loss`` (units of volatility) and ``mae``
    (percent).

    Parameters
    ----------
    predictions
        Rows of ``PREDICTIONS`` of one fold.

    Returns
    -------
    pandas.DataFrame
        ``symbol``, ``horizon``, ``head``, ``score``, ``value``, ``baseline``, ``bars``.
    """
    import pandas as pd

    columns = ["symbol", "horizon", "head", "score", "value", "baseline", "bars"]
    rows = []
    for (symbol, horizon, head), own in predictions.groupby(["symbol", "horizon", "head"]):
        values, baselines = _scores(own, "value", "loss"), _scores(own, "baseline", "baseline_loss")
        bars = own["available_at"].nunique()
        rows += [(symbol, horizon, head, name, values[name], baselines[name], bars) for name in values]
    return pd.DataFrame(rows, columns=columns)


def _scores(own: pd.DataFrame, value: str, loss: str) -> dict[str, float]:
    mean = float(own[loss].mean())
    said, outcome = own[value].to_numpy(float), own["outcome"].to_numpy(float)
    quantities = set(own["quantity"])
    if quantities == {"probability"}:
        return {
            "log_loss": mean,
            "brier_score": float(np.mean((said - outcome) ** 2)),
            "accuracy": float(np.mean((said > 0.5) == (outcome > 0.5))),
            "auc": _auc(said, outcome > 0.5),
        }
    if quantities == {"location"}:
        return {"huber_loss": mean, "mae": float(np.mean(np.abs(said - outcome)))}
    by_level = own.pivot(index="available_at", columns="quantity", values=[value, "outcome"])
    result = {"pinball_loss": mean}
    for lowest, highest in zip(LEVELS, LEVELS[::-1], strict=True):
        if lowest < highest:
            low, high = f"quantile_{lowest}", f"quantile_{highest}"
            within = by_level["outcome"][low].between(by_level[value][low], by_level[value][high])
            result[f"coverage_{100 * (highest - lowest):.0f}"] = float(within.mean())
    return result


def _auc(said: Array, event: NDArray[np.bool_]) -> float:
    from scipy import stats

    events = int(event.sum())
    others = len(event) - events
    if not events or not others:
        return float("nan")
    # Mann and Whitney's U: ties count a half.
    return float((stats.rankdata(said)[event].sum() - events * (events + 1) / 2) / (events * others))
