"""The promotion gate: whether a candidate adapter becomes the champion, from shadow results alone.

Where shadow results come from is ``shadow``; what carries a verdict out is the registry's. The gate is asked
again as steps accumulate, so its error over a candidate's whole life is larger than that of one look; the
maximum number of steps bounds the looks, and every decision keeps its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from atlas_pipeline.config import Config

REPLICATIONS = 2_000
# After this many times ``gate_minimum_steps`` without superiority a candidate is refused: by then the
# adapter is several updates old, and a difference still hidden is smaller than what a newer candidate may
# bring.
MAXIMUM_WAIT = 5
# A drawdown is materially worse where it exceeds the champion's by half and by two points of equity besides:
# the first alone would refuse over trifles, the second alone would ignore a small book doubling its risk.
DRAWDOWN_RATIO = 1.5
DRAWDOWN_MARGIN = 0.02


@dataclass(frozen=True)
class ShadowResult:
    """What one contender would have earned after the candidate was created.

    Attributes
    ----------
    net_returns
        float64 [bars], net of costs, mean over symbols and sampled paths, as a fraction; NaN where its
        outputs were.
    max_drawdown
        Mean over accounts of the largest fall from a peak, a fraction of the peak, at least 0.
    turnover
        Mean traded notional per bar over equity.
    steps
        Environment steps seen: bars times symbols.
    """

    net_returns: np.ndarray
    max_drawdown: float
    turnover: float
    steps: int

    @property
    def total_return(self) -> float:
        """Compound net return over all bars, a fraction."""
        return float(np.prod(1.0 + self.net_returns) - 1.0)


@dataclass(frozen=True)
class GateDecision:
    """A verdict, the numbers it rests on, and the sentence that says why."""

    verdict: Literal["promote", "refuse", "wait"]
    numbers: dict[str, float]
    reason: str


def difference_bounds(differences: np.ndarray, confidence: float, seed: int) -> np.ndarray:
    """One-sided lower and upper bounds of mean differences, by the stationary bootstrap.

    Politis and Romano, "The Stationary Bootstrap", JASA 89 (1994); block length by Politis and White,
    Econometric Reviews 23 (2004), with the correction of Patton, Politis and White (2009); percentile bounds.

    Parameters
    ----------
    differences
        float64 [bars, pairs], paired differences in time order; all pairs are resampled alike.
    confidence
        Of each one-sided bound.
    seed
        The same seed gives the same bounds.

    Returns
    -------
    float64 [2, pairs]
        Lower and upper bounds.
    """
    from arch.bootstrap import StationaryBootstrap, optimal_block_length

    varying = differences.std(axis=0) > 0
    if not varying.any():
        return np.repeat(differences.mean(axis=0)[None], 2, axis=0)
    lengths = optimal_block_length(differences[:, varying])["stationary"].to_numpy()
    block = int(np.clip(np.ceil(np.nanmax(lengths)), 1, max(1, len(differences) // 2)))
    bootstrap = StationaryBootstrap(block, differences, seed=np.random.default_rng(seed))
    means = bootstrap.apply(lambda rows: rows.mean(axis=0), REPLICATIONS)
    return np.quantile(means, [1 - confidence, confidence], axis=0)


def judge(
    candidate: ShadowResult, champion: ShadowResult, base: ShadowResult, config: Config, seed: int = 0
) -> GateDecision:
    """Promote, refuse or wait.

    Refused: outputs that are not finite (at once); and from ``gate_minimum_steps`` on, a mean net return
    below the champion's or the frozen base's beyond the ``gate_confidence`` bound, a materially larger
    drawdown, or no superiority after ``MAXIMUM_WAIT`` times that many steps. Promoted: a lower bound over
    the champion above zero.

    Parameters
    ----------
    candidate, champion, base
        Results over the same bars with common random numbers.
    config
        ``gate_minimum_steps`` and ``gate_confidence``.
    seed
        Of the bootstrap.

    Raises
    ------
    ValueError
        Where the three are not of the same bars, or the champion's or base's returns are not finite.
    """
    contenders = {"candidate": candidate, "champion": champion, "base": base}
    counts = {name: (len(result.net_returns), result.steps) for name, result in contenders.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"shadow results of different bars and steps {counts}; run all three on the same bars")
    for name in ("champion", "base"):
        if not np.isfinite(contenders[name].net_returns).all():
            raise ValueError(f"the shadow result of the {name} is not finite; repair what is live before judging")
    steps, minimum = candidate.steps, config.gate_minimum_steps
    numbers = {"steps": float(steps), "bars": float(len(candidate.net_returns))}
    for name, result in contenders.items():
        numbers[f"{name}_total_return"] = result.total_return
        numbers[f"{name}_max_drawdown"] = result.max_drawdown
        numbers[f"{name}_turnover"] = result.turnover
    if not np.isfinite(candidate.net_returns).all():
        return GateDecision("refuse", numbers, "the candidate's outputs are not finite")
    if steps < minimum or len(candidate.net_returns) < 2:
        return GateDecision("wait", numbers, f"{steps} shadow steps of the {minimum} needed")

    differences = np.column_stack(
        [candidate.net_returns - champion.net_returns, candidate.net_returns - base.net_returns]
    )
    lower, upper = difference_bounds(differences, config.gate_confidence, seed)
    for column, name in enumerate(("champion", "base")):
        numbers[f"over_{name}_mean"] = float(differences[:, column].mean())
        numbers[f"over_{name}_lower"] = float(lower[column])
        numbers[f"over_{name}_upper"] = float(upper[column])
    percent = f"{config.gate_confidence:.0%}"

    for column, name in enumerate(("champion", "base")):
        if upper[column] < 0:
            bound = f"{percent} upper bound {upper[column]:.2e} of the difference"
            reason = f"earns less a bar than the {name}: {bound}"
            return GateDecision("refuse", numbers, reason)
    limit = max(DRAWDOWN_RATIO * champion.max_drawdown, champion.max_drawdown + DRAWDOWN_MARGIN)
    if candidate.max_drawdown > limit:
        reason = f"drawdown {candidate.max_drawdown:.1%} above {limit:.1%}, what the champion's allows"
        return GateDecision("refuse", numbers, reason)
    if lower[0] > 0:
        reason = f"earns more a bar than the champion: {percent} lower bound {lower[0]:.2e} of the difference"
        return GateDecision("promote", numbers, reason)
    if steps >= MAXIMUM_WAIT * minimum:
        return GateDecision("refuse", numbers, f"no superiority over the champion in {steps} steps")
    reason = f"undecided after {steps} steps: the difference is between {lower[0]:.2e} and {upper[0]:.2e} a bar"
    return GateDecision("wait", numbers, reason)
