"""Option chains on a simulated underlying: Black and Scholes under the variance truly expected, with a smile."""

from __future__ import annotations

import numpy as np
import pandas as pd

from atlas_pipeline.market.calendars import sessions
from atlas_pipeline.market.option_chain import CALL, PUT
from atlas_pipeline.market.simulation import Floats, SimulationSettings

EXPIRIES = 4
STRIKES = 11
CONTRACTS = EXPIRIES * STRIKES * 2

# The smile in ``m = ln(K / S) / (σ √T)``, held beyond ``_EDGE``: puts below the money are dearer than calls above it.
SKEW, CURVATURE = -0.05, 0.02
_EDGE = 3.0

_TICK = 0.01
_HALF_SPREAD = 0.01
_FARTHEST = 150
_YEAR = 365 * 86_400 * 1e6
_NORMALS = 4
_LABELS = ("session", "available_at")


def monthly_expiries(first: pd.Timestamp, last: pd.Timestamp, calendar: str) -> pd.DataFrame:
    """Last sessions up to the third Friday of each month, from the month of ``first`` to half a year after ``last``.

    Returns
    -------
    pandas.DataFrame
        ``session`` and ``available_at``, its close, and ``ordinal``, of each expiry.
    """
    known = sessions(first.replace(day=1), last + pd.Timedelta(days=190), calendar)
    months = pd.date_range(first.replace(day=1), known["session"].iloc[-1], freq="MS")
    fridays = months + pd.to_timedelta((4 - months.weekday) % 7 + 14, unit="D")
    fridays = fridays[fridays <= known["session"].iloc[-1]]
    return known.iloc[known["session"].searchsorted(fridays, side="right") - 1].reset_index(drop=True)


def expected_variance(settings: SimulationSettings, bars: int) -> tuple[Floats, Floats]:
    """Variance that the true process is expected to have, averaged over the next sessions.

    The variance of session i ahead is ``E[L²]·E[h]``; regimes and ``h`` move apart from one another, ``h`` back to 1 by
    its persistence a bar.

    Parameters
    ----------
    bars
        Bars of a whole session.

    Returns
    -------
    level, slope
        float64 [regimes, sessions]: the mean of the next n + 1 sessions is ``level[s, n] + slope[s, n] · (h − 1)``,
        where ``s`` is the regime of the last session and ``h`` that of the next bar.
    """
    ahead = np.empty((len(settings.regimes), _FARTHEST))
    squares = settings.deviations**2
    for number in range(_FARTHEST):
        squares = settings.transition @ squares
        ahead[:, number] = squares
    p = settings.persistence
    remains = p ** (bars * np.arange(_FARTHEST)) * (1 - p**bars) / (bars * (1 - p))
    counted = np.arange(1, _FARTHEST + 1)
    return ahead.cumsum(axis=1) / counted, (ahead * remains).cumsum(axis=1) / counted


def smile(moneyness: Floats) -> Floats:
    """Implied volatility as a multiple of the one at the money; ``ln(K / S) / (σ √T)`` in, of any shape."""
    m = np.clip(moneyness, -_EDGE, _EDGE)
    return 1 + SKEW * m + CURVATURE * m**2


def black_scholes(spot: Floats, strike: Floats, years: Floats, volatility: Floats, call: np.ndarray) -> Floats:
    """Price European options at a rate of zero (Black and Scholes, Journal of Political Economy 81, 1973, eq. 13)."""
    from scipy.special import ndtr

    spread = volatility * np.sqrt(years)
    d1 = np.log(spot / strike) / spread + spread / 2
    sign = np.where(call, 1.0, -1.0)
    result: Floats = sign * (spot * ndtr(sign * d1) - strike * ndtr(sign * (d1 - spread)))
    return result


def option_rows(
    settings: SimulationSettings,
    calendar: str,
    bars: int,
    days: pd.DataFrame,
    spot: Floats,
    regime: np.ndarray,
    variance: Floats,
    random: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Quote the chains of some sessions: the next four monthly expiries, eleven strikes around the spot, both rights.

    The mid is the price under ``implied_volatility``; a bid of less than a cent is nobody's. Sizes, trades and open
    interest are noise that thins out away from the money.

    Parameters
    ----------
    bars
        Bars of a whole session.
    days
        The first n sessions of a year, rows of ``calendars.sessions``.
    spot, regime, variance
        Close, regime and next variance ``h`` at their ends, [n].
    random
        The year's generator, at its beginning.

    Returns
    -------
    dict
        Columns of ``OPTION_CHAIN`` other than ``underlying`` and ``month``, [n · 88], ordered by session; instants and
        days are microseconds.
    """
    session, available_at = (days[name].to_numpy("datetime64[us]").astype("int64") for name in _LABELS)
    expiries = monthly_expiries(days["session"].iloc[0], days["session"].iloc[-1], calendar)
    expiry_days, expiry_closes = (expiries[name].to_numpy("datetime64[us]").astype("int64") for name in _LABELS)
    shape = (len(session), EXPIRIES, STRIKES, 2)

    chosen = np.searchsorted(expiry_days, session, side="right")[:, None] + np.arange(EXPIRIES)
    years = (expiry_closes[chosen] - available_at[:, None]) / _YEAR
    remaining = expiries["ordinal"].to_numpy()[chosen] - days["ordinal"].to_numpy()[:, None]
    level, slope = expected_variance(settings, bars)
    daily = level[regime[:, None], remaining - 1] + slope[regime[:, None], remaining - 1] * (variance[:, None] - 1)
    at_the_money = np.sqrt(daily * remaining / years)

    spacing = _spacing(spot)
    offsets = np.arange(STRIKES) - STRIKES // 2
    strikes = spacing[:, None] * (np.round(spot / spacing)[:, None] + offsets)
    spots, strike = np.broadcast_to(spot[:, None, None], shape[:3]), np.broadcast_to(strikes[:, None], shape[:3])
    moneyness = np.log(strike / spots) / (at_the_money * np.sqrt(years))[:, :, None]
    volatility = at_the_money[:, :, None] * smile(moneyness)

    call = np.broadcast_to(np.array([True, False]), shape)
    wide: dict[str, np.ndarray] = {
        "session": np.broadcast_to(session[:, None, None, None], shape),
        "available_at": np.broadcast_to(available_at[:, None, None, None], shape),
        "strike": np.broadcast_to(strike[..., None], shape),
        "implied_volatility": np.broadcast_to(volatility[..., None], shape),
        "expiry": np.broadcast_to(expiry_days[chosen][:, :, None, None], shape),
        "underlying_close": np.broadcast_to(spots[..., None], shape),
    }
    price = black_scholes(
        wide["underlying_close"], wide["strike"], years[:, :, None, None], wide["implied_volatility"], call
    )
    half = _TICK / 2 + _HALF_SPREAD * price
    noise = random.standard_normal((*shape, _NORMALS))
    interest = np.round(np.exp(7 + noise[..., 0] - np.abs(moneyness)[..., None]))
    volume = np.round(np.exp(4 + 1.5 * noise[..., 1] - 2 * np.abs(moneyness)[..., None]))
    quoted = price - half >= _TICK
    wide |= {
        "right": np.where(call, CALL, PUT),
        "bid": np.where(quoted, price - half, np.nan),
        "bid_size": np.where(quoted, np.ceil(np.exp(3 + noise[..., 2])), np.nan),
        "ask": price + half,
        "ask_size": np.ceil(np.exp(3 + noise[..., 3])),
        "last": np.where(volume > 0, price, np.nan),
        "volume": volume,
        "open_interest": interest,
    }
    return {name: values.reshape(-1) for name, values in wide.items()}


def _spacing(spot: Floats) -> Floats:
    """Distance of strikes: the smallest of 1, 2.5 and 5 times a power of ten that is above 1.5 percent of the spot."""
    power = 10.0 ** np.floor(np.log10(0.015 * spot))
    steps = np.array([1.0, 2.5, 5.0, 10.0])
    multiple = steps[np.argmax(0.015 * spot[:, None] / power[:, None] <= steps, axis=1)]
    return power * multiple
