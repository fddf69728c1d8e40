"""Every feature of bars, declared once: name, formula, inputs, parameters, warm-up, unit, source.

The ``features`` table, the names the models read and the documentation are made from this registry. The
formulas are computed in ``compute`` by ``kernels``; this module imports neither, so that names are free to
look up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from atlas_pipeline.config import DataSettings
from atlas_pipeline.features.microstructure import MICROSTRUCTURE_FEATURES
from atlas_pipeline.features.options import OPTION_FEATURES, UNDERLYING_OPTION_FEATURES
from atlas_pipeline.market.adjustment import DIVIDEND, SPLIT
from atlas_pipeline.market.bars import AVAILABLE_AT, INTERVAL, MONTH, SYMBOL
from atlas_pipeline.market.table import Column, Table

__all__ = [
    "ATLAS8",
    "FEATURES",
    "MICROSTRUCTURE_FEATURES",
    "MODEL_FEATURES",
    "MODEL_INPUTS",
    "OPTION_FEATURES",
    "REGISTRY",
    "SETS",
    "UNDERLYING_OPTION_FEATURES",
    "VOLATILITY",
    "Feature",
]


@dataclass(frozen=True)
class Feature:
    """One feature.

    Attributes
    ----------
    name
        Column in the table.
    formula
        What it is, in symbols or words; C is the close, σ the column ``volatility_ewma``.
    inputs
        Columns of bars, or features, that it is made from.
    unit
        Its unit; one in ``CURRENCY`` is a price, or a difference of prices, as traded at its bar.
    source
        Where the formula comes from.
    warmup
        Rows at the start of a symbol, or after a missing bar, that have no value.
    parameters
        Lengths in bars and other constants of the formula.
    minimum
        Smallest possible value, where there is one.
    """

    name: str
    formula: str
    inputs: tuple[str, ...]
    unit: str
    source: str
    warmup: int
    parameters: Mapping[str, float] = field(default_factory=dict)
    minimum: float | None = None

    @property
    def in_currency(self) -> bool:
        """Whether it is multiplied with the prices, so that it is given on the scale of its own bar."""
        return self.unit == CURRENCY

    def column(self) -> Column:
        """Declare the column of the table; null during warm-up."""
        return Column(self.name, "float64", self.formula, self.unit, nullable=True, minimum=self.minimum)


_WILDER = "Wilder, New Concepts in Technical Trading Systems, 1978"
_RISKMETRICS = "RiskMetrics Technical Document, 4th ed., 1996, eq. 5.3"
_OHLC = ("high", "low", "close")
CURRENCY = "currency"

RSI_PERIOD = 14
MACD_FAST, MACD_SLOW, MACD_SIGNAL = 12, 26, 9
BAND_WINDOW, BAND_WIDTH = 20, 2.0
ATR_PERIOD = 14
VOLATILITY_WINDOW = 20
ROC_PERIOD = 10
MOMENTUM_PERIOD = 10
VOLATILITY_SEED = 20
FAST_DECAY = 0.8

ATLAS8: tuple[Feature, ...] = (
    Feature("Close", "Close of the bar", ("close",), CURRENCY, "the bar", 0),
    Feature(
        "RSI",
        "100 · gain / (gain + loss), Wilder's averages of rises and falls; 50 where nothing moved",
        ("close",),
        "0 to 100",
        f"{_WILDER}, sec. VI; equal to TA-Lib RSI",
        RSI_PERIOD,
        {"period": RSI_PERIOD},
        0.0,
    ),
    Feature(
        "MACD",
        "The line: EMA(C, fast) − EMA(C, slow), both seeded with means that end at bar slow − 1",
        ("close",),
        CURRENCY,
        "Appel, Technical Analysis, 2005, ch. 8; equal to the first output of TA-Lib MACD",
        MACD_SLOW + MACD_SIGNAL - 2,
        {"fast": MACD_FAST, "slow": MACD_SLOW, "signal": MACD_SIGNAL},
    ),
    Feature(
        "BB_Position",
        "(C − lower) / (upper − lower), bands at width deviations (ddof 0); 0.5 where they coincide",
        ("close",),
        "1 at the upper band, 0 at the lower",
        "Bollinger on Bollinger Bands, 2001, ch. 8 (%b); equal to TA-Lib BBANDS",
        BAND_WINDOW - 1,
        {"window": BAND_WINDOW, "width": BAND_WIDTH},
    ),
    Feature(
        "ATR",
        "Wilder's average of the true range, without bar 0, which has no previous close",
        _OHLC,
        CURRENCY,
        f"{_WILDER}, sec. III; equal to TA-Lib ATR",
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

VOLATILITY = Feature(
    "volatility_ewma",
    "σ: σ²[t] = decay · σ²[t−1] + (1 − decay) · r²[t], r = 100 · ln(C[t] / C[t−1]); seeded by a mean",
    ("close",),
    "percent per bar",
    _RISKMETRICS,
    VOLATILITY_SEED,
    {"decay": DataSettings.volatility_decay, "seed": VOLATILITY_SEED},
    0.0,
)

# Prices, and differences of prices, grow with the index and mean something else in 2018 than in 1999. What
# the models read is each of the eight as a bounded number or a multiple of σ, the unit that forecasts are
# made in as well.
MODEL_FEATURES: tuple[Feature, ...] = (
    Feature(
        "return_scaled",
        "100 · ln(C[t] / C[t−1]) / σ, within ±(1 − decay)^−½ by construction",
        ("Close", "volatility_ewma"),
        "σ",
        "Close made stationary",
        VOLATILITY_SEED,
    ),
    Feature("rsi_scaled", "(RSI − 50) / 50", ("RSI",), "−1 to 1", "RSI, centred", RSI_PERIOD),
    Feature(
        "macd_scaled",
        "100 · MACD / (C · σ)",
        ("MACD", "Close", "volatility_ewma"),
        "σ",
        "MACD made stationary",
        MACD_SLOW + MACD_SIGNAL - 2,
    ),
    Feature(
        "bb_position_scaled",
        "2 · BB_Position − 1",
        ("BB_Position",),
        "±1 at the bands",
        "BB_Position, centred",
        BAND_WINDOW - 1,
    ),
    Feature(
        "range_scaled",
        "ln(1 + 100 · TR / (C[t−1] · σ)), TR the true range of the bar, which ATR averages",
        (*_OHLC, "volatility_ewma"),
        "log of σ",
        "the range as a second measure of the day's variance: Parkinson, Journal of Business 53 (1980) 61",
        VOLATILITY_SEED,
        minimum=0.0,
    ),
    Feature(
        "log_volatility",
        "ln σ",
        ("volatility_ewma",),
        "log percent per bar",
        "Volatility as a level that a network can read",
        VOLATILITY_SEED,
    ),
    Feature(
        "volatility_ratio",
        "ln(σ of the fast decay / σ)",
        ("close", "volatility_ewma"),
        "log ratio",
        f"{_RISKMETRICS}, at two decays: whether volatility rises or falls",
        VOLATILITY_SEED,
        {"fast_decay": FAST_DECAY, "seed": VOLATILITY_SEED},
    ),
    Feature(
        "momentum_scaled",
        "100 · ln(C[t] / C[t−period]) / (σ · √period)",
        ("Close", "volatility_ewma"),
        "σ of the period",
        "Momentum and ROC made stationary",
        VOLATILITY_SEED,
        {"period": MOMENTUM_PERIOD},
    ),
)

SETS: dict[str, tuple[str, ...]] = {
    "atlas8": tuple(feature.name for feature in ATLAS8),
    "model_inputs": tuple(feature.name for feature in MODEL_FEATURES),
}
MODEL_INPUTS = SETS["model_inputs"]
REGISTRY: dict[str, Feature] = {feature.name: feature for feature in (*ATLAS8, VOLATILITY, *MODEL_FEATURES)}

FEATURES = Table(
    name="features",
    description="The feature matrix: the classic eight, the trailing volatility, what models read; and what corporate "
    "actions brought at each bar, from which returns are made and accounts are booked",
    columns=(
        SYMBOL,
        INTERVAL,
        AVAILABLE_AT,
        MONTH,
        *(feature.column() for feature in REGISTRY.values()),
        SPLIT,
        DIVIDEND,
    ),
    key=("symbol", "interval", "available_at"),
    partition_by="month",
    time="available_at",
)
