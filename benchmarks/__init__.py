"""Figures, each measured beside a peer in the same process: ``python -m benchmarks.NAME`` prints one JSON line each."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

REPETITIONS = 9


def medians(
    ours: Callable[[], object], peer: Callable[[], object], repetitions: int = REPETITIONS
) -> tuple[float, float]:
    """Median milliseconds of two functions, called in turn so that a drifting machine treats both alike."""
    timings: tuple[list[float], list[float]] = ([], [])
    for function in (ours, peer):
        function()
    for _ in range(repetitions):
        for function, own in zip((ours, peer), timings, strict=True):
            started = time.perf_counter()
            function()
            own.append(1e3 * (time.perf_counter() - started))
    return statistics.median(timings[0]), statistics.median(timings[1])


def figure(name: str, value: float, unit: str, peer: str, peer_value: float, ratio: float, note: str) -> None:
    """Print a figure as one JSON line; ``ratio`` is above 1 where ours is better."""
    print(
        json.dumps(
            {
                "figure": name,
                "value": round(value, 3),
                "unit": unit,
                "peer": peer,
                "peer_value": round(peer_value, 3),
                "ratio": round(ratio, 2),
                "note": note,
            }
        ),
        flush=True,
    )
    print(f"{name}: {value:.3g} {unit}, {peer} {peer_value:.3g} {unit}, {ratio:.2f} times", file=sys.stderr)
