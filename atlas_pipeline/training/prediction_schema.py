"""Table of predictions of heads that say no density, apart from what fills it: declaring it imports no torch.

Densities are in ``forecast_table``'s.
"""

from __future__ import annotations

from atlas_pipeline.market.table import Column, Table

PREDICTIONS = Table(
    name="predictions",
    description="Out-of-sample predictions of each fold's year by heads that say no density, beside the climatology of "
    "the fold's training labels",
    columns=(
        Column("fold", "string", "year the forecaster is judged on"),
        Column("symbol", "string", "instrument"),
        Column("available_at", "timestamp", "bar that the prediction is made at", unit="UTC"),
        Column("horizon", "int64", "bars until the outcome is known", unit="bars", minimum=1),
        Column("head", "string", "what is predicted, as Config.head names it"),
        Column("quantity", "string", "probability, quantile_ and its level, or location"),
        Column("value", "float64", "what is predicted: a probability, or a return in percent"),
        Column("baseline", "float64", "the same of who knows the training labels and nothing of the bar"),
        Column("outcome", "float64", "what followed: 1 or 0 of an event, or the return in percent"),
        Column("loss", "float64", "log loss in nats; pinball or Huber loss in units of volatility", minimum=0.0),
        Column("baseline_loss", "float64", "the same loss of the baseline", minimum=0.0),
    ),
    key=("fold", "symbol", "available_at", "horizon", "head", "quantity"),
    partition_by="fold",
    time="available_at",
)
