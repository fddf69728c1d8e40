"""What is served: a frozen base, an adapter in its weights, and the heads that act on its embedding.

The forecast in the policy's context is the frozen base's: the adapter is learned from rewards alone, which
say nothing about densities. Which versions are live is the registry's knowledge; folders and files are given
here.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atlas_pipeline.adaptation.lora import (
    Adapter,
    AdapterBaseMismatchError,
    empty_adapter,
    load_adapter,
    merged,
)
from atlas_pipeline.config import Config, Hardware
from atlas_pipeline.market.instants import microseconds
from atlas_pipeline.models.actor_critic import ActorCritic
from atlas_pipeline.trading.market_path import MarketPath, market_paths
from atlas_pipeline.trading.policy_bundle import load_policy
from atlas_pipeline.training.bundle import TrainedForecaster
from atlas_pipeline.training.checkpoint import tensors_digest
from atlas_pipeline.training.forecast import forecast
from atlas_pipeline.windows.index import window_ends
from atlas_pipeline.windows.panel import Panel

# Every batch has this size, the last one filled up: the same window then gives the same bits whatever it is
# computed with, and a ledger that was stopped goes on exactly.
BATCH = 16


@dataclass(frozen=True, eq=False)
class LivePolicy:
    """A policy that can trade: base, adapter and heads that belong together.

    Attributes
    ----------
    forecaster
        The frozen base.
    actor_critic
        Acts on the adapted embedding and the account's context.
    adapter
        Learned on this base with these heads.
    version
        What the registry calls it.

    Raises
    ------
    AdapterBaseMismatchError
        Where the adapter was learned on another base or with other heads.
    """

    forecaster: TrainedForecaster
    actor_critic: ActorCritic
    adapter: Adapter
    version: str

    def __post_init__(self) -> None:
        self.adapter.require_base(self.forecaster.base_hash)
        if self.adapter.policy_sha256 != self.policy_sha256:
            raise AdapterBaseMismatchError(
                f"adapter {self.adapter.sha256[:16]} was learned with policy "
                f"{self.adapter.policy_sha256[:16]}, not with {self.policy_sha256[:16]}: "
                "load the policy it names, or start with an empty adapter"
            )

    @classmethod
    def load(cls, forecaster: Path, policy: Path, adapter: Path | None, version: str) -> LivePolicy:
        """Read base, heads and adapter.

        Parameters
        ----------
        forecaster
            Folder of the forecaster's bundle.
        policy
            File of the actor-critic.
        adapter
            File of the adapter; None serves the base itself.
        version
            What the registry calls it.

        Raises
        ------
        CorruptCheckpointError
            Where a file is missing or damaged.
        AdapterBaseMismatchError
            Where the three do not belong together.
        """
        trained = TrainedForecaster.load(forecaster)
        actor_critic = load_policy(policy)
        if adapter is None:
            return cls.of_base(trained, actor_critic, trained.config, version)
        return cls(trained, actor_critic, load_adapter(adapter, trained.base_hash), version)

    @classmethod
    def of_base(
        cls, forecaster: TrainedForecaster, actor_critic: ActorCritic, config: Config, version: str
    ) -> LivePolicy:
        """Serve a base with the empty adapter, with which every base starts."""
        policy_sha256 = tensors_digest(actor_critic.state_dict())
        adapter = empty_adapter(forecaster.base_hash, policy_sha256, config)
        return cls(forecaster, actor_critic, adapter, version)

    @property
    def base_sha256(self) -> str:
        """Of the forecaster's weights."""
        return self.forecaster.base_hash

    @property
    def features(self) -> tuple[str, ...]:
        """Columns of a panel that the base reads."""
        return self.forecaster.scaler.features

    @cached_property
    def policy_sha256(self) -> str:
        """Of the actor-critic's weights."""
        return tensors_digest(self.actor_critic.state_dict())

    @cached_property
    def adapted(self) -> TrainedForecaster:
        """The forecaster with the adapter in its weights; the base itself where the adapter is empty."""
        if not self.adapter.tensors:
            return self.forecaster
        model = copy.copy(self.forecaster.model)
        model._modules = {
            **self.forecaster.model._modules,
            "backbone": merged(self.forecaster.model.backbone, self.adapter),
        }
        return dataclasses.replace(self.forecaster, model=model)

    def with_adapter(self, adapter: Adapter, version: str) -> LivePolicy:
        """Serve another adapter on the same base and heads."""
        return LivePolicy(self.forecaster, self.actor_critic, adapter, version)

    def market_paths(
        self,
        panel: Panel,
        start: datetime | None,
        end: datetime | None,
        hardware: Hardware,
        of_base: list[MarketPath] | None = None,
    ) -> list[MarketPath]:
        """Observe all bars in [start, end), one path a symbol.

        A split or dividend in the bars from ``start`` to a path's first, which end no window, falls on that first bar.
        Each window ends at its own bar, so nothing here depends on later bars, however many are computed at
        once.

        Parameters
        ----------
        panel
            Holds the features the base reads; reaches ``seq_length`` bars back before ``start``.
        start, end
            Instants (UTC); None is unbounded.
        hardware
            Device, precision and threads; the batch size is ``BATCH``.
        of_base
            What the same base with an empty adapter observed on the same bars, where that is known already: its
            forecasts are then not made again.

        Raises
        ------
        FloatingPointError
            Where the network's outputs are not finite.
        """
        if of_base is not None and not self.adapter.tensors:
            return of_base
        ends = window_ends(panel.select(self.features), self.forecaster.config.seq_length)
        instants = panel.available_at[ends]
        chosen = np.ones(len(ends), bool)
        if start is not None:
            chosen &= instants >= microseconds(start)
        if end is not None:
            chosen &= instants < microseconds(end)
        ends = ends[chosen]
        if not len(ends):
            return []
        frozen = None
        if of_base is not None:
            frozen = (
                np.concatenate([path.forecast_location for path in of_base]),
                np.concatenate([path.forecast_scale for path in of_base]),
            )
        embeddings, location, scale = self.observe(panel, ends, hardware, frozen)
        held_from = None if start is None else microseconds(start)
        return market_paths(panel, ends, embeddings, location, scale, held_from)

    def observe(
        self,
        panel: Panel,
        ends: npt.NDArray[np.int64],
        hardware: Hardware,
        frozen: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Observe the windows that end at these rows; ``frozen`` is the base's location and scale, where known.

        Returns
        -------
        embeddings, location, scale
            Adapted, float32 [n, d_model]; of the base's forecast, float64 [n], percent.

        Raises
        ------
        FloatingPointError
            Where one of them is not finite.
        """
        count = len(ends)
        filled = np.concatenate([ends, np.repeat(ends[-1:], -count % BATCH)])
        fixed = dataclasses.replace(hardware, batch_size=BATCH)
        if frozen is None:
            said = forecast(panel, self.forecaster, filled, fixed)
            embeddings, location, scale = said.embeddings, said.density.mean, said.density.scale
        else:
            location, scale = frozen
        if frozen is not None or self.adapter.tensors:
            embeddings = forecast(panel, self.adapted, filled, fixed).embeddings
        embeddings, location, scale = embeddings[:count], location[:count], scale[:count]
        named: dict[str, npt.NDArray[np.floating]] = {
            "embedding": embeddings,
            "forecast location": location,
            "forecast scale": scale,
        }
        for name, array in named.items():
            if not np.isfinite(array).all():
                raise FloatingPointError(
                    f"the {name} of model {self.version!r} is not finite: refuse its adapter "
                    f"{self.adapter.sha256[:16]}, or restore its base"
                )
        return embeddings, location, scale
