"""The set ``technical``: averages, returns, ranges, breakouts and distances; and the tiers ``a20`` and ``a25``.

The documents of origin name the tiers by the number of their columns and do not list them. ``a20`` holds what means the
same at any price level; ``a25`` adds the volatility index. All are computed in ``kernels.technical``.
"""

from __future__ import annotations

from atlas_pipeline.features.feature import CURRENCY, Feature

AVERAGE_WINDOWS = (20, 50, 200)
EMA_FAST, EMA_SLOW = 12, 26
EXTREMA_WINDOW, YEAR = 20, 252
RETURN_HORIZONS = (1, 5, 20, 60)
VOLATILITY_WINDOWS = (5, 20, 60)
RANGE_WINDOW = 20
VOLUME_WINDOW = 20
INDEX_AVERAGE_WINDOW, INDEX_SCORE_WINDOW = 20, 100

_MURPHY = "Murphy, Technical Analysis of the Financial Markets, 1999"
_DONCHIAN = f"{_MURPHY}, ch. 9 (Donchian's four-week rule)"
_ANDERSEN = "Andersen and Bollerslev, International Economic Review 39 (1998) 885, eq. 6"

_AVERAGES = tuple(
    Feature(
        f"sma_{window}",
        "Mean of C over the window",
        ("close",),
        CURRENCY,
        f"{_MURPHY}, ch. 9; equal to TA-Lib SMA",
        window - 1,
        {"window": window},
        0.0,
    )
    for window in AVERAGE_WINDOWS
)
_EXPONENTIAL_AVERAGES = tuple(
    Feature(
        f"ema_{period}",
        "EMA[t] = EMA[t−1] + 2 / (period + 1) · (C[t] − EMA[t−1]), seeded with the mean of the first period closes",
        ("close",),
        CURRENCY,
        f"{_MURPHY}, ch. 9; equal to TA-Lib EMA",
        period - 1,
        {"period": period},
        0.0,
    )
    for period in (EMA_FAST, EMA_SLOW)
)
_RETURNS = tuple(
    Feature(
        f"return_{horizon}",
        "ln(C[t] / C[t−period])",
        ("close",),
        "log return",
        "Campbell, Lo and MacKinlay, The Econometrics of Financial Markets, 1997, eq. 1.4.4",
        horizon,
        {"period": horizon},
    )
    for horizon in RETURN_HORIZONS
)
_VOLATILITIES = tuple(
    Feature(
        f"realized_volatility_{window}",
        "√(mean of ln(C[t] / C[t−1])² over the window)",
        ("close",),
        "log return per bar",
        _ANDERSEN,
        window,
        {"window": window},
        0.0,
    )
    for window in VOLATILITY_WINDOWS
)

TECHNICAL = (
    *_AVERAGES,
    *_EXPONENTIAL_AVERAGES,
    Feature(
        f"rolling_high_{EXTREMA_WINDOW}",
        "Largest H of the window, this bar's included",
        ("high",),
        CURRENCY,
        f"{_DONCHIAN}; equal to TA-Lib MAX",
        EXTREMA_WINDOW - 1,
        {"window": EXTREMA_WINDOW},
        0.0,
    ),
    Feature(
        f"rolling_low_{EXTREMA_WINDOW}",
        "Smallest L of the window, this bar's included",
        ("low",),
        CURRENCY,
        f"{_DONCHIAN}; equal to TA-Lib MIN",
        EXTREMA_WINDOW - 1,
        {"window": EXTREMA_WINDOW},
        0.0,
    ),
    Feature(
        f"breakout_{EXTREMA_WINDOW}",
        "1 where C is above the rolling high of the bar before, −1 where it is below its rolling low, 0 between",
        ("high", "low", "close"),
        "−1, 0 or 1",
        _DONCHIAN,
        EXTREMA_WINDOW,
        {"window": EXTREMA_WINDOW},
        -1.0,
        1.0,
    ),
    Feature(
        "momentum_signal",
        "1 where Momentum is above 0, 0 where it is not, −1 where it is undefined",
        ("Momentum",),
        "−1, 0 or 1",
        "the documents of origin",
        0,
        {},
        -1.0,
        1.0,
    ),
    *_RETURNS,
    *_VOLATILITIES,
    Feature(
        f"parkinson_{RANGE_WINDOW}",
        "√(mean of ln(H / L)² over the window / (4 · ln 2))",
        ("high", "low"),
        "log return per bar",
        "Parkinson, Journal of Business 53 (1980) 61, eq. 2",
        RANGE_WINDOW - 1,
        {"window": RANGE_WINDOW},
        0.0,
    ),
    Feature(
        f"garman_klass_{RANGE_WINDOW}",
        "√(mean of ½ · ln(H / L)² − (2 · ln 2 − 1) · ln(C / O)² over the window)",
        ("open", "high", "low", "close"),
        "log return per bar",
        "Garman and Klass, Journal of Business 53 (1980) 67, eq. 20",
        RANGE_WINDOW - 1,
        {"window": RANGE_WINDOW},
        0.0,
    ),
    Feature(
        "overnight_gap",
        "ln(O[t] / C[t−1])",
        ("open", "close"),
        "log return",
        "Garman and Klass, Journal of Business 53 (1980) 67, sec. II",
        1,
    ),
    Feature(
        f"volume_zscore_{VOLUME_WINDOW}",
        "(V − mean) / deviation (ddof 0) of V over the window",
        ("volume",),
        "deviations",
        "standard score; volume and volatility: Karpoff, J. of Financial and Quantitative Analysis 22 (1987) 109",
        VOLUME_WINDOW - 1,
        {"window": VOLUME_WINDOW},
    ),
    Feature(
        f"distance_from_high_{EXTREMA_WINDOW}",
        "ln(C / rolling high)",
        ("high", "close"),
        "log return",
        _DONCHIAN,
        EXTREMA_WINDOW - 1,
        {"window": EXTREMA_WINDOW},
        None,
        0.0,
    ),
    Feature(
        f"distance_from_low_{EXTREMA_WINDOW}",
        "ln(C / rolling low)",
        ("low", "close"),
        "log return",
        _DONCHIAN,
        EXTREMA_WINDOW - 1,
        {"window": EXTREMA_WINDOW},
        0.0,
    ),
    Feature(
        f"distance_from_high_{YEAR}",
        "ln(C / largest H of the window)",
        ("high", "close"),
        "log return",
        "the 52-week high: George and Hwang, Journal of Finance 59 (2004) 2145",
        YEAR - 1,
        {"window": YEAR},
        None,
        0.0,
    ),
    Feature(
        "close_over_sma_20",
        "C / sma_20 − 1",
        ("close", "sma_20"),
        "fraction",
        f"{_MURPHY}, ch. 9 (percentage envelopes)",
        AVERAGE_WINDOWS[0] - 1,
        minimum=-1.0,
    ),
    Feature(
        "close_over_sma_200",
        "C / sma_200 − 1",
        ("close", "sma_200"),
        "fraction",
        "Brock, Lakonishok and LeBaron, Journal of Finance 47 (1992) 1731: the rule 1-200",
        AVERAGE_WINDOWS[-1] - 1,
        minimum=-1.0,
    ),
    Feature(
        "ema_ratio",
        "ema_12 / ema_26 − 1",
        (f"ema_{EMA_FAST}", f"ema_{EMA_SLOW}"),
        "fraction",
        f"{_MURPHY}, ch. 10: the percentage price oscillator",
        EMA_SLOW - 1,
        minimum=-1.0,
    ),
)

VOLATILITY_INDEX = (
    Feature(
        "vix",
        "The volatility index as last published at the bar; its close of the day before at a stock's close",
        ("volatility_index",),
        "percent per root year",
        "Cboe, VIX White Paper, 2019",
        0,
        {},
        0.0,
    ),
    Feature(
        "vix_return",
        "ln(vix[t] / vix[t−1])",
        ("vix",),
        "log return",
        "Whaley, Journal of Portfolio Management 26 (2000) 12",
        1,
    ),
    Feature(
        "vix_over_sma_20",
        "vix / mean over the window − 1",
        ("vix",),
        "fraction",
        f"{_MURPHY}, ch. 9",
        INDEX_AVERAGE_WINDOW - 1,
        {"window": INDEX_AVERAGE_WINDOW},
        -1.0,
    ),
    Feature(
        "vix_zscore_100",
        "(vix − mean) / deviation (ddof 0) over the window",
        ("vix",),
        "deviations",
        "standard score",
        INDEX_SCORE_WINDOW - 1,
        {"window": INDEX_SCORE_WINDOW},
    ),
    Feature(
        "volatility_premium",
        "ln(vix / (100 · √252 · realized_volatility_20)), of daily bars",
        ("vix", "realized_volatility_20"),
        "log ratio",
        "the variance risk premium: Carr and Wu, Review of Financial Studies 22 (2009) 1311, in logs",
        VOLATILITY_WINDOWS[1],
        {"window": VOLATILITY_WINDOWS[1]},
    ),
)

A20 = (
    *(feature.name for feature in (*_RETURNS, *_VOLATILITIES)),
    f"parkinson_{RANGE_WINDOW}",
    f"garman_klass_{RANGE_WINDOW}",
    "overnight_gap",
    f"volume_zscore_{VOLUME_WINDOW}",
    f"distance_from_high_{EXTREMA_WINDOW}",
    f"distance_from_low_{EXTREMA_WINDOW}",
    f"distance_from_high_{YEAR}",
    "close_over_sma_20",
    "close_over_sma_200",
    "ema_ratio",
    "RSI",
    "BB_Position",
    "momentum_signal",
)
A25 = (*A20, *(feature.name for feature in VOLATILITY_INDEX))
