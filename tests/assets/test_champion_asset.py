"""The champion: verdicts become rows, the alias follows them, and a stop between the two changes nothing."""

import dataclasses
from collections.abc import Callable

import dagster as dg
import pandas as pd
import pytest

from assets import champion as stage
from atlas_pipeline.adaptation import contest as contests
from atlas_pipeline.adaptation.ledger import DECISIONS, EXPERIENCE, GATE_DECISIONS
from resources.tracking import CHAMPION, MODEL

Judge = Callable[[str], list[str]]


@pytest.fixture
def candidate(traded_copy):
    """An adapter made at step 400, with 100 steps of shadow behind it."""
    assert traded_copy.adapt(400).success
    return traded_copy


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Let every contest end so; the shadow runs are real. Returned are the versions that were judged."""
    held = contests.contest

    def always(said: str) -> list[str]:
        judged: list[str] = []

        def contest(candidate, *arguments):
            judged.append(candidate.version)
            outcome = held(candidate, *arguments)
            return dataclasses.replace(
                outcome, decision=dataclasses.replace(outcome.decision, verdict=said, reason=f"told to {said}")
            )

        monkeypatch.setattr(contests, "contest", contest)
        return judged

    return always


def judge(pipeline, **options):
    return pipeline.learn("trade_on_paper", "champion", partition="2007-12", **options)


def live(pipeline) -> int:
    return pipeline.tracking.alias(MODEL, CHAMPION).version


def decided(pipeline) -> pd.DataFrame:
    return pipeline.warehouse.read(GATE_DECISIONS)


def tag(pipeline, version: int) -> str | None:
    return pipeline.tracking.version(MODEL, version).tags.get("verdict")


def test_the_gates_own_verdict_is_recorded_with_its_numbers(candidate) -> None:
    result = judge(candidate, checks=True)
    assert result.success
    assert candidate.checks(result) == {
        "champion_is_sound": True,
        "gate_decisions_schema": True,
        "champion_came_through_the_gate": True,
    }
    (row,) = decided(candidate).to_dict("records")
    assert (row["candidate_version"], row["champion_version"], row["env_step"]) == ("2", "1", 400)
    assert row["steps"] == 80, "the second look, of 100 steps that have passed"
    known = candidate.warehouse.read(EXPERIENCE).set_index("env_step")["next_bar"]
    assert row["bar"] == known[480]
    # The live model is the frozen base, so both are the same path.
    assert row["champion_total_return"] == row["base_total_return"]
    assert row["verdict"] in ("promote", "refuse", "wait") and len(row["reason"]) > 20
    assert live(candidate) == (2 if row["verdict"] == "promote" else 1)
    (event,) = result.asset_materializations_for_node("champion")
    assert event.metadata["live version"].value == str(live(candidate))
    assert row["reason"] in event.metadata["verdicts"].value


def test_a_candidate_waits_until_enough_steps_have_passed(traded_copy) -> None:
    assert traded_copy.adapt(480).success
    for _ in range(2):
        assert judge(traded_copy).success
    (row,) = decided(traded_copy).to_dict("records")
    assert row["verdict"] == "wait" and row["reason"] == "20 shadow steps of the 40 needed"
    assert live(traded_copy) == 1 and tag(traded_copy, 2) == "wait"


def test_a_candidate_of_the_last_bar_is_not_judged_yet(traded_copy) -> None:
    assert traded_copy.adapt(500, "lora_adapter", "champion").success
    assert decided(traded_copy).empty and live(traded_copy) == 1


def test_waiting_leaves_the_alias_and_is_looked_at_again_only_with_more_steps(candidate, verdict: Judge) -> None:
    judged = verdict("wait")
    for _ in range(2):
        assert judge(candidate).success
    assert judged == ["2"] and len(decided(candidate)) == 1
    assert live(candidate) == 1
    # Half the steps to the next look: there is more to see.
    assert judge(candidate, overrides={"gate_minimum_steps": 100}).success
    assert judged == ["2", "2"] and decided(candidate)["steps"].tolist() == [80, 100]
    assert candidate.warehouse.duplicates(GATE_DECISIONS).empty


def test_a_refusal_is_final(candidate, verdict: Judge) -> None:
    judged = verdict("refuse")
    for _ in range(2):
        assert judge(candidate).success
    assert judged == ["2"] and decided(candidate)["verdict"].tolist() == ["refuse"]
    assert live(candidate) == 1 and tag(candidate, 2) == "refuse"


def test_a_promotion_moves_the_alias_and_what_trades(traded_copy, cut_ledger, verdict: Judge) -> None:
    cut_ledger(traded_copy, 60)
    assert traded_copy.adapt(40).success
    judged = verdict("promote")
    for _ in range(2):
        assert judge(traded_copy, overrides={"gate_minimum_steps": 20}).success
    assert judged == ["2"] and decided(traded_copy)["reason"].tolist() == ["told to promote"]
    assert live(traded_copy) == 2 and tag(traded_copy, 2) == "promote"
    assert stage.champion_came_through_the_gate(tracking=traded_copy.tracking, warehouse=traded_copy.warehouse).passed

    before = traded_copy.warehouse.read(DECISIONS)["bar"].max()
    assert traded_copy.trade(70).success
    rows = traded_copy.warehouse.read(DECISIONS)
    adapter = traded_copy.tracking.version(MODEL, 2).tags["sha256"]
    new = rows["bar"] > before
    assert new.sum() == 2 * 5
    assert set(rows[new]["model_version"]) == {"2"} and set(rows[new]["adapter_sha256"]) == {adapter}
    assert set(rows[~new]["model_version"]) == {"1"}

    # The next adapter continues the one that is live now.
    assert traded_copy.adapt(70).success
    assert traded_copy.tracking.version(MODEL, 3).tags["continues"] == "2"


def test_a_verdict_that_a_stop_kept_from_the_alias_is_carried_out(
    candidate, verdict: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object) -> None:
        raise dg.Failure("stopped here", allow_retries=False)

    judged = verdict("promote")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "carry_out", stopped)
        assert "stopped here" in candidate.failure(judge(candidate))
    assert decided(candidate)["verdict"].tolist() == ["promote"] and live(candidate) == 1
    assert judge(candidate).success
    assert judged == ["2"], "judged a second time"
    assert live(candidate) == 2 and tag(candidate, 2) == "promote" and len(decided(candidate)) == 1


def test_a_promotion_is_not_carried_out_again_after_its_successors(
    candidate, verdict: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the alias and the tag, the old champion must not come back once another is live."""
    from assets import verdicts
    from resources.tracking import Tracking

    def stopped(*arguments: object) -> None:
        raise dg.Failure("stopped here", allow_retries=False)

    verdict("promote")
    with monkeypatch.context() as patch:
        patch.setattr(Tracking, "tag_version", stopped)
        assert "stopped here" in candidate.failure(judge(candidate))
    assert live(candidate) == 2 and tag(candidate, 2) is None
    assert candidate.adapt(420).success
    for _ in range(2):
        assert judge(candidate).success
        assert live(candidate) == 3
    assert verdicts.pending(candidate.tracking, decided(candidate)) == []


def test_a_new_base_waits_for_the_gate_before_anything_is_traded(fold_copy) -> None:
    assert fold_copy.fold("policy", overrides={"ppo_steps": 1024}).success
    result = judge(fold_copy)
    assert result.success and decided(fold_copy).empty and live(fold_copy) == 1


def test_a_new_base_is_judged_beside_the_live_one(traded_copy, cut_ledger, verdict: Judge) -> None:
    cut_ledger(traded_copy, 60)
    assert traded_copy.fold("policy", overrides={"ppo_steps": 1024}).success
    (_, base) = traded_copy.tracking.versions(MODEL)
    traded = traded_copy.warehouse.read(DECISIONS)["bar"].max()
    assert pd.Timestamp(base.tags["created_at"]) == traded, "judged on nothing that was known at its creation"
    judged = verdict("promote")
    assert judge(traded_copy).success and judged == []
    assert traded_copy.trade(100).success
    assert judge(traded_copy).success
    assert judged == ["2"] and live(traded_copy) == 2
    (row,) = decided(traded_copy).to_dict("records")
    assert row["steps"] == 40 and row["candidate_total_return"] == row["base_total_return"]


def test_an_alias_moved_by_hand_fails_the_check(candidate) -> None:
    candidate.tracking.set_alias(MODEL, CHAMPION, 2)
    check = stage.champion_came_through_the_gate(tracking=candidate.tracking, warehouse=candidate.warehouse)
    assert not check.passed and check.metadata["live version"].value == "2"


def test_a_damaged_champion_fails_its_check_and_trades_nothing(candidate) -> None:
    tags = candidate.tracking.version(MODEL, 2).tags
    file = candidate.artifacts.absolute(tags["adapter"])
    file.write_bytes(file.read_bytes()[:-1])
    candidate.tracking.set_alias(MODEL, CHAMPION, 2)
    with pytest.raises(dg.Failure, match=r"adapter\.safetensors is changed since it was published"):
        stage.champion_is_sound(artifacts=candidate.artifacts, tracking=candidate.tracking)
    assert "adapter.safetensors is changed" in candidate.failure(candidate.trade(600))


def test_a_champion_of_another_base_fails_its_check(fold_copy) -> None:
    fold_copy.tracking.tag_version(MODEL, 1, "base_hash", "0" * 64)
    assert not stage.champion_is_sound(artifacts=fold_copy.artifacts, tracking=fold_copy.tracking).passed
