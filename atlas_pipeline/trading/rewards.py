"""The reward: the differential Sharpe ratio of the net return, as one compiled formula and as a class.

What the documents of origin have wrong, and what stands here instead:

* they subtract costs from the reward although the return is already net of them; costs enter once, in the
  return;
* their derivative is written ``(B*dA - 0.5*A*(r^2 - B)) / sigma^3`` without saying at which time ``A``, ``B``
  and ``sigma`` are taken; all three are those **before** the return is taken in, otherwise the return judges
  itself;
* ``sigma^3`` vanishes while nothing is traded, and the quotient explodes on the first trade afterwards; the
  deviation has a floor here, placed where the formula stays meaningful below it (`differential_sharpe`).

Costs, fills and equity are the simulator's; nothing of them is here.
"""

from __future__ import annotations

import math

from atlas_pipeline.compiled import compiled


@compiled
def differential_sharpe(net_return: float, mean: float, second_moment: float, minimum_deviation: float) -> float:
    """Differentiate the exponentially weighted Sharpe ratio by its adaptation rate, at rate zero.

    Moody and Saffell (2001), "Learning to trade via direct reinforcement", IEEE Transactions on Neural
    Networks 12(4), sec. II-D::

        D_t = (B_{t-1} (R_t - A_{t-1}) - A_{t-1} (R_t^2 - B_{t-1}) / 2) / (B_{t-1} - A_{t-1}^2)^(3/2)

    which is, with ``z = (R_t - A_{t-1}) / sigma`` and ``S = A_{t-1} / sigma``, the same as ``z + S (1 - z^2)
    / 2``. The second form is computed: with a floor on ``sigma`` it tends to ``R_t / minimum_deviation`` when
    the past is flat, where the first would tend to zero or explode.

    Parameters
    ----------
    net_return : float
        Return of the step, costs inside, as a fraction.
    mean, second_moment : float
        Moments A and B before this return.
    minimum_deviation : float
        Floor of sigma, a fraction like the return; positive.

    Returns
    -------
    float
        D_t, without a unit.
    """
    deviation = math.sqrt(max(second_moment - mean * mean, minimum_deviation * minimum_deviation))
    surprise = (net_return - mean) / deviation
    return surprise + 0.5 * mean / deviation * (1.0 - surprise * surprise)


@compiled
def updated_moment(moment: float, value: float, eta: float) -> float:
    """Take one more value into an exponentially weighted moment: ``moment + eta * (value - moment)``."""
    return moment + eta * (value - moment)


class DifferentialSharpeRatio:
    """Online differential Sharpe ratio of a stream of net returns.

    Parameters
    ----------
    eta : float
        Adaptation rate of both moments, between 0 and 1.
    warmup : int
        Number of first returns for which the reward is zero.
    second_moment : float
        B before the first return, a squared fraction. The squared volatility of the market lets the moments
        start at the right scale; with 0 they need some ``1 / eta`` returns to get there.
    minimum_deviation : float
        Floor of the deviation, a fraction.

    Attributes
    ----------
    mean, second_moment : float
        The moments A and B: part of the state of whoever is rewarded by this.
    steps : int
        Returns taken in so far.
    """

    def __init__(
        self,
        eta: float = 0.01,
        warmup: int = 20,
        second_moment: float = 0.0,
        minimum_deviation: float = 1e-4,
    ) -> None:
        if not 0 < eta < 1:
            raise ValueError(f"eta={eta!r}: use a number between 0 and 1")
        if minimum_deviation <= 0:
            raise ValueError(f"minimum_deviation={minimum_deviation!r}: use a positive fraction, such as 1e-4")
        self.eta = eta
        self.warmup = warmup
        self.minimum_deviation = minimum_deviation
        self._opening = second_moment
        self.reset()

    def reset(self) -> None:
        """Forget every return."""
        self.mean = 0.0
        self.second_moment = self._opening
        self.steps = 0

    @property
    def sharpe(self) -> float:
        """The moving Sharpe ratio A / sqrt(B - A^2) per step, sigma not below its floor."""
        variance = max(self.second_moment - self.mean**2, self.minimum_deviation**2)
        return self.mean / math.sqrt(variance)

    def update(self, net_return: float) -> float:
        """Take in one net return and reward it.

        Parameters
        ----------
        net_return : float
            As a fraction, costs inside.

        Returns
        -------
        float
            D_t; zero for the first ``warmup`` returns.

        Raises
        ------
        ValueError
            Where the return is not finite.
        """
        if not math.isfinite(net_return):
            raise ValueError(f"net_return={net_return!r} is not finite: drop or repair the bar it comes from")
        reward = 0.0
        if self.steps >= self.warmup:
            reward = differential_sharpe(net_return, self.mean, self.second_moment, self.minimum_deviation)
        self.mean = updated_moment(self.mean, net_return, self.eta)
        self.second_moment = updated_moment(self.second_moment, net_return**2, self.eta)
        self.steps += 1
        return reward
