"""Every test of this room runs without pictures."""

import pytest


@pytest.fixture(autouse=True)
def _quick(without_pictures: None) -> None:
    """Draw nothing."""
