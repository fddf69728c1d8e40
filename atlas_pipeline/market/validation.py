"""Which bars are let in: structure, market rules, sessions; what is refused and what is only remarked upon.

Nothing is dropped or filled here: every row that comes in goes out, accepted or refused with its reason. No
rule looks at a later bar, so that a bar's acceptance, like everything else, never depends on the future: a
one-day spike that the next day takes back is therefore a remark (``jump``), not a refusal, unless it is
absurd by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from atlas_pipeline.market.bars import BARS, PRICES, empty
from atlas_pipeline.market.quarantine import conform, duplicate_rules, reasons_of, split

STALE_OPEN_TOLERANCE = 1e-4
STALE_OPEN_SHARE = 0.1
_TRIPWIRE_DECAY = 0.94
_TRIPWIRE_RETURNS = 20

REMARKS = {"kind": "str", "symbol": "str", "session": "datetime64[us]", "value": "float64", "message": "str"}


@dataclass(frozen=True)
class ValidatedBars:
    """The outcome of ``validate_bars``: ``len(bars) + len(quarantined)`` rows came in.

    Attributes
    ----------
    bars
        Rows of ``BARS``, sorted by its key.
    quarantined
        Rows of ``QUARANTINED_BARS``.
    warnings
        What is odd but no error: ``kind`` (``jump``, ``zero_volume``, ``missing_sessions``, ``stale_opens``,
        ``out_of_order``), ``symbol``, ``session`` (the first concerned), ``value`` and ``message``.
    """

    bars: pd.DataFrame
    quarantined: pd.DataFrame
    warnings: pd.DataFrame


def validate_bars(
    frame: pd.DataFrame,
    sessions: pd.DataFrame,
    *,
    history: pd.DataFrame | None = None,
    actions: pd.DataFrame | None = None,
    jump_sigmas: float = 12.0,
    absurd_factor: float = 5.0,
) -> ValidatedBars:
    """Judge every bar by its structure, by the market's rules and by the exchange's sessions.

    Parameters
    ----------
    frame
        Bars as a source gave them: the columns of ``BARS`` (``month`` may be left out), any order.
    sessions
        ``calendars.sessions`` over the days of ``frame``.
    history
        Validated bars before ``frame``, for the rules that need what came before; none where there are none.
    actions
        Rows of ``CORPORATE_ACTIONS``; a split moves the level that a price is compared with.
    jump_sigmas
        Tripwire: a return beyond this many trailing standard deviations (RiskMetrics, decay 0.94, over the
        bars before) is remarked upon. The bundled indices reach 8 in twenty years.
    absurd_factor
        A bar with a price more than this factor above or below the symbol's last accepted close is refused,
        unless it agrees with a refused bar just before it: no market moves so between two bars, misplaced
        decimal points and splits that nobody recorded do.

    Returns
    -------
    ValidatedBars

    Raises
    ------
    BrokenSchemaError
        Where a column is missing or of the wrong type, or a row lacks its key.
    ValueError
        Where ``sessions`` does not cover the bars.
    """
    rows = conform(frame, BARS)
    _require_cover(rows, sessions)
    before = empty(BARS) if history is None else history[list(BARS.names)]
    reasons = reasons_of([*_price_rules(rows), *_session_rules(rows, sessions)], len(rows))
    duplicates = duplicate_rules(rows, BARS.key, reasons == "")
    reasons = np.where(reasons == "", reasons_of(duplicates, len(rows)), reasons)
    absurd = _absurd(rows, before, reasons == "", actions, absurd_factor)
    reasons[absurd] = f"price is off the last accepted close by more than a factor of {absurd_factor:g}"
    accepted, quarantined = split(rows, reasons, BARS)
    remarks = [
        *_out_of_order(rows),
        *_jumps(accepted, before, actions, jump_sigmas),
        *_zero_volumes(accepted),
        *_missing_sessions(accepted, before, sessions),
        *_stale_open_remarks(accepted, before),
    ]
    warnings = pd.DataFrame(remarks, columns=list(REMARKS)).astype(REMARKS)
    return ValidatedBars(accepted, quarantined, warnings)


def stale_opens(
    bars: pd.DataFrame, history: pd.DataFrame | None = None, tolerance: float = STALE_OPEN_TOLERANCE
) -> pd.DataFrame:
    """Count how often the open is only the previous close again: an open at which nobody could have traded.

    Parameters
    ----------
    bars
        Rows of ``BARS``.
    history
        Bars before them, for the first bar's previous close.
    tolerance
        Relative distance up to which an open counts as stale; 1e-4 is one basis point.

    Returns
    -------
    pandas.DataFrame
        ``symbol``, ``interval``, ``year`` (int32), ``days`` with a previous close (int64), ``stale`` (int64)
        and ``share``.
    """
    chained = _chain(bars, history)
    close = chained.groupby(["symbol", "interval"], sort=False)["close"].shift()
    judged = chained[chained["judged"] & close.notna()]
    stale = (judged["open"] / close[judged.index] - 1).abs() <= tolerance
    year = judged["available_at"].dt.year.astype("int32").rename("year")
    counts = stale.groupby([judged["symbol"], judged["interval"], year]).agg(days="size", stale="sum").reset_index()
    counts = counts.astype({"days": "int64", "stale": "int64"})
    counts["share"] = counts["stale"] / counts["days"].where(counts["days"] > 0)
    return counts


def _require_cover(rows: pd.DataFrame, sessions: pd.DataFrame) -> None:
    days = rows["session"].dropna()
    if days.empty:
        return
    first, last = sessions["session"].min(), sessions["session"].max()
    # A week: the longest run of days without a session at either end that a covering call can still leave.
    slack = pd.Timedelta(days=7)
    if sessions.empty or days.min() < first - slack or days.max() > last + slack:
        raise ValueError(
            f"sessions cover {first} to {last}, the bars {days.min()} to {days.max()}: "
            "pass calendars.sessions over the days of the bars"
        )


def _price_rules(rows: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    open_, high, low, close = (rows[name].to_numpy() for name in PRICES)
    prices = np.stack([open_, high, low, close])
    volume = rows["volume"].to_numpy()
    usable = (np.isfinite(prices) & (prices > 0)).all(axis=0)
    with np.errstate(invalid="ignore"):
        return [
            ("a price is missing", np.isnan(prices).any(axis=0)),
            ("a price is infinite", np.isinf(prices).any(axis=0)),
            ("a price is not positive", (prices <= 0).any(axis=0)),
            ("high is below open, low or close", usable & (high < np.maximum(np.maximum(open_, low), close))),
            ("low is above open, high or close", usable & (low > np.minimum(np.minimum(open_, high), close))),
            ("volume is negative or infinite", (volume < 0) | np.isinf(volume)),
        ]


def _session_rules(rows: pd.DataFrame, sessions: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    known = sessions.set_index("session")
    opens, closes = rows["session"].map(known["opens_at"]), rows["session"].map(known["available_at"])
    traded = closes.notna().to_numpy()
    daily = (rows["interval"] == "1d").to_numpy()
    at_close = (rows["available_at"] == closes).to_numpy()
    inside = ((rows["available_at"] > opens) & (rows["available_at"] <= closes)).to_numpy()
    return [
        ("session is missing", rows["session"].isna().to_numpy()),
        ("the exchange does not trade on this session", rows["session"].notna().to_numpy() & ~traded),
        ("available_at is not the close of the session", traded & daily & ~at_close),
        ("available_at lies outside the session", traded & ~daily & ~inside),
    ]


def _chain(bars: pd.DataFrame, history: pd.DataFrame | None) -> pd.DataFrame:
    """History and bars in one, sorted, with ``judged`` true for the latter."""
    earlier = empty(BARS) if history is None else history
    both = pd.concat([earlier.assign(judged=False), bars.assign(judged=True)], ignore_index=True)
    both = both.astype({"judged": bool})
    return both.sort_values(list(BARS.key), kind="stable", ignore_index=True)


def _split_ratios(rows: pd.DataFrame, actions: pd.DataFrame | None) -> np.ndarray:
    """Multiply the splits that went ex after a symbol's previous row and up to this one; rows are sorted."""
    ratios = np.ones(len(rows))
    if actions is None or actions.empty:
        return ratios
    for action in actions[actions["kind"] == "split"].itertuples():
        later = (rows["symbol"] == action.symbol) & (rows["session"] >= action.session)
        for positions in rows[later].groupby("interval", sort=False).indices.values():
            ratios[np.flatnonzero(later)[positions[0]]] *= action.value
    return ratios


def _absurd(
    rows: pd.DataFrame, history: pd.DataFrame, judged: np.ndarray, actions: pd.DataFrame | None, factor: float
) -> np.ndarray:
    absurd = np.zeros(len(rows), dtype=bool)
    good = rows[judged].assign(position=np.flatnonzero(judged))
    chained = _chain(good, history)
    chained["ratio"] = _split_ratios(chained, actions)
    for _, group in chained.groupby(["symbol", "interval"], sort=False):
        prices = group[list(PRICES)].to_numpy() * np.cumprod(group["ratio"].to_numpy())[:, None]
        high, low, close = prices.max(axis=1), prices.min(axis=1), prices[:, 3]
        if not ((high[1:] > factor * close[:-1]) | (low[1:] * factor < close[:-1])).any():
            continue
        absurd[
            group["position"].to_numpy()[_off_level(high, low, close, group["judged"].to_numpy(), factor)].astype(int)
        ] = True
    return absurd


def _off_level(high: np.ndarray, low: np.ndarray, close: np.ndarray, judged: np.ndarray, factor: float) -> np.ndarray:
    """Bars far off the last accepted close, so that the way back from a spike is not taken for a second one.

    A bar that agrees with the refused one before it confirms a new level (a split nobody recorded): it is
    accepted, or one unknown split would refuse all that follows.
    """
    off = np.zeros(len(close), dtype=bool)
    accepted = refused = close[0]
    for row in range(1, len(close)):
        fits = [high[row] <= factor * level and low[row] * factor >= level for level in (accepted, refused)]
        off[row] = judged[row] and not any(fits)
        if off[row]:
            refused = close[row]
        else:
            accepted = refused = close[row]
    return off


def _out_of_order(rows: pd.DataFrame) -> list[tuple[str, str, object, float, str]]:
    back = rows.groupby(["symbol", "interval"], sort=False)["available_at"].diff() < pd.Timedelta(0)
    counts = rows[back].groupby("symbol", sort=True)["session"].agg(["size", "first"])
    return [
        ("out_of_order", str(symbol), count["first"], float(count["size"]),
         f"{count['size']} bars came before an older one; they were sorted")
        for symbol, count in counts.iterrows()
    ]  # fmt: skip


def _jumps(
    bars: pd.DataFrame, history: pd.DataFrame, actions: pd.DataFrame | None, sigmas: float
) -> list[tuple[str, str, object, float, str]]:
    chained = _chain(bars, history)
    grouping = [chained["symbol"], chained["interval"]]
    level = chained["close"] * pd.Series(_split_ratios(chained, actions)).groupby(grouping).cumprod()
    returns = pd.Series(np.log(level / level.groupby(grouping).shift()))
    squares = returns**2
    variance = squares.groupby(grouping).transform(
        lambda own: own.ewm(alpha=1 - _TRIPWIRE_DECAY, min_periods=_TRIPWIRE_RETURNS).mean().shift()
    )
    deviations = returns.abs() / np.sqrt(variance)
    over = chained["judged"] & (deviations > sigmas)
    return [
        ("jump", row.symbol, row.session, float(deviations[row.Index]),
         f"a return of {100 * returns[row.Index]:.1f}% is {deviations[row.Index]:.1f} trailing deviations: "
         "a split that corporate actions lack, or news")
        for row in chained[over].itertuples()
    ]  # fmt: skip


def _zero_volumes(bars: pd.DataFrame) -> list[tuple[str, str, object, float, str]]:
    idle = bars[bars["volume"] == 0].groupby("symbol", sort=True)["session"].agg(["size", "first"])
    return [
        (
            "zero_volume",
            str(symbol),
            found["first"],
            float(found["size"]),
            f"{found['size']} bars without volume",
        )
        for symbol, found in idle.iterrows()
    ]


def _missing_sessions(
    bars: pd.DataFrame, history: pd.DataFrame, sessions: pd.DataFrame
) -> list[tuple[str, str, object, float, str]]:
    """Find runs of sessions without a bar, from a symbol's first bar to the last of any symbol."""
    if bars.empty:
        return []
    closed = sessions[sessions["available_at"] <= bars["available_at"].max()]
    remarks = []
    for symbol, own in bars.groupby("symbol", sort=True):
        earlier = history.loc[history["symbol"] == symbol, "session"]
        days = closed["session"]
        first = own["session"].min() if earlier.empty else days.iloc[0]
        days = days[days >= first]
        missing = ~days.isin(own["session"]) & ~days.isin(earlier)
        for _, run in days[missing].groupby((~missing).cumsum()[missing]):
            remarks.append(
                ("missing_sessions", str(symbol), run.iloc[0], float(len(run)),
                 f"{len(run)} sessions without a bar, {run.iloc[0].date()} to {run.iloc[-1].date()}")
            )  # fmt: skip
    return remarks


def _stale_open_remarks(bars: pd.DataFrame, history: pd.DataFrame) -> list[tuple[str, str, object, float, str]]:
    counts = stale_opens(bars, history).groupby("symbol", sort=True)[["days", "stale"]].sum()
    counts["share"] = counts["stale"] / counts["days"]
    counts["first"] = bars.groupby("symbol")["session"].min()
    return [
        ("stale_opens", str(symbol), found["first"], float(found["share"]),
         f"the open is within {1e4 * STALE_OPEN_TOLERANCE:g} basis point of the previous close on "
         f"{found['share']:.0%} of {found['days']:.0f} days: fill orders at the close")
        for symbol, found in counts[counts["share"] > STALE_OPEN_SHARE].iterrows()
    ]  # fmt: skip
