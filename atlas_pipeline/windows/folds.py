"""Folds: which years a forecaster is fitted on, which a policy learns on, which both are judged on.

Purging and embargo as in López de Prado, Advances in Financial Machine Learning, 2018, sec. 7.4: no training
label reaches into validation, and ``horizon`` bars between them are used by neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from atlas_pipeline.config import Config
from atlas_pipeline.market.instants import EPOCH, microseconds
from atlas_pipeline.windows.index import label_instants, window_ends
from atlas_pipeline.windows.panel import Panel

# Fewer optimizer steps than this in an epoch, or fewer validation windows, and neither a fit nor its coverage
# means anything.
MINIMUM_STEPS = 4
MINIMUM_VALIDATION = 30


class InsufficientHistoryError(RuntimeError):
    """A fold has too few windows before it to fit a forecaster."""


@dataclass(frozen=True, eq=False)
class Split:
    """A fold's window ends (int64 row numbers) to train and to validate on; ``train_end`` bounds the training rows.

    Every training label is known before ``train_end``; every validation window ends at or after it.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    train_end: datetime
    fold: int


@dataclass(frozen=True)
class Fold:
    """One fold, named by the year it is judged on; all instants are UTC and all intervals half open."""

    year: int
    config: Config

    @property
    def fit_end(self) -> datetime:
        """Labels the forecaster is fitted on are known strictly before this instant."""
        return datetime(self.year - self.config.policy_years, 1, 1, tzinfo=UTC)

    @property
    def policy_start(self) -> datetime:
        """The policy learns on [policy_start, start): bars whose labels the forecaster has not seen."""
        return self.fit_end

    @property
    def start(self) -> datetime:
        """First instant of the year the fold is judged on."""
        return datetime(self.year, 1, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """First instant after the year the fold is judged on."""
        return datetime(self.year + 1, 1, 1, tzinfo=UTC)

    def window_ends(
        self, panel: Panel, start: datetime, end: datetime, horizon: int | None = None
    ) -> NDArray[np.int64]:
        """Find ends of windows with their last bar in [start, end); labelled where ``horizon`` is given."""
        ends = window_ends(panel, self.config.seq_length, horizon)
        instants = panel.available_at[ends]
        return ends[(instants >= microseconds(start)) & (instants < microseconds(end))]

    def split(self, panel: Panel) -> Split:
        """Split the windows before ``fit_end``: the newest share validates, purged and embargoed.

        Raises
        ------
        InsufficientHistoryError
            Where fewer windows are left than the fit needs, with the numbers and the remedy.
        """
        config = self.config
        horizon = config.longest_horizon
        ends = window_ends(panel, config.seq_length, horizon)
        ends = ends[label_instants(panel, ends, horizon) < microseconds(self.fit_end)]
        instants = np.sort(panel.available_at[ends])
        if instants.size == 0:
            raise self._insufficient(panel, 0, 0)
        boundary = int(instants[int(len(instants) * (1 - config.validation_fraction))])
        validation = ends[panel.available_at[ends] >= boundary]
        # The embargo of `horizon` bars comes on top of the label's own `horizon`.
        reach = np.minimum(ends + 2 * horizon, len(panel) - 1)
        purged = (panel.symbol[reach] == panel.symbol[ends]) & (panel.available_at[reach] < boundary)
        train = ends[purged]
        if len(train) < MINIMUM_STEPS * config.effective_batch_size or len(validation) < MINIMUM_VALIDATION:
            raise self._insufficient(panel, len(train), len(validation))
        return Split(train, validation, EPOCH + timedelta(microseconds=boundary), self.year)

    def _insufficient(self, panel: Panel, train: int, validation: int) -> InsufficientHistoryError:
        config = self.config
        needed = MINIMUM_STEPS * config.effective_batch_size
        if len(panel):
            first = EPOCH + timedelta(microseconds=int(panel.available_at.min()))
            history = f"{len(panel)} rows from {first:%Y-%m-%d}"
            known = np.isfinite(panel.values)
            absent = [name for place, name in enumerate(panel.features) if not known[:, place].any()]
            if absent:
                history += f", none with a value of {', '.join(absent)}"
        else:
            history = "no rows"
        return InsufficientHistoryError(
            f"fold {self.year}: {train} training and {validation} validation windows of {config.seq_length} "
            f"bars have labels before {self.fit_end:%Y-%m-%d} ({history}); {needed} and {MINIMUM_VALIDATION} "
            f"are needed ({MINIMUM_STEPS} effective batches of {config.effective_batch_size}). Choose a "
            f"later fold, ingest earlier bars, or reduce seq_length, policy_years ({config.policy_years}) or "
            "batch_size; where a feature has no value, choose another set of features"
        )
