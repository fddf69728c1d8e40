"""Stored experience as arrays: its order, its contiguous segments, the windows its states were seen through.

Rows come from the table EXPERIENCE; what is learned from them is in ``online_update``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from atlas_pipeline.adaptation.ledger import CONTEXT_COLUMNS
from atlas_pipeline.windows.index import window_ends
from atlas_pipeline.windows.panel import Panel

if TYPE_CHECKING:
    import pandas as pd


class ExperienceError(ValueError):
    """Experience does not fit the panel or the replay buffer, or there is nothing in it to learn from."""


@dataclass(frozen=True, eq=False)
class Experience:
    """Environment steps sorted by symbol and bar; "row" means a position in these arrays.

    Attributes
    ----------
    env_step
        int64 [n], running number in the ledger.
    ends
        int64 [n], row of the panel at which the state's window ends.
    contexts
        float32 [n, len(CONTEXT)].
    actions
        int64 [n].
    log_probabilities
        float64 [n], nats, under the policy that acted.
    rewards
        float64 [n].
    terminated
        bool [n], the account was ruined in this step.
    follows
        bool [n], the next row is the state that followed.
    """

    env_step: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    contexts: npt.NDArray[np.float32]
    actions: npt.NDArray[np.int64]
    log_probabilities: npt.NDArray[np.float64]
    rewards: npt.NDArray[np.float64]
    terminated: npt.NDArray[np.bool_]
    follows: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, frame: pd.DataFrame, panel: Panel, seq_length: int) -> Experience:
        """Sort rows of the table EXPERIENCE and find their windows.

        Raises
        ------
        ExperienceError
            Where rows are of several ledgers, there are fewer than two, or a bar ends no valid window.
        """
        ledgers = sorted(set(frame["ledger"]))
        if len(ledgers) != 1 or len(frame) < 2:
            raise ExperienceError(
                f"{len(frame)} steps of ledgers {ledgers}: pass at least two steps, all of one ledger"
            )
        ordered = frame.sort_values(["symbol", "bar"])
        symbols = ordered["symbol"].to_numpy(str)
        bars, next_bars = _microseconds(ordered["bar"]), _microseconds(ordered["next_bar"])
        follows = np.zeros(len(ordered), bool)
        follows[:-1] = (symbols[1:] == symbols[:-1]) & (bars[1:] == next_bars[:-1])
        return cls(
            env_step=ordered["env_step"].to_numpy(np.int64),
            ends=_window_rows(panel, symbols, bars, seq_length),
            contexts=ordered[list(CONTEXT_COLUMNS)].to_numpy(np.float32),
            actions=ordered["action"].to_numpy(np.int64),
            log_probabilities=ordered["log_probability"].to_numpy(np.float64),
            rewards=ordered["reward"].to_numpy(np.float64),
            terminated=ordered["terminated"].to_numpy(bool),
            follows=follows,
        )

    def __len__(self) -> int:
        return len(self.env_step)

    @property
    def complete(self) -> npt.NDArray[np.bool_]:
        """Steps whose following state is known here, or that had none: what can be learned from; bool [n]."""
        return self.follows | self.terminated

    def rows_of(self, env_steps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Rows of these environment steps.

        Raises
        ------
        ExperienceError
            Where one is not here.
        """
        order = np.argsort(self.env_step)
        found = order[np.minimum(np.searchsorted(self.env_step, env_steps, sorter=order), len(self) - 1)]
        missing = env_steps[self.env_step[found] != env_steps]
        if missing.size:
            raise ExperienceError(
                f"{missing.size} steps of the replay buffer, the first {missing[0]}, are not in the "
                "experience: pass all experience that the buffer holds, or begin an empty buffer"
            )
        return found

    def segments(self, rows: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
        """Rows, increasing, of the complete steps among the ``length`` that continue from each of these."""
        last = np.arange(len(self))
        going_on = self.follows & ~self.terminated
        complete = self.complete
        for row in range(len(self) - 2, -1, -1):
            if going_on[row] and complete[row + 1]:
                last[row] = last[row + 1]
        starts = rows[complete[rows]]
        # Cover counts: +1 where a segment begins, -1 after it ends.
        cover = np.zeros(len(self) + 1, np.int64)
        np.add.at(cover, starts, 1)
        np.add.at(cover, np.minimum(starts + length - 1, last[starts]) + 1, -1)
        return np.flatnonzero(cover.cumsum()[:-1])


def _microseconds(instants: pd.Series) -> npt.NDArray[np.int64]:
    return instants.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)


def _window_rows(
    panel: Panel, symbols: npt.NDArray[np.str_], bars: npt.NDArray[np.int64], seq_length: int
) -> npt.NDArray[np.int64]:
    rows = np.full(len(bars), -1, np.int64)
    for name in np.unique(symbols):
        mine = symbols == name
        number = panel.symbols.index(name) if name in panel.symbols else -1
        of_symbol = np.flatnonzero(panel.symbol == number)
        if of_symbol.size:
            places = np.searchsorted(panel.available_at[of_symbol], bars[mine])
            found = of_symbol[np.minimum(places, len(of_symbol) - 1)]
            rows[mine] = np.where(panel.available_at[found] == bars[mine], found, -1)
    bad = np.flatnonzero(~np.isin(rows, window_ends(panel, seq_length)))
    if bad.size:
        raise ExperienceError(
            f"{bad.size} steps, the first of {symbols[bad[0]]} at {np.datetime64(int(bars[bad[0]]), 'us')}, "
            f"end no valid window of {seq_length} bars in the panel: materialize the panel of those years"
        )
    return rows
