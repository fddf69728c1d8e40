import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.features.microstructure import compute_microstructure
from atlas_pipeline.features.quote_plots import plot_microstructure

PNG = b"\x89PNG"


@pytest.mark.parametrize(("symbols", "rows"), [(1, 1), (1, 300), (12, 90)])
def test_a_picture_is_drawn_of_one_quote_and_of_many_symbols(symbols, rows):
    instants = pd.date_range("2015-01-05 15:00", periods=rows, freq="7min", tz="UTC", unit="us")
    random = np.random.default_rng(0)
    frames = [
        pd.DataFrame(
            {
                "symbol": f"S{number}",
                "available_at": instants,
                "bid": 100.0,
                "bid_size": random.integers(1, 9, rows),
                "ask": 100.1,
                "ask_size": random.integers(1, 9, rows),
                "month": "2015-01",
            }
        )
        for number in range(symbols)
    ]
    assert plot_microstructure(compute_microstructure(pd.concat(frames))).startswith(PNG)
