"""A policy beside the baselines that it has to beat, on the same bars, at the same costs."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from atlas_pipeline.config import Config
from atlas_pipeline.market.instants import microseconds
from atlas_pipeline.models.actor_critic import ActorCritic
from atlas_pipeline.trading.backtest import Track, buy_and_hold, momentum, trade_policy
from atlas_pipeline.trading.market_path import MarketPath


def during(path: MarketPath, start: datetime, end: datetime) -> MarketPath:
    """The bars of a path with ``start <= available_at < end``, as views."""
    first, last = np.searchsorted(path.available_at, [microseconds(start), microseconds(end)])
    return path.between(int(first), int(last))


def compare(
    model: ActorCritic, paths: list[MarketPath], config: Config, start: datetime, end: datetime
) -> dict[str, list[Track]]:
    """Trade the bars of a period by every strategy, one account a symbol.

    Parameters
    ----------
    model
        The policy; traded by its likeliest actions (``policy``) and by sampled ones (``policy_sampled``).
    paths
        One a symbol, reaching back before ``start`` as far as momentum looks.
    config
        Costs, bounds, fill and seed.
    start, end
        The period judged, half open.

    Returns
    -------
    dict
        Strategy to its tracks, one a symbol.

    Raises
    ------
    ValueError
        Where the period has fewer than two bars.
    """
    tracks: dict[str, list[Track]] = {"policy": [], "policy_sampled": [], "buy_and_hold": [], "momentum": []}
    for number, path in enumerate(paths):
        first, last = np.searchsorted(path.available_at, [microseconds(start), microseconds(end)])
        judged = path.between(int(first), int(last))
        tracks["policy"].append(trade_policy(model, judged, config))
        tracks["policy_sampled"].append(trade_policy(model, judged, config, seed=config.seed + number))
        tracks["buy_and_hold"].append(buy_and_hold(judged, config))
        tracks["momentum"].append(momentum(path.between(0, int(last)), config, int(first)))
    return tracks
