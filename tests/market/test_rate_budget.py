import threading

import pytest

from atlas_pipeline.market.rate_budget import RateBudget


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_requests_are_as_many_a_second_as_the_budget_says(clock):
    budget = RateBudget(4.0, clock.sleep, clock)
    for _ in range(44):
        budget.acquire()
    # The first four are saved up, the other forty are paid for.
    assert clock.time == pytest.approx(1010.0)


def test_a_rest_saves_up_one_second_of_requests_at_most(clock):
    budget = RateBudget(4.0, clock.sleep, clock)
    clock.time += 3600
    for _ in range(5):
        budget.acquire()
    assert clock.slept == [pytest.approx(0.25)]


def test_slow_budgets_still_let_one_request_go_at_once(clock):
    budget = RateBudget(0.1, clock.sleep, clock)
    budget.acquire()
    budget.acquire()
    assert clock.slept == [pytest.approx(10.0)]


def test_a_refusal_pauses_everybody_and_halves_the_rate(clock):
    budget = RateBudget(8.0, clock.sleep, clock)
    budget.acquire()
    budget.refused()
    assert budget.per_second == 4.0
    budget.acquire()
    assert 1.0 <= clock.slept[0] <= 1.5
    # Nothing was saved up during the pause.
    budget.acquire()
    assert clock.slept[1] == pytest.approx(0.25)


def test_refusals_of_requests_under_way_are_one_refusal(clock):
    budget = RateBudget(8.0, clock.sleep, clock)
    for _ in range(8):
        budget.refused()
    assert budget.per_second == 4.0


def test_pauses_double_with_every_refusal_and_end_with_an_answer(clock):
    budget = RateBudget(8.0, clock.sleep, clock)
    for _ in range(9):
        budget.refused()
        budget.acquire()
    doubled = [min(2.0**i, 120) for i in range(9)]
    assert all(low <= pause <= 1.5 * low for low, pause in zip(doubled, clock.slept, strict=True))
    assert budget.per_second == 0.5
    budget.answered()
    clock.time += 60
    budget.refused()
    budget.acquire()
    assert clock.slept[-1] <= 1.5


def test_the_vendor_says_how_long_to_wait(clock):
    budget = RateBudget(8.0, clock.sleep, clock)
    budget.refused(retry_after=30)
    budget.refused(retry_after=45)
    budget.acquire()
    assert clock.slept == [45]


def test_answers_bring_the_full_rate_back_and_no_more(clock):
    budget = RateBudget(8.0, clock.sleep, clock)
    budget.refused()
    for _ in range(100):
        budget.answered()
    assert budget.per_second == 8.0


def test_without_a_pace_only_refusals_make_anybody_wait(clock):
    budget = RateBudget(None, clock.sleep, clock)
    for _ in range(1000):
        budget.acquire()
    assert clock.slept == []
    budget.refused(retry_after=7)
    budget.acquire()
    assert (clock.slept, budget.per_second) == ([7], None)


def test_who_waits_while_another_is_refused_waits_on(clock):
    budget = RateBudget(1.0, clock.sleep, clock)
    budget.acquire()
    slept = []

    def refused_meanwhile(seconds: float) -> None:
        if not slept:
            budget.refused(retry_after=60)
        slept.append(seconds)

    budget._sleep = refused_meanwhile
    budget.acquire()
    assert sum(slept) == pytest.approx(60)


def test_threads_share_one_budget():
    waits: list[float] = []
    budget = RateBudget(10.0, waits.append, lambda: 0.0)
    threads = [threading.Thread(target=lambda: [budget.acquire() for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Ten at once, then one every tenth of a second: each of the 90 has an instant of its own.
    assert sorted(waits) == pytest.approx([i / 10 for i in range(1, 91)])


@pytest.mark.parametrize("rate", [0, -1.0])
def test_a_budget_that_allows_nothing_is_refused(rate):
    with pytest.raises(ValueError, match="positive rate"):
        RateBudget(rate)
