import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_pipeline.adaptation.replay import PrioritizedReplayBuffer, ReplayError


def test_defaults_are_those_of_the_documents_of_origin():
    buffer = PrioritizedReplayBuffer()
    assert (buffer.capacity, buffer.alpha, buffer.beta) == (100_000, 0.6, 0.4)


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 40),
    batches=st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=12), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_a_brute_force_ring(capacity, batches, seed):
    buffer = PrioritizedReplayBuffer(capacity, alpha=0.7, beta=0.5, beta_increment=0.1, epsilon=1e-3)
    values, priorities, cursor = {}, {}, 0
    counter = 0
    for errors in batches:
        errors = np.array(errors[:capacity])
        numbers = np.arange(counter, counter + len(errors))
        counter += len(errors)
        places = buffer.add({"number": numbers}, errors)
        for place, number, error in zip(places, numbers, errors, strict=True):
            assert place == cursor % capacity
            values[cursor % capacity] = number
            priorities[cursor % capacity] = (abs(error) + 1e-3) ** 0.7
            cursor += 1
    assert len(buffer) == len(values)
    expected = np.array([priorities[i] for i in range(len(values))])
    np.testing.assert_allclose(buffer.priorities, expected, rtol=1e-14)  # powers of arrays and scalars
    np.testing.assert_array_equal(buffer.experience["number"], [values[i] for i in range(len(values))])

    drawn = buffer.sample(16, np.random.default_rng(seed))
    uniform = np.random.default_rng(seed).random(16)
    masses = (np.arange(16) + uniform) * expected.sum() / 16
    cumulative = np.cumsum(expected)
    # A mass within rounding of a boundary may fall on either side of it.
    clear = np.abs(masses[:, None] - cumulative).min(axis=1) > 1e-9
    reference = np.minimum(np.searchsorted(cumulative, masses, side="right"), len(expected) - 1)
    np.testing.assert_array_equal(drawn.indices[clear], reference[clear])
    share = expected / expected.sum()
    weights = (len(expected) * share) ** -0.5
    np.testing.assert_allclose(drawn.weights, (weights / weights.max())[drawn.indices], rtol=1e-9)
    np.testing.assert_array_equal(drawn.experience["number"], [values[i] for i in drawn.indices])
    assert buffer.beta == pytest.approx(0.6)


def test_draws_follow_the_priorities():
    errors = np.array([0.1, 1.0, 4.0, 0.0])
    buffer = PrioritizedReplayBuffer(4, alpha=1.0, epsilon=1e-6)
    buffer.add({"i": np.arange(4)}, errors)
    drawn = buffer.sample(100_000, np.random.default_rng(0)).indices
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 1e5, errors / errors.sum(), atol=1e-3)


def test_new_experience_gets_the_largest_priority_seen():
    buffer = PrioritizedReplayBuffer(8)
    buffer.add({"i": np.arange(2)}, np.array([9.0, 1.0]))
    buffer.update_priorities(np.array([0]), np.array([2.0]))
    place = buffer.add({"i": np.array([7])})
    assert buffer.priorities[place[0]] == pytest.approx((9 + 1e-6) ** 0.6)


def test_beta_rises_to_one_and_stays():
    buffer = PrioritizedReplayBuffer(4, beta=0.9, beta_increment=0.07)
    buffer.add({"i": np.arange(1)})
    generator = np.random.default_rng(0)
    for _ in range(3):
        buffer.sample(1, generator)
    assert buffer.beta == 1.0


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 30), seed=st.integers(0, 1000))
def test_state_is_carried_on_exactly(count, seed):
    generator = np.random.default_rng(seed)
    buffer = PrioritizedReplayBuffer(16, beta_increment=0.01)
    for _ in range(count):
        buffer.add({"x": generator.random((1, 3), dtype=np.float32)}, generator.normal(size=1))
    twin = PrioritizedReplayBuffer.from_state_dict(buffer.state_dict())
    if count:
        buffer.sample(4, np.random.default_rng(1))
        twin.sample(4, np.random.default_rng(1))
    for each in (buffer, twin):
        each.add({"x": np.ones((2, 3), np.float32)})
    one, other = (each.sample(32, np.random.default_rng(2)) for each in (buffer, twin))
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.experience["x"], other.experience["x"])
    assert buffer.beta == twin.beta


def test_memory_grows_with_what_is_stored():
    buffer = PrioritizedReplayBuffer(50_000)
    for start in range(0, 3000, 500):
        buffer.add({"i": np.arange(start, start + 500)})
    np.testing.assert_array_equal(buffer.experience["i"], np.arange(3000))
    assert len(buffer._columns["i"]) < 5000


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda b: PrioritizedReplayBuffer(0), "capacity=0"),
        (lambda b: PrioritizedReplayBuffer(4, beta=1.5), "beta=1.5"),
        (lambda b: PrioritizedReplayBuffer(4).sample(1, np.random.default_rng(0)), "empty"),
        (lambda b: b.add({"i": np.arange(2)}, np.array([1.0, np.nan])), "not finite"),
        (lambda b: b.update_priorities(np.array([0]), np.array([np.inf])), "not finite"),
        (lambda b: b.update_priorities(np.array([3]), np.array([1.0])), "3 to 3"),
        (lambda b: b.add({"other": np.arange(2)}), "holds rows"),
        (lambda b: b.add({"i": np.zeros((1, 2))}), "holds rows"),
        (lambda b: b.add({"i": np.arange(9)}), "do not fit"),
        (lambda b: b.add({"i": np.arange(2), "j": np.arange(3)}), "common first dimension"),
        (lambda b: PrioritizedReplayBuffer.from_state_dict({}), "lacks"),
    ],
)
def test_refuses_what_cannot_work(act, message):
    buffer = PrioritizedReplayBuffer(4)
    buffer.add({"i": np.arange(2)})
    with pytest.raises(ReplayError, match=message):
        act(buffer)
