"""Daily bars and corporate actions from Yahoo through ``yfinance``, with an outcome for every symbol.

Yahoo publishes prices divided by every split up to the day of the request, whatever is asked for. Here they
are multiplied back, so that a bar says what was traded on its day; dividends likewise are per share as then
paid.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

import pandas as pd

from atlas_pipeline.market.bars import BARS, CORPORATE_ACTIONS, empty
from atlas_pipeline.market.calendars import XNYS, session_closes, sessions
from atlas_pipeline.market.errors import NotOfferedError, SourceUnavailableError
from atlas_pipeline.market.quarantine import conform
from atlas_pipeline.market.sources import Outcome, require_known, within

logger = logging.getLogger(__name__)

_PRICES = {"Open": "open", "High": "high", "Low": "low", "Close": "close", "Volume": "volume"}


@dataclass(frozen=True)
class Fetched:
    """Bars and corporate actions of the symbols that could be read, and the outcome of every one."""

    bars: pd.DataFrame
    actions: pd.DataFrame
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True)
class YahooSource:
    """US stocks and indices on the calendar of New York, by Yahoo's symbols (``AAPL``, ``^GSPC``).

    Attributes
    ----------
    tickers
        The symbols to fetch.
    first
        Instant from which bars are wanted.
    session
        A ``curl_cffi`` session for ``yfinance`` to use; none lets it make its own.
    download
        What asks Yahoo for all bars of a symbol since an instant; ``yfinance`` by default.
    attempts
        Requests a symbol before it is given up, with exponential backoff and jitter between them.
    sleep, now
        How to wait and what time it is.
    """

    tickers: tuple[str, ...]
    first: datetime = datetime(2000, 1, 1, tzinfo=UTC)
    session: Any = None
    download: Callable[[str, datetime], pd.DataFrame] | None = None
    attempts: int = 5
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC), repr=False)

    name = "yahoo"
    live = True

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols to fetch."""
        return self.tickers

    def range(self) -> tuple[datetime, datetime]:
        """From ``first`` to now."""
        return self.first, self.now()

    def bars(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Bars of the symbols that could be read; the others are logged, and told apart by ``fetch``.

        Raises
        ------
        SourceUnavailableError
            Where no symbol could be read.
        """
        return self._fetch_some(symbols, start, end).bars

    def corporate_actions(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Fetch splits and dividends with an ex-date in the range; raises as ``bars`` does."""
        return self._fetch_some(symbols, start, end).actions

    def quotes(self, symbols: Sequence[str], start: datetime, end: datetime) -> NoReturn:
        """Raise ``NotOfferedError``: Yahoo keeps no history of quotes."""
        raise NotOfferedError(self.name, "history of quotes", "use the files source")

    def option_chain(self, symbols: Sequence[str], start: datetime, end: datetime) -> NoReturn:
        """Raise ``NotOfferedError``: Yahoo keeps no history of chains."""
        raise NotOfferedError(self.name, "history of option chains", "use the files source")

    def fetch(self, symbols: Sequence[str], start: datetime, end: datetime) -> Fetched:
        """Ask for each symbol by itself, so that one that fails loses no other.

        Parameters
        ----------
        symbols
            Some of ``tickers``.
        start, end
            ``start <= available_at < end``; what is not complete by now is no bar yet and is left out.

        Raises
        ------
        UnknownSymbolError
            Where a symbol is not one of ``tickers``.
        """
        require_known(self.name, symbols, self.tickers)
        bars, actions, outcomes = [empty(BARS)], [empty(CORPORATE_ACTIONS)], {}
        for symbol in symbols:
            frame, outcome = self._request(symbol, start)
            if frame is not None and not frame.empty:
                of_symbol = as_traded(symbol, frame)
                cut = min(end, self.now())
                bars.append(within(of_symbol[0], start, max(start, cut)))
                actions.append(within(of_symbol[1], start, max(start, cut)))
                outcome = Outcome.OK if len(bars[-1]) else Outcome.EMPTY
            outcomes[symbol] = outcome
        return Fetched(pd.concat(bars, ignore_index=True), pd.concat(actions, ignore_index=True), outcomes)

    def _fetch_some(self, symbols: Sequence[str], start: datetime, end: datetime) -> Fetched:
        fetched = self.fetch(symbols, start, end)
        lost = {symbol: str(outcome) for symbol, outcome in fetched.outcomes.items() if outcome != Outcome.OK}
        broken = {outcome for outcome in fetched.outcomes.values() if outcome not in (Outcome.OK, Outcome.EMPTY)}
        if broken and len(lost) == len(fetched.outcomes):
            raise SourceUnavailableError(
                f"yahoo gave nothing: {lost}. Wait where rate-limited, else check symbols and network"
            )
        if lost:
            logger.warning("yahoo gave no bars of %s", lost)
        return fetched

    def _request(self, symbol: str, start: datetime) -> tuple[pd.DataFrame | None, Outcome]:
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
        from yfinance.exceptions import (
            YFDataException,
            YFException,
            YFPricesMissingError,
            YFRateLimitError,
            YFTzMissingError,
        )

        # Truncated answers, vendor outages and network errors (curl_cffi's are OSErrors) may pass, like rate
        # limits.
        transient = (YFRateLimitError, YFDataException, OSError, json.JSONDecodeError)
        attempts = Retrying(
            retry=retry_if_exception_type(transient),
            stop=stop_after_attempt(self.attempts),
            wait=wait_exponential_jitter(initial=1, max=60),
            sleep=self.sleep,
            reraise=True,
        )
        ask = self.download or self._ask_yfinance
        try:
            return attempts(ask, symbol, start), Outcome.EMPTY
        except YFRateLimitError:
            return None, Outcome.RATE_LIMITED
        except YFTzMissingError:
            return None, Outcome.UNKNOWN
        except YFPricesMissingError:
            return None, Outcome.EMPTY
        except (YFException, OSError, json.JSONDecodeError) as error:
            logger.warning("yahoo failed on %s after %d attempts: %s", symbol, self.attempts, error)
            return None, Outcome.FAILED

    def _ask_yfinance(self, symbol: str, start: datetime) -> pd.DataFrame:
        import yfinance

        # Errors are otherwise printed and turned into an empty frame, which reads as "no such bars".
        yfinance.config.debug.hide_exceptions = False
        # To now, not to the end wanted: the splits since are needed to undo Yahoo's adjustment.
        return yfinance.Ticker(symbol, session=self.session).history(
            period=None,
            interval="1d",
            start=start,
            end=None,
            prepost=False,
            actions=True,
            auto_adjust=False,
            back_adjust=False,
            repair=False,
            keepna=True,
            rounding=False,
            timeout=30,
        )


def as_traded(symbol: str, frame: pd.DataFrame, calendar: str = XNYS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bars and corporate actions as they were on their day, from Yahoo's split-adjusted answer.

    Parameters
    ----------
    symbol
        The symbol of all rows.
    frame
        Yahoo's columns ``Open``, ``High``, ``Low``, ``Close``, ``Volume``, ``Dividends``, ``Stock Splits`` by
        day, up to now.
    calendar
        The exchange whose closes label the bars.

    Returns
    -------
    tuple of pandas.DataFrame
        Rows of ``BARS`` and of ``CORPORATE_ACTIONS``.
    """
    days = pd.Series(pd.DatetimeIndex(frame.index).tz_localize(None).normalize().astype("datetime64[us]"))
    splits = frame["Stock Splits"].fillna(0.0).to_numpy(dtype="float64")
    ratios = pd.Series(splits).where(splits > 0, 1.0)
    # A bar is divided by the splits after its day: on the ex-date itself prices are already the new ones.
    later = (ratios[::-1].cumprod()[::-1] / ratios).to_numpy()
    bars = frame[list(_PRICES)].rename(columns=_PRICES).reset_index(drop=True).astype("float64")
    for name in ("open", "high", "low", "close"):
        bars[name] *= later
    bars["volume"] /= later
    bars = bars.assign(symbol=symbol, interval="1d", session=days, available_at=session_closes(days, calendar))
    dividends = frame["Dividends"].fillna(0.0).to_numpy(dtype="float64") * later
    actions = pd.concat(
        [
            pd.DataFrame({"session": days[values > 0], "kind": kind, "value": values[values > 0]})
            for kind, values in (("dividend", dividends), ("split", splits))
        ],
        ignore_index=True,
    ).astype({"kind": "str", "session": "datetime64[us]"})
    opens = sessions(days.min(), days.max(), calendar).set_index("session")["opens_at"]
    known_at = actions["session"].map(opens).astype("datetime64[us, UTC]")
    actions = actions.assign(
        symbol=pd.Series(symbol, index=actions.index, dtype="str"),
        available_at=known_at.fillna(session_closes(actions["session"], calendar)),
    )
    return conform(bars, BARS), conform(actions, CORPORATE_ACTIONS)
