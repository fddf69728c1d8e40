"""The set ``options``: what option chains say, contract by contract and about their underlying.

A contract's features are computed in ``option_contracts``, an underlying's in ``option_surface``; the formulas of an
option's price stand in ``black_scholes``. Nothing is computed here.

The documents of origin approximate the greeks "without Black-Scholes", with d = ln(S/K) / (σ√T), and yet need σ. What
was wrong: d lacks the half variance σ√T / 2; a put's delta lacks the −1; theta, −γ / (2T), lacks the factor σ²S²T, so
that it has another unit and no right size. Corrected, the proxies are Black-Scholes with neither rate nor dividends,
for which a contract's own S, K, T and σ suffice: beside the true values they show what carry is worth.

Their largest and mean errors, delta's as it is, the others' as shares of their at-the-money values at the same σ and T,
on a grid of S/K from 0.8 to 1.2, 7 to 365 days, σ from 10% to 60% and both rights at S = 100, where the true rate and
carry are those of the head; and the errors of the documents' own formulas where they are zero:

===== ==== ============ ============ ==================================================
proxy 0%   2%           5%           documents' formulas at 0%
===== ==== ============ ============ ==================================================
delta 0    0.080, 0.009 0.198, 0.023 1.000, 0.500; of calls alone 0.120, 0.026
gamma 0    0.121, 0.013 0.297, 0.031 0.122, 0.027
vega  0    0.121, 0.013 0.297, 0.031 0
theta 0    1.158, 0.089 2.719, 0.219 1.000, 0.612
===== ==== ============ ============ ==================================================

The largest are those of a year at 10%. Of the interaction features ``ln m · ln T`` went to infinity at expiry and
changed its sign at one year, and ``ln(volume) · |ln m|`` had no value where nothing traded: both logs are of one plus a
count now, of days and of contracts.
"""

from __future__ import annotations

from atlas_pipeline.features.feature import CURRENCY, Feature
from atlas_pipeline.market.bars import AVAILABLE_AT, MONTH
from atlas_pipeline.market.option_chain import OPTION_CHAIN
from atlas_pipeline.market.table import Column, Table

DAYS_OF_YEAR = 365.0
PARITY_STRIKES, PARITY_MINIMUM = 5, 3
NEAR_DAYS, FAR_DAYS, MINIMUM_DAYS = 30.0, 90.0, 1.0
SKEW_DELTA = 0.25
# Neighbours further apart than this say nothing of what lies between: in ln K, in delta, in multiples of the maturity.
WIDEST_STRIKES, WIDEST_DELTAS, WIDEST_MATURITIES = 0.2, 0.35, 1.5

BLACK_SCHOLES = "Black and Scholes, J. of Political Economy 81 (1973) 637, eq. 13"
GREEKS = "Merton, Bell J. of Economics 4 (1973) 141, sec. 7: Black and Scholes with a yield, derived"
DOCUMENTS = "documents of origin, Technical Architecture"
PROXIES = f"{DOCUMENTS}, Greeks Proxies, corrected; zero-rate {BLACK_SCHOLES}, derived"
INTERACTIONS = f"{DOCUMENTS}, Interaction Features"
CBOE = "Cboe Volatility Index Mathematics Methodology: 30-day variance, linear in total variance between two expiries"

VENDOR, MID, NONE = "vendor", "mid", "none"
"""Where a contract's volatility comes from."""

_OPTION = ("underlying_close", "strike", "years_to_expiry", "forward", "implied_volatility")
_PROXY = ("underlying_close", "moneyness", "years_to_expiry", "implied_volatility")

OPTION_CONTRACT = (
    Feature(
        "moneyness",
        "m = S / K",
        ("underlying_close", "strike"),
        "ratio",
        f"{BLACK_SCHOLES}: what, with time, rate and volatility, an option's price over the strike depends on",
        minimum=0.0,
    ),
    Feature(
        "years_to_expiry",
        "T, from available_at to the close of the last session up to the expiry; not positive once it has closed",
        ("available_at", "expiry"),
        "years of 365 days",
        CBOE + ", which counts minutes of 365 days as well",
        parameters={"days_of_year": DAYS_OF_YEAR},
    ),
    Feature(
        "mid", "(bid + ask) / 2; null where nobody bids or nobody asks", ("bid", "ask"), CURRENCY, CBOE, minimum=0.0
    ),
    Feature(
        "implied_carry",
        "b = ln(F / S) / T, F the median of K + exp(r·T) · (call − put) over the strikes of the expiry where the mids "
        "differ least; null with fewer than three",
        ("mid", "strike", "underlying_close", "years_to_expiry"),
        "per year",
        "put-call parity: Stoll, J. of Finance 24 (1969) 801; the strikes as in the forward of the " + CBOE,
        parameters={"strikes": PARITY_STRIKES, "at_least": PARITY_MINIMUM},
    ),
    Feature(
        "forward",
        "F = S · exp(b·T); b = r where the quotes do not tell it",
        ("underlying_close", "years_to_expiry", "implied_carry"),
        CURRENCY,
        "cost of carry: Merton, Bell J. of Economics 4 (1973) 141, sec. 7",
        minimum=0.0,
    ),
    Feature(
        "implied_volatility",
        "σ: the vendor's where its price lies within the quote, else that of the mid; null where none gives it",
        ("bid", "ask", "mid", *_OPTION[:4]),
        "per root year",
        GREEKS + ", inverted",
        minimum=0.0,
    ),
    Feature("delta", "∂price / ∂S", _OPTION, "ratio", GREEKS),
    Feature("gamma", "∂²price / ∂S²", _OPTION, "per currency", GREEKS, minimum=0.0),
    Feature("vega", "∂price / ∂σ", _OPTION, "currency per unit of volatility", GREEKS, minimum=0.0),
    Feature("theta", "∂price / ∂t, time passing", _OPTION, "currency per year", GREEKS),
    Feature(
        "delta_proxy",
        "Φ(d) of a call, Φ(d) − 1 of a put, d = ln m / (σ√T) + σ√T / 2",
        _PROXY,
        "ratio",
        PROXIES,
        parameters={"error_at_0%": 0.0, "error_at_5%": 0.198},
        minimum=-1.0,
        maximum=1.0,
    ),
    Feature(
        "gamma_proxy",
        "φ(d) / (S·σ√T)",
        _PROXY,
        "per currency",
        PROXIES,
        parameters={"error_at_0%": 0.0, "error_at_5%": 0.297},
        minimum=0.0,
    ),
    Feature(
        "vega_proxy",
        "S·φ(d)·√T",
        _PROXY,
        "currency per unit of volatility",
        PROXIES,
        parameters={"error_at_0%": 0.0, "error_at_5%": 0.297},
        minimum=0.0,
    ),
    Feature(
        "theta_proxy",
        "−σ²·S²·gamma_proxy / 2",
        ("underlying_close", "gamma_proxy", "implied_volatility"),
        "currency per year",
        PROXIES,
        parameters={"error_at_0%": 0.0, "error_at_5%": 2.719},
        maximum=0.0,
    ),
    Feature(
        "moneyness_root_time",
        "m · √T",
        ("moneyness", "years_to_expiry"),
        "root years",
        INTERACTIONS + ", f1",
        minimum=0.0,
    ),
    Feature(
        "log_moneyness_log_days",
        "ln m · ln(1 + days to expiry)",
        ("moneyness", "years_to_expiry"),
        "log ratio times log days",
        INTERACTIONS + ", f2, corrected: ln T has no bound at expiry and changes its sign at a year",
    ),
    Feature(
        "squared_moneyness_time",
        "(m − 1)² · T",
        ("moneyness", "years_to_expiry"),
        "years",
        INTERACTIONS + ", f3",
        minimum=0.0,
    ),
    Feature(
        "log_volume_log_moneyness",
        "ln(1 + volume) · |ln m|; null where the volume is",
        ("moneyness", "volume"),
        "log contracts times log ratio",
        INTERACTIONS + ", f4, corrected: ln(volume) has no value where nothing traded",
        minimum=0.0,
    ),
    Feature(
        "at_the_money_root_time",
        "exp(−(ln m)²) · √T, which at strikes 20% away is still 95% of √T",
        ("moneyness", "years_to_expiry"),
        "root years",
        INTERACTIONS + ", f5",
        minimum=0.0,
    ),
)
"""Features of a contract, in the order of the columns of ``OPTION_FEATURES``."""

_SMILE = ("implied_volatility", "delta", "forward", "strike", "years_to_expiry")
_PUTS_SHARE = (
    "Pan and Poteshman, Review of Financial Studies 19 (2006) 871: puts over puts and calls; of all traders here"
)

OPTION_UNDERLYING = (
    Feature(
        "atm_volatility",
        "σ at K = F and 30 days: linear in ln K between the out-of-the-money options around F; σ²T linear in T between "
        "the expiries around that have a day left or more, and from none at T = 0 before the first",
        _SMILE,
        "per root year",
        CBOE,
        parameters={
            "days": NEAR_DAYS,
            "minimum_days": MINIMUM_DAYS,
            "widest_log_strikes": WIDEST_STRIKES,
            "widest_maturities": WIDEST_MATURITIES,
        },
        minimum=0.0,
    ),
    Feature(
        "put_call_skew",
        "(σ of the put with delta −0.25 − σ of the call with 0.25) / atm_volatility, at 30 days: linear in delta "
        "between the out-of-the-money options around, in time as atm_volatility, from expiries that have both",
        _SMILE,
        "fraction of atm_volatility",
        "Mixon, J. of Derivatives 18 (2011) 9: the measure least bound to the level; in time as the " + CBOE,
        parameters={"delta": SKEW_DELTA, "days": NEAR_DAYS, "widest_deltas": WIDEST_DELTAS},
    ),
    Feature(
        "term_slope",
        "σ at K = F at 90 days less that at 30, each as atm_volatility",
        _SMILE,
        "per root year",
        "Vasquez, J. of Financial and Quantitative Analysis 52 (2017) 2727: slope of the volatility term structure; "
        "at constant maturities as the " + CBOE,
        parameters={"near_days": NEAR_DAYS, "far_days": FAR_DAYS},
    ),
    Feature(
        "put_volume_share",
        "Σ volume of puts / Σ volume of all contracts; null where none traded",
        ("volume",),
        "ratio",
        _PUTS_SHARE,
        minimum=0.0,
        maximum=1.0,
    ),
    Feature(
        "put_interest_share",
        "Σ open interest of puts / Σ open interest of all contracts; null where none is open",
        ("open_interest",),
        "ratio",
        _PUTS_SHARE + ", of open interest",
        minimum=0.0,
        maximum=1.0,
    ),
    Feature(
        "contracts",
        "Contracts of the chain with an implied volatility",
        ("implied_volatility",),
        "contracts",
        "how much the others rest on",
        minimum=0.0,
    ),
)
"""Features of an underlying, in the order of the columns of ``UNDERLYING_OPTION_FEATURES``."""

OPTIONS_SET: tuple[str, ...] = tuple(feature.name for feature in OPTION_UNDERLYING)
"""Columns of the set ``options`` that a model can read, joined to bars with ``as_of.latest_as_of``."""

CONTRACT = tuple(column for column in OPTION_CHAIN.columns if column.name in OPTION_CHAIN.key)
"""Columns that say which contract, and when."""

OPTION_FEATURES = Table(
    name="option_features",
    description="Features of option contracts, one row a contract and instant",
    columns=(
        *CONTRACT,
        *(feature.column("float64") for feature in OPTION_CONTRACT),
        Column("volatility_source", "string", f"Where implied_volatility comes from: {VENDOR}, {MID} or {NONE}"),
        MONTH,
    ),
    key=OPTION_CHAIN.key,
    partition_by="month",
    time="available_at",
)

UNDERLYING_OPTION_FEATURES = Table(
    name="underlying_option_features",
    description="What an option chain says about its underlying, one row an underlying and instant",
    columns=(
        Column("symbol", "string", "The underlying"),
        AVAILABLE_AT,
        *(feature.column("float64") for feature in OPTION_UNDERLYING),
        MONTH,
    ),
    key=("symbol", "available_at"),
    partition_by="month",
    time="available_at",
)
