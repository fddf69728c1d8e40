"""The set ``relative``: what a density forecaster reads, as multiples of a trailing volatility, and that volatility.

Prices, and differences of prices, grow with the index and mean something else in 2018 than in 1999. A multiple of σ,
the unit in which forecasts are made, means the same. They are computed in ``kernels.relative``.
"""

from __future__ import annotations

from atlas_pipeline.config import DataSettings
from atlas_pipeline.features.feature import Feature

RISKMETRICS = "RiskMetrics Technical Document, 4th ed., 1996, eq. 5.3"

VOLATILITY_SEED = 20
FAST_DECAY = 0.8
MOMENTUM_PERIOD = 10
VOLUME_WINDOW = 20

VOLATILITY = Feature(
    "volatility_ewma",
    "σ: σ²[t] = decay · σ²[t−1] + (1 − decay) · r²[t], r = 100 · ln(C[t] / C[t−1]); seeded by a mean of r²",
    ("close",),
    "percent per bar",
    RISKMETRICS,
    VOLATILITY_SEED,
    {"decay": DataSettings.volatility_decay, "seed": VOLATILITY_SEED},
    0.0,
)

RELATIVE = (
    Feature(
        "relative_return",
        "100 · ln(C[t] / C[t−1]) / σ, within ±(1 − decay)^−½ by construction",
        ("close", "volatility_ewma"),
        "σ",
        "standardized return; σ of " + RISKMETRICS,
        VOLATILITY_SEED,
    ),
    Feature(
        "relative_absolute_return",
        "|relative_return|",
        ("relative_return",),
        "σ",
        "absolute returns as a measure of volatility: Ding, Granger and Engle, J. of Empirical Finance 1 (1993) 83",
        VOLATILITY_SEED,
        minimum=0.0,
    ),
    Feature(
        "relative_range",
        "100 · ln(H / L) / σ",
        ("high", "low", "volatility_ewma"),
        "σ",
        "the log range: Parkinson, Journal of Business 53 (1980) 61",
        VOLATILITY_SEED,
        minimum=0.0,
    ),
    Feature(
        "relative_gap",
        "100 · ln(O[t] / C[t−1]) / σ",
        ("open", "close", "volatility_ewma"),
        "σ",
        "overnight return: Garman and Klass, Journal of Business 53 (1980) 67, sec. II",
        VOLATILITY_SEED,
    ),
    Feature(
        "relative_momentum",
        "100 · ln(C[t] / C[t−period]) / (σ · √period)",
        ("close", "volatility_ewma"),
        "σ of the period",
        "time-series momentum in volatilities: Moskowitz, Ooi and Pedersen, J. of Financial Economics 104 (2012) 228",
        VOLATILITY_SEED,
        {"period": MOMENTUM_PERIOD},
    ),
    Feature(
        "volume_ratio",
        "(V − mean) / (V + mean), mean of V over the window: tanh(½ · ln(V / mean)), defined without trade too",
        ("volume",),
        "−1 to 1",
        "relative volume: Karpoff, J. of Financial and Quantitative Analysis 22 (1987) 109, on volume and volatility",
        VOLUME_WINDOW - 1,
        {"window": VOLUME_WINDOW},
        -1.0,
        1.0,
    ),
    Feature(
        "volatility_ratio",
        "ln(σ of the fast decay / σ)",
        ("close", "volatility_ewma"),
        "log ratio",
        f"{RISKMETRICS}, at two decays: whether volatility rises or falls",
        VOLATILITY_SEED,
        {"fast_decay": FAST_DECAY, "seed": VOLATILITY_SEED},
    ),
    Feature(
        "log_volatility",
        "ln σ",
        ("volatility_ewma",),
        "log percent per bar",
        "the volatility as a level that a network can read",
        VOLATILITY_SEED,
    ),
)
