"""Out-of-sample predictions of heads that say no density, as rows beside the climatology's; scores and reliability.

Densities are ``forecast_table``'s. A row's loss is the head's own (``models.head``), in its own unit: nats of a
probability, multiples or squares of the trailing volatility.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from atlas_pipeline.models.head import PredictionHead
from atlas_pipeline.models.quantiles import LEVELS
from atlas_pipeline.models.tasks import ThresholdHead
from atlas_pipeline.training.bundle import TrainedForecaster
from atlas_pipeline.training.calibration import Array
from atlas_pipeline.training.comparison import diebold_mariano
from atlas_pipeline.training.forecast import Forecasts
from atlas_pipeline.training.prediction_schema import PREDICTIONS
from atlas_pipeline.windows.index import density_unit, labels
from atlas_pipeline.windows.panel import Panel

if TYPE_CHECKING:
    import pandas as pd

LOSSES = ("log_loss", "brier_score", "pinball_loss", "huber_loss", "mae")
"""Scores of which less is better and nought is perfect."""


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

    The skill of a loss is its reduction, one minus its ratio to the climatology's; other scores have none. The p-value
    is Diebold and Mariano's of the head's own loss: that the two are equally good.

    Parameters
    ----------
    predictions
        Rows of ``PREDICTIONS`` of one fold.

    Returns
    -------
    pandas.DataFrame
        ``symbol``, ``horizon``, ``head``, ``score``, ``value``, ``baseline``, ``skill``, ``p_value``, ``bars``.
    """
    import pandas as pd

    columns = ["symbol", "horizon", "head", "score", "value", "baseline", "skill", "p_value", "bars"]
    rows = []
    for (symbol, horizon, head), own in predictions.groupby(["symbol", "horizon", "head"]):
        values, baselines = _scores(own, "value", "loss"), _scores(own, "baseline", "baseline_loss")
        by_bar = own.groupby("available_at")[["loss", "baseline_loss"]].mean()
        test = diebold_mariano((by_bar["loss"] - by_bar["baseline_loss"]).to_numpy(), int(own["horizon"].iloc[0]))
        for number, (name, value) in enumerate(values.items()):
            skill = 1 - value / baselines[name] if name in LOSSES else np.nan
            p_value = np.nan if number else test.p_value
            rows.append((symbol, horizon, head, name, value, baselines[name], skill, p_value, len(by_bar)))
    return pd.DataFrame(rows, columns=columns)


def reliability_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Say what came where this was said, with 95% intervals.

    Of probabilities: how often the event came, by tenths of the probability's distribution. Of quantiles: how often the
    outcome lay at or below them, by level. Of locations: the mean outcome by tenths. The intervals of shares are
    Wilson's (Journal of the American Statistical Association 22, 1927, p. 209), those of means Student's; both take
    bars as independent, which those of a longer horizon, and several series at an instant, are not.

    Parameters
    ----------
    predictions
        Rows of ``PREDICTIONS`` of one head.

    Returns
    -------
    pandas.DataFrame
        ``quantity`` (probability, quantile or location), ``horizon``, ``said``, ``observed``, ``low``, ``high`` (1, or
        percent of locations), ``outcomes``.
    """
    import pandas as pd
    from scipy import stats

    rows = []
    quantity = predictions["quantity"].iloc[0].partition("_")[0]
    for horizon, own in predictions.groupby("horizon"):
        for said, came in _by_level(own) if quantity == "quantile" else _by_tenth(own):
            mean, n = float(came.mean()), len(came)
            if quantity == "location":
                interval = stats.ttest_1samp(came, 0.0).confidence_interval(0.95)
            else:
                interval = stats.binomtest(round(float(came.sum())), n).proportion_ci(0.95, method="wilson")
            rows.append((quantity, horizon, said, mean, float(interval.low), float(interval.high), n))
    return pd.DataFrame(rows, columns=["quantity", "horizon", "said", "observed", "low", "high", "outcomes"])


def _by_level(own: pd.DataFrame) -> Iterator[tuple[float, Array]]:
    for level in LEVELS:
        rows = own[own["quantity"] == f"quantile_{level}"]
        yield level, np.asarray(rows["outcome"] <= rows["value"], np.float64)


def _by_tenth(own: pd.DataFrame) -> Iterator[tuple[float, Array]]:
    ordered = own.sort_values("value", kind="stable")
    # Two outcomes at least, for an interval.
    for part in np.array_split(np.arange(len(own)), max(1, min(10, len(own) // 2))):
        rows = ordered.iloc[part]
        yield float(rows["value"].mean()), rows["outcome"].to_numpy(float)


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
