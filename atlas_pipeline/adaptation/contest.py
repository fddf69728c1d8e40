"""A candidate's contest: candidate, champion and frozen base in shadow on the same bars, and the gate's verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from atlas_pipeline.adaptation.gate import GateDecision, ShadowResult, judge
from atlas_pipeline.adaptation.lora import empty_adapter
from atlas_pipeline.adaptation.serving import LivePolicy
from atlas_pipeline.adaptation.shadow import broken, shadow
from atlas_pipeline.config import Config, Hardware
from atlas_pipeline.trading.market_path import MarketPath
from atlas_pipeline.windows.panel import Panel


@dataclass(frozen=True, eq=False)
class Contest:
    """A verdict, the shadow results it rests on by contender, and the instants of their bars (int64 microseconds)."""

    decision: GateDecision
    results: Mapping[str, ShadowResult]
    instants: Any


def contest(
    candidate: LivePolicy,
    champion: LivePolicy,
    panel: Panel,
    created_at: datetime,
    end: datetime,
    config: Config,
    hardware: Hardware,
) -> Contest:
    """Judge a candidate on the bars after its creation.

    Parameters
    ----------
    candidate, champion
        Policies as they would trade; the frozen base is the candidate's own, with an empty adapter.
    panel
        Prices, and the features that either reads; of it bars in [created_at, end) are traded.
    created_at
        Bar at which the candidate was made (UTC); its own experience ends there.
    end
        First instant that is not traded any more.
    config
        Costs, bounds and the gate's settings.
    hardware
        How embeddings are computed.

    Raises
    ------
    ValueError
        Where fewer than two bars have passed.
    """
    frozen = empty_adapter(candidate.base_sha256, candidate.policy_sha256, config)
    contenders = {
        "base": candidate.with_adapter(frozen, candidate.version),
        "champion": champion,
        "candidate": candidate,
    }
    paths: dict[str, list[MarketPath] | None] = {}
    for name, policy in contenders.items():
        try:
            # The base's forward pass is the larger part of the cost, and most contenders stand on the same one.
            shared = paths["base"] if policy.base_sha256 == candidate.base_sha256 and "base" in paths else None
            paths[name] = policy.market_paths(panel, created_at, end, hardware, of_base=shared)
        except FloatingPointError:
            # A candidate that gives no numbers is refused by the gate; a champion that does is an outage.
            if name != "candidate":
                raise
            paths[name] = None
    paths = _on_common_bars(paths)
    seen = paths["champion"]
    if not seen or len(seen[0]) < 2:
        raise ValueError(f"no two bars from {created_at} to {end} to judge on: wait for more")
    seed = candidate.adapter.env_step
    results = {
        name: broken(seen) if own is None else shadow(contenders[name], own, config, seed)
        for name, own in paths.items()
    }
    decision = judge(results["candidate"], results["champion"], results["base"], config, seed)
    return Contest(decision, results, seen[0].available_at)


def _on_common_bars(paths: Mapping[str, list[MarketPath] | None]) -> dict[str, list[MarketPath] | None]:
    """Leave out the bars that not every contender sees of every symbol.

    A bar that validation refused must not stop the gate, nor one at which a feature that one contender reads has no
    value.
    """
    seen = [set(path.available_at.tolist()) for own in paths.values() for path in own or []]
    common = list(set.intersection(*seen)) if seen else []
    return {
        name: None if own is None else [path.only(np.isin(path.available_at, common)) for path in own]
        for name, own in paths.items()
    }
