"""Proportional prioritized experience replay on a sum tree and a minimum tree.

What is stored is the caller's: named rows of numpy arrays. Advantages, losses and the decision when to learn
are in ``online_update``. Source: Schaul, Quan, Antonoglou, Silver, "Prioritized Experience Replay", 2016.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas_pipeline.compiled import compiled

FIRST_ALLOCATION = 1024


class ReplayError(ValueError):
    """The buffer was asked for something it cannot give, or given something it cannot hold."""


@compiled
def _write(sums: np.ndarray, minima: np.ndarray, leaves: np.ndarray, priorities: np.ndarray) -> None:
    # Parents are recomputed from their children, never adjusted by a difference: no error accumulates.
    capacity = sums.shape[0] // 2
    for k in range(leaves.shape[0]):
        node = leaves[k] + capacity
        sums[node] = priorities[k]
        minima[node] = priorities[k]
        node //= 2
        while node >= 1:
            sums[node] = sums[2 * node] + sums[2 * node + 1]
            minima[node] = min(minima[2 * node], minima[2 * node + 1])
            node //= 2


@compiled
def _find(sums: np.ndarray, masses: np.ndarray, last: int) -> np.ndarray:
    capacity = sums.shape[0] // 2
    leaves = np.empty(masses.shape[0], dtype=np.int64)
    for k in range(masses.shape[0]):
        mass = masses[k]
        node = 1
        while node < capacity:
            node *= 2
            if mass >= sums[node]:
                mass -= sums[node]
                node += 1
        # Rounding in the partial sums may step one leaf past the last one in use.
        leaves[k] = min(node - capacity, last)
    return leaves


@dataclass(frozen=True)
class ReplaySample:
    """A draw: ``indices`` int64 [n], ``weights`` float64 [n] up to 1, ``experience`` name -> [n, ...]."""

    indices: np.ndarray
    weights: np.ndarray
    experience: dict[str, np.ndarray]


class PrioritizedReplayBuffer:
    """A ring of experiences, drawn in proportion to ``(|td_error| + epsilon) ** alpha``.

    Priorities are equation (1) of Schaul et al. (2016) in its proportional variant (section 3.3); importance
    weights are ``(N * P(i)) ** -beta / max(w)`` (section 3.4), the maximum taken over the whole buffer, so
    that a weight does not depend on what else was drawn. ``beta`` rises by ``beta_increment`` at every draw,
    up to 1.

    Parameters
    ----------
    capacity : int
        Experiences held; then the oldest is overwritten.
    alpha : float
        0 draws uniformly, 1 in proportion to the error.
    beta : float
        Initial strength of the correction for non-uniform draws, 0 to 1.
    beta_increment : float
        Added to ``beta`` at each draw.
    epsilon : float
        Keeps experiences without error reachable.

    Raises
    ------
    ReplayError
        Naming the setting and its value where it cannot work.
    """

    def __init__(
        self,
        capacity: int = 100_000,
        alpha: float = 0.6,
        beta: float = 0.4,
        beta_increment: float = 0.001,
        epsilon: float = 1e-6,
    ) -> None:
        for name, value, works in (
            ("capacity", capacity, capacity >= 1),
            ("alpha", alpha, alpha >= 0),
            ("beta", beta, 0 <= beta <= 1),
            ("beta_increment", beta_increment, beta_increment >= 0),
            ("epsilon", epsilon, epsilon > 0),
        ):
            if not works:
                raise ReplayError(f"PrioritizedReplayBuffer({name}={value!r}) cannot work; see its parameters")
        self.capacity = capacity
        self.alpha = alpha
        self.beta = beta
        self.beta_increment = beta_increment
        self.epsilon = epsilon
        leaves = 1 << (capacity - 1).bit_length()
        self._sums = np.zeros(2 * leaves)
        self._minima = np.full(2 * leaves, np.inf)
        self._leaves = leaves
        self._columns: dict[str, np.ndarray] = {}
        self._size = 0
        self._cursor = 0
        self._largest = 1.0

    def __len__(self) -> int:
        return self._size

    @property
    def priorities(self) -> np.ndarray:
        """Priority of every experience held, float64 [len]."""
        return self._sums[self._leaves : self._leaves + self._size].copy()

    @property
    def experience(self) -> dict[str, np.ndarray]:
        """Every experience held, in storage order, name -> [len, ...]; views, not copies."""
        return {name: column[: self._size] for name, column in self._columns.items()}

    def add(self, experience: Mapping[str, Any], td_error: np.ndarray | float | None = None) -> np.ndarray:
        """Store one experience, or a batch.

        Parameters
        ----------
        experience : mapping of str to array
            Name -> [n, ...]; every call has the same names, row shapes and dtypes.
        td_error : array [n] or float, optional
            Temporal-difference errors; without them the largest priority seen is given, so that everything is
            drawn soon (Schaul et al., algorithm 1, line 6).

        Returns
        -------
        int64 [n]
            The places they were stored at.

        Raises
        ------
        ReplayError
            For unequal lengths, other names or shapes than before, or a non-finite error.
        """
        rows = {name: np.asarray(value) for name, value in experience.items()}
        lengths = {name: len(value) if value.ndim else -1 for name, value in rows.items()}
        if not rows or len(set(lengths.values())) != 1 or -1 in lengths.values():
            raise ReplayError(f"experiences must be arrays of one common first dimension, got lengths {lengths}")
        count = next(iter(lengths.values()))
        if count > self.capacity:
            raise ReplayError(f"{count} experiences do not fit a capacity of {self.capacity}; add the newest only")
        if td_error is None:
            priorities = np.full(count, self._largest)
        else:
            priorities = self._priority(np.broadcast_to(np.asarray(td_error, dtype=np.float64), (count,)))
        places = (self._cursor + np.arange(count)) % self.capacity
        self._reserve(rows, min(self.capacity, self._size + count))
        for name, value in rows.items():
            self._columns[name][places] = value
        _write(self._sums, self._minima, places, priorities)
        self._cursor = int((self._cursor + count) % self.capacity)
        self._size = min(self.capacity, self._size + count)
        return places

    def sample(self, batch_size: int, generator: np.random.Generator) -> ReplaySample:
        """Draw with replacement, one from each of ``batch_size`` equal strata of the mass; raise ``beta``.

        Strata: Schaul et al., appendix B.2.1. The same generator state gives the same draw.

        Raises
        ------
        ReplayError
            Where the buffer is empty.
        """
        if not self._size:
            raise ReplayError("nothing to draw from: the replay buffer is empty; add experience first")
        total = self._sums[1]
        masses = (np.arange(batch_size) + generator.random(batch_size)) * (total / batch_size)
        indices = _find(self._sums, masses, self._size - 1)
        # (N P(i))^-beta over its maximum: N and the total cancel; the ratio to the least priority stays.
        weights = (self._sums[self._leaves + indices] / self._minima[1]) ** -self.beta
        self.beta = min(1.0, self.beta + self.beta_increment)
        return ReplaySample(indices, weights, {name: column[indices] for name, column in self._columns.items()})

    def update_priorities(self, indices: np.ndarray, td_error: np.ndarray) -> None:
        """Give the experiences at these places new errors.

        Raises
        ------
        ReplayError
            For a place that holds nothing, or a non-finite error.
        """
        places = np.asarray(indices, dtype=np.int64)
        if len(places) and (places.min() < 0 or places.max() >= self._size):
            raise ReplayError(f"places {places.min()} to {places.max()} are not within the {self._size} in use")
        _write(self._sums, self._minima, places, self._priority(np.asarray(td_error, dtype=np.float64)))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything as arrays (scalars as float64 or int64), so that it fits a safetensors file."""
        state = {f"experience.{name}": column[: self._size].copy() for name, column in self._columns.items()}
        state["priorities"] = self.priorities
        state["settings"] = np.array([self.alpha, self.beta, self.beta_increment, self.epsilon, self._largest])
        state["places"] = np.array([self.capacity, self._cursor, self._size], dtype=np.int64)
        return state

    @classmethod
    def from_state_dict(cls, state: Mapping[str, np.ndarray]) -> PrioritizedReplayBuffer:
        """Rebuild the buffer that ``state_dict`` described; its next draws equal the original's.

        Raises
        ------
        ReplayError
            Where an entry is missing.
        """
        missing = sorted({"priorities", "settings", "places"} - state.keys())
        if missing:
            raise ReplayError(f"not the state of a replay buffer: it lacks {missing}; start with an empty buffer")
        alpha, beta, beta_increment, epsilon, largest = (float(value) for value in state["settings"])
        capacity, cursor, size = (int(value) for value in state["places"])
        buffer = cls(capacity, alpha, beta, beta_increment, epsilon)
        prefix = "experience."
        rows = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if size:
            buffer._reserve(rows, size)
            for name, value in rows.items():
                buffer._columns[name][:size] = value
            _write(
                buffer._sums,
                buffer._minima,
                np.arange(size),
                np.asarray(state["priorities"], dtype=np.float64),
            )
        buffer._cursor, buffer._size, buffer._largest = cursor, size, largest
        return buffer

    def _priority(self, td_error: np.ndarray) -> np.ndarray:
        if not np.isfinite(td_error).all():
            raise ReplayError("a temporal-difference error is not finite; the value estimates have diverged")
        priorities = (np.abs(td_error) + self.epsilon) ** self.alpha
        if len(priorities):
            self._largest = max(self._largest, float(priorities.max()))
        return priorities

    def _reserve(self, rows: Mapping[str, np.ndarray], needed: int) -> None:
        if not self._columns:
            first = min(self.capacity, max(FIRST_ALLOCATION, needed))
            self._columns = {name: np.empty((first, *v.shape[1:]), v.dtype) for name, v in rows.items()}
        expected = {name: column.shape[1:] for name, column in self._columns.items()}
        given = {name: value.shape[1:] for name, value in rows.items()}
        if given != expected:
            raise ReplayError(f"this buffer holds rows of shape {expected}, not {given}")
        held = len(next(iter(self._columns.values())))
        if needed > held:
            # Doubling: memory follows what is stored, not the capacity, at constant amortised cost.
            size = min(self.capacity, max(needed, 2 * held))
            for name, column in self._columns.items():
                grown = np.empty((size, *column.shape[1:]), column.dtype)
                grown[: self._size] = column[: self._size]
                self._columns[name] = grown
