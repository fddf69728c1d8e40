"""A warehouse on an empty folder."""

from pathlib import Path

import pytest

from resources.warehouse import Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(home=str(tmp_path / "it's home"), lock_timeout=20.0)
