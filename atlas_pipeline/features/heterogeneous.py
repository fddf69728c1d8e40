"""The set ``heterogeneous``: volatility and signed returns at many memories at once.

Traders of different horizons react to different pasts: volatility has components of days, weeks and months (Müller et
al., J. of Empirical Finance 4 (1997) 213; Corsi, J. of Financial Econometrics 7 (2009) 174), and falls raise it for as
long (Bouchaud, Matacz and Potters, Physical Review Letters 87 (2001) 228701). Here each has exponential memory instead
of a window of days, which forecast worse; they are computed in ``kernels.heterogeneous``.
"""

from __future__ import annotations

from atlas_pipeline.features.feature import Feature
from atlas_pipeline.features.relative import VOLATILITY_SEED

RANGE_HALF_LIVES = (1, 4, 16, 64, 256)
TREND_HALF_LIVES = (1, 2, 4, 8, 16, 32, 64, 128)
# Averages are of the rows there are: after a quarter of a year the long ones, too, say something of the level.
WARMUP = VOLATILITY_SEED + 64

HETEROGENEOUS = (
    *(
        Feature(
            f"range_ratio_{half_life}",
            "½ · ln(mean of TR² / (4 · ln 2) / σ²), TR = 100 · ln(max(H[t], C[t−1]) / min(L[t], C[t−1])), "
            "exponentially weighted, half the weight on the newest half_life rows in the long run",
            ("high", "low", "close", "volatility_ewma"),
            "log ratio",
            "the range as a volatility: Parkinson, J. of Business 53 (1980) 61; at many memories: Corsi (2009)",
            WARMUP,
            {"half_life": half_life},
        )
        for half_life in RANGE_HALF_LIVES
    ),
    *(
        Feature(
            f"trend_{half_life}",
            "√half_life · mean of relative_return, exponentially weighted, half the weight on the newest half_life "
            "rows in the long run",
            ("relative_return",),
            "σ of the half-life",
            "leverage at many memories: Bouchaud, Matacz and Potters, Physical Review Letters 87 (2001) 228701",
            WARMUP,
            {"half_life": half_life},
        )
        for half_life in TREND_HALF_LIVES
    ),
)
