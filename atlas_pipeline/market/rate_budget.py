"""How fast a vendor may be asked: one budget of requests that all threads of a source share.

Knows nothing of HTTP; who asks says when the vendor answered and when it refused.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

_LONGEST_PAUSE = 120.0
_SLOWEST = 1 / 16
_RECOVERY = 1.05


class RateBudget:
    """A token bucket that slows down as a whole where the vendor refuses, and recovers as it answers.

    A refusal halves the rate, down to a sixteenth, and lets everybody wait: as long as the vendor says, else 1, 2,
    4 ... up to 120 seconds, with jitter, for refusals in a row. Each answer raises the rate by a twentieth until it
    is the full one again. Refusals of requests that were under way during such a pause are part of it.

    Parameters
    ----------
    per_second
        Requests a second, and how many may go at once after a rest (at least one); None sets no pace, so that only
        the pauses after refusals remain.
    sleep, clock
        How to wait, and a clock in seconds that never goes back.

    Raises
    ------
    ValueError
        Where ``per_second`` is not positive.
    """

    def __init__(
        self,
        per_second: float | None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if per_second is not None and not per_second > 0:
            raise ValueError(f"per_second={per_second}: a budget allows some requests; use a positive rate, or None")
        self._full = per_second
        self._rate = per_second or float("inf")
        self._burst = max(1.0, per_second or 1.0)
        self._sleep, self._clock = sleep, clock
        # The bucket as the instant at which it is full again: every request moves it on by its share.
        self._full_at = self._paused_until = clock()
        self._refusals = 0
        self._lock = threading.Lock()

    @property
    def per_second(self) -> float | None:
        """The rate now; None where no pace is set."""
        return None if self._full is None else self._rate

    def acquire(self) -> None:
        """Take a request from the budget, and wait until it may be sent."""
        with self._lock:
            now = self._clock()
            slot = self._take(now)
        while True:
            if slot > now:
                self._sleep(slot - now)
            with self._lock:
                if slot >= self._paused_until:
                    return
                # Refused to somebody else in the meantime: to the end of the queue.
                now, slot = slot, self._take(self._paused_until)

    def _take(self, earliest: float) -> float:
        """Find the instant at which the next request may go, and count it."""
        slot = max(earliest, self._paused_until, self._full_at - (self._burst - 1) / self._rate)
        self._full_at = max(self._full_at, slot) + 1 / self._rate
        return slot

    def answered(self) -> None:
        """Say that the vendor answered a request."""
        with self._lock:
            self._refusals = 0
            if self._full is not None:
                self._rate = min(self._full, self._rate * _RECOVERY)

    def refused(self, retry_after: float | None = None) -> None:
        """Say that the vendor refused a request as one too many.

        Parameters
        ----------
        retry_after
            Seconds that the vendor asks to wait, where it says so.
        """
        with self._lock:
            now = self._clock()
            if now >= self._paused_until:
                self._refusals += 1
                pause = min(_LONGEST_PAUSE, 2.0 ** (self._refusals - 1)) * random.uniform(1, 1.5)
                if self._full is not None:
                    self._rate = max(self._full * _SLOWEST, self._rate / 2)
                self._paused_until = now + (pause if retry_after is None else retry_after)
            if retry_after is not None:
                self._paused_until = max(self._paused_until, now + retry_after)
            # What was saved up is gone, or the pause would end in a burst.
            self._full_at = max(self._full_at, self._paused_until + (self._burst - 1) / self._rate)
