from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.training.density import DensityForecast
from atlas_pipeline.training.plots import (
    cumulative_gain,
    fan_chart,
    learning_curve,
    pit_histogram,
    prediction_reliability,
    reliability,
)

TRANSFORM = np.random.default_rng(0).random(252)
INSTANTS = np.arange("2016-01-01", "2016-09-09", dtype="datetime64[D]")
DENSITY = DensityForecast(np.zeros(252), np.ones(252), np.full(252, 5.0), np.full(252, -0.1))

RELIABILITY = pd.DataFrame(
    {
        "quantity": "probability",
        "horizon": [1, 1, 5, 5],
        "said": [0.4, 0.6, 0.45, 0.55],
        "observed": [0.5, 0.55, 0.5, 0.6],
        "low": [0.4, 0.45, 0.4, 0.5],
        "high": [0.6, 0.65, 0.6, 0.7],
    }
)


@pytest.mark.parametrize(
    "picture",
    [
        lambda: pit_histogram(TRANSFORM, "SP500, 2016"),
        lambda: reliability({"forecaster": TRANSFORM, "riskmetrics": TRANSFORM**2}, "SP500, 2016"),
        lambda: cumulative_gain({"SP500": (INSTANTS, TRANSFORM - 0.4)}, "against egarch_skewt"),
        lambda: fan_chart(INSTANTS, 6 * TRANSFORM - 3, DENSITY, "SP500, 2016"),
        lambda: prediction_reliability(RELIABILITY, "direction, SP500, 2016"),
        lambda: learning_curve([{"train/nll_loss": 1.3, "val/nll_loss": 1.4}] * 3, "Fold 2016"),
    ],
)
def test_a_picture_is_a_png_with_something_in_it(picture):
    import io

    from matplotlib.image import imread

    content = picture()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(io.BytesIO(content))
    assert pixels.shape[1] > 600
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50
