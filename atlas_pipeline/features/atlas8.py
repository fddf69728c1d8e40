"""The set ``atlas8``: the eight classic indicators of the documents of origin, and their lengths.

They are computed in ``kernels.atlas8``. Where TA-Lib has the indicator the values are TA-Lib's, seeds included.
"""

from __future__ import annotations

from atlas_pipeline.features.feature import CURRENCY, Feature

WILDER = "Wilder, New Concepts in Technical Trading Systems, 1978"

RSI_PERIOD = 14
MACD_FAST, MACD_SLOW, MACD_SIGNAL = 12, 26, 9
BAND_WINDOW, BAND_WIDTH = 20, 2.0
ATR_PERIOD = 14
VOLATILITY_WINDOW = 20
ROC_PERIOD = 10
MOMENTUM_PERIOD = 10

ATLAS8 = (
    Feature("Close", "C", ("close",), CURRENCY, "the bar", minimum=0.0),
    Feature(
        "RSI",
        "100 · gain / (gain + loss), Wilder's averages of rises and falls; 50 where nothing moved (TA-Lib says 0)",
        ("close",),
        "0 to 100",
        f"{WILDER}, sec. VI; equal to TA-Lib RSI",
        RSI_PERIOD,
        {"period": RSI_PERIOD},
        0.0,
        100.0,
    ),
    Feature(
        "MACD",
        "The line: EMA(C, fast) − EMA(C, slow), both seeded with means that end at bar slow − 1; the first signal − 1 "
        "values, which seed TA-Lib's signal, are withheld",
        ("close",),
        CURRENCY,
        "Appel, Technical Analysis: Power Tools for Active Investors, 2005, ch. 8; equal to TA-Lib MACD, first output",
        MACD_SLOW + MACD_SIGNAL - 2,
        {"fast": MACD_FAST, "slow": MACD_SLOW, "signal": MACD_SIGNAL},
    ),
    Feature(
        "BB_Position",
        "(C − lower) / (upper − lower), bands at width deviations (ddof 0) around the mean; 0.5 where they coincide",
        ("close",),
        "1 at the upper band, 0 at the lower",
        "Bollinger on Bollinger Bands, 2001, ch. 8 (%b); equal to TA-Lib BBANDS",
        BAND_WINDOW - 1,
        {"window": BAND_WINDOW, "width": BAND_WIDTH},
    ),
    Feature(
        "ATR",
        "Wilder's average of the true range max(H, C[t−1]) − min(L, C[t−1]), without bar 0, which has none before",
        ("high", "low", "close"),
        CURRENCY,
        f"{WILDER}, sec. III; equal to TA-Lib ATR",
        ATR_PERIOD,
        {"period": ATR_PERIOD},
        0.0,
    ),
    Feature(
        "Volatility",
        "Standard deviation (ddof 0) of ln(C[t] / C[t−1]) over the window",
        ("close",),
        "log return per bar",
        "the documents of origin; equal to TA-Lib STDDEV of log returns",
        VOLATILITY_WINDOW,
        {"window": VOLATILITY_WINDOW},
        0.0,
    ),
    Feature(
        "ROC",
        "100 · (C[t] / C[t−period] − 1)",
        ("close",),
        "percent",
        "the documents of origin; equal to TA-Lib ROC",
        ROC_PERIOD,
        {"period": ROC_PERIOD},
        -100.0,
    ),
    Feature(
        "Momentum",
        "C[t] − C[t−period]",
        ("close",),
        CURRENCY,
        "the documents of origin; equal to TA-Lib MOM",
        MOMENTUM_PERIOD,
        {"period": MOMENTUM_PERIOD},
    ),
)
