"""A last word on every order: position limit, stop loss and take profit.

What the documents of origin have wrong, and what stands here instead:

* they add the action's code to the position, so that SELL counts as +2: it vetoes sales that are allowed and
  lets a short position grow without bound; here BUY is one unit up, SELL one unit down;
* they check the limit first, so that a stop can be overruled by it; here a stop comes first;
* their stop buys when there is no position at all; here it needs one, and closes it a unit at a time without
  ever passing zero;
* they forbid an order that brings a position beyond the limit back toward it; here what reduces a position is
  allowed.
"""

from __future__ import annotations

import math

from atlas_pipeline.trading.layout import ACTIONS, BUY, HOLD, SELL


class RiskManager:
    """Vets orders, one at a time.

    Parameters
    ----------
    max_position : float
        Largest size of a position, long or short, in units of equity.
    stop_loss, take_profit : float
        Loss and gain of the open position, as fractions, beyond which it is closed.
    """

    def __init__(self, max_position: float = 1.0, stop_loss: float = 0.02, take_profit: float = 0.05) -> None:
        for name, value in (
            ("max_position", max_position),
            ("stop_loss", stop_loss),
            ("take_profit", take_profit),
        ):
            if not value > 0:
                raise ValueError(f"{name}={value!r}: use a positive number")
        self.max_position = max_position
        self.stop_loss = stop_loss
        self.take_profit = take_profit

    def validate_action(self, action: int, current_position: float, pnl: float) -> int:
        """Return the action that may be sent.

        Parameters
        ----------
        action : int
            0 HOLD, 1 BUY, 2 SELL.
        current_position : float
            Whole units of equity, negative when short.
        pnl : float
            Unrealised return of the open position, as a fraction.

        Returns
        -------
        int
            The action that reduces the position by one unit where a stop is reached, HOLD where the action
            would pass the limit, otherwise ``action``.

        Raises
        ------
        ValueError
            Where the action is none of the three, the position is not a whole number, or ``pnl`` is not
            finite.
        """
        if action not in range(len(ACTIONS)):
            raise ValueError(f"action={action!r}: use 0 (HOLD), 1 (BUY) or 2 (SELL)")
        if not float(current_position).is_integer():
            raise ValueError(
                f"current_position={current_position!r}: a unit order would reverse a fraction of a unit; "
                "pass whole units, and not the exposure the position has drifted to"
            )
        if not math.isfinite(pnl):
            raise ValueError(f"pnl={pnl!r} is not finite: a stop cannot be judged without a price")
        if current_position != 0 and (pnl < -self.stop_loss or pnl > self.take_profit):
            return SELL if current_position > 0 else BUY
        after = current_position + {HOLD: 0, BUY: 1, SELL: -1}[action]
        if abs(after) > self.max_position and abs(after) > abs(current_position):
            return HOLD
        return action
