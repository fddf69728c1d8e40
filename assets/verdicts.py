"""How the gate's verdicts become rows, and the registry follows them. The verdict itself is ``adaptation.gate``'s."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pandas as pd

from assets.paper import LEDGER
from assets.serving import champion_version
from atlas_pipeline.adaptation.ledger import GATE_DECISIONS
from resources.tracking import CHAMPION, MODEL, ModelVersion, Tracking

if TYPE_CHECKING:
    from atlas_pipeline.adaptation.contest import Contest

FINAL = ("promote", "refuse")


def pending(tracking: Tracking, decided: pd.DataFrame) -> list[ModelVersion]:
    """Candidates without a final verdict, oldest first; verdicts that a stop kept from the alias are carried out."""
    final = decided[decided["verdict"].isin(FINAL)].set_index("candidate_version")["verdict"].to_dict()
    live = champion_version(tracking)
    waiting = []
    for version in tracking.versions(MODEL):
        name = str(version.version)
        if version.tags.get("verdict") in FINAL or "created_at" not in version.tags:
            continue
        if name in final:
            # Also where it is live already: untagged, it would be carried out again after its successor.
            carry_out(tracking, version, final[name])
        elif version.version != live.version:
            waiting.append(version)
    return waiting


def next_look(
    candidate: ModelVersion, decided: pd.DataFrame, bars: pd.DatetimeIndex, symbols: int, minimum: int
) -> datetime | None:
    """First instant after the bars that the next look at a candidate takes in; None while it has to wait for more.

    The gate looks at the first ``minimum`` shadow steps, then at twice as many, and so on: the number of looks, and
    with it the chance that one of them promotes by luck, is bounded however often the asset is materialized. Before
    that, a candidate is entered once as waiting.

    Parameters
    ----------
    candidate
        Version that waits for a verdict.
    decided
        Rows of ``GATE_DECISIONS``.
    bars
        Instants of the ledger's bars, sorted.
    symbols
        Environment steps a bar.
    minimum
        ``gate_minimum_steps``.
    """
    ahead = bars[bars >= pd.Timestamp(candidate.tags["created_at"])]
    own = decided[decided["candidate_version"] == str(candidate.version)]
    looks = (len(ahead) - 1) * symbols // minimum
    if looks == 0:
        return None if len(own) or len(ahead) < 2 else _after(ahead[-1])
    last = ahead[-(-looks * minimum // symbols)]
    return None if len(own) and own["bar"].max() >= last else _after(last)


def _after(bar: pd.Timestamp) -> datetime:
    return (bar + pd.Timedelta(microseconds=1)).to_pydatetime()


def carry_out(tracking: Tracking, candidate: ModelVersion, verdict: str) -> None:
    """Let the registry follow a verdict: the alias first, then the tag that says it was done."""
    if verdict == "promote":
        tracking.set_alias(MODEL, CHAMPION, candidate.version)
    tracking.tag_version(MODEL, candidate.version, "verdict", verdict)


def decision_row(candidate: ModelVersion, live: ModelVersion, outcome: Contest) -> pd.DataFrame:
    """Return the one row of ``GATE_DECISIONS`` that says what was decided and on which numbers."""
    numbers = outcome.decision.numbers
    known = {
        "ledger": LEDGER,
        "candidate_sha256": candidate.tags["sha256"],
        "bar": pd.to_datetime(outcome.instants[-1], unit="us", utc=True),
        "env_step": int(candidate.tags["env_step"]),
        "candidate_version": str(candidate.version),
        "champion_version": str(live.version),
        "verdict": outcome.decision.verdict,
        "reason": outcome.decision.reason,
        "steps": int(numbers["steps"]),
    }
    return pd.DataFrame([{name: known.get(name, numbers.get(name)) for name in GATE_DECISIONS.names}])
