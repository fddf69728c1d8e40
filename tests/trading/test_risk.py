from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_pipeline.trading.layout import BUY, HOLD, SELL
from atlas_pipeline.trading.risk import RiskManager


@pytest.mark.parametrize(
    ("action", "position", "pnl", "allowed"),
    [
        (SELL, 0, 0.0, SELL),  # one unit down, not two up
        (SELL, -1, 0.0, HOLD),
        (BUY, 1, 0.0, HOLD),
        (BUY, -1, 0.0, BUY),
        (SELL, 3, 0.0, SELL),  # beyond the limit, but on the way back
        (BUY, 3, 0.0, HOLD),
        (BUY, 1, -0.03, SELL),
        (HOLD, -1, -0.03, BUY),
        (HOLD, 1, 0.06, SELL),
        (HOLD, 0, -0.03, HOLD),  # nothing to stop
        (BUY, 0, 0.06, BUY),
        (HOLD, 1, -0.02, HOLD),
    ],
)
def test_validates(action: int, position: int, pnl: float, allowed: int) -> None:
    assert RiskManager().validate_action(action, position, pnl) == allowed


@given(st.sampled_from([HOLD, BUY, SELL]), st.integers(-3, 3), st.floats(-0.5, 0.5))
def test_never_exceeds_the_limit_nor_reverses_on_a_stop(action: int, position: int, pnl: float) -> None:
    manager = RiskManager(max_position=2.0)
    allowed = manager.validate_action(action, position, pnl)
    after = position + {HOLD: 0, BUY: 1, SELL: -1}[allowed]
    assert abs(after) <= max(2, abs(position))
    if position and (pnl < -0.02 or pnl > 0.05):
        assert abs(after) == abs(position) - 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((3, 0, 0.0), "action"), ((0, 0.5, 0.0), "current_position"), ((0, 1, float("nan")), "pnl")],
)
def test_refuses_what_cannot_be_judged(arguments: tuple[int, float, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RiskManager().validate_action(*arguments)


def test_refuses_a_limit_of_nothing() -> None:
    with pytest.raises(ValueError, match="stop_loss"):
        RiskManager(stop_loss=0.0)
