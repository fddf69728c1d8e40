"""What is remembered of series: chosen, joined, written whole, and refused where it is not what was written."""

import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from atlas_pipeline.features import memory as memory_module
from atlas_pipeline.features.compute import compute_features, continue_features
from atlas_pipeline.features.memory import SeriesMemory, SeriesMemoryError

ARRAYS = ("last_bar", "last_priced", "last_close", "ages", "averages", "history")
KNOWN = (("AAA", "1d"), ("BBB", "1d"))


@pytest.fixture(scope="module")
def remembered():
    """Make a memory of series whose arrays all differ."""

    def make(*series, seed=0):
        random, made = np.random.default_rng(seed), SeriesMemory.empty(series)
        for name in ARRAYS:
            values = getattr(made, name)
            values[:] = random.integers(1, 10**6, values.shape)
        made.history[:, 4:] = np.nan
        return made

    return make


def require_equal(one, other):
    assert one.series == other.series
    for name in ARRAYS:
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


def test_a_memory_reads_back_as_it_was_written(tmp_path, remembered):
    for written in (remembered(*KNOWN), remembered(("ÄÖ \"'", "5m")), SeriesMemory.empty()):
        written.write(tmp_path / "memory")
        require_equal(SeriesMemory.read(tmp_path / "memory"), written)
    assert [each.name for each in tmp_path.iterdir()] == ["memory"]


def test_a_computed_memory_reads_back(tmp_path, make_bars, walk):
    made = continue_features(SeriesMemory.empty(), make_bars(walk(300))).memory
    made.write(tmp_path / "memory")
    require_equal(SeriesMemory.read(tmp_path / "memory"), made)


def test_series_are_chosen_in_order_and_the_unknown_are_empty(remembered):
    known = remembered(*KNOWN)
    chosen = known.of([("BBB", "1d"), ("NEW", "1d"), ("AAA", "1h"), ("AAA", "1d")])
    assert chosen.series == (("BBB", "1d"), ("NEW", "1d"), ("AAA", "1h"), ("AAA", "1d"))
    for name in ARRAYS:
        mine, theirs, nothing = (getattr(each, name) for each in (chosen, known, SeriesMemory.empty([KNOWN[0]])))
        np.testing.assert_array_equal(mine[[0, 3]], theirs[[1, 0]])
        np.testing.assert_array_equal(mine[1:3], np.concatenate([nothing, nothing]))


def test_what_is_chosen_is_a_copy(remembered):
    known = remembered(*KNOWN)
    chosen = known.of(KNOWN)
    for name in ARRAYS:
        getattr(chosen, name)[:] = 0
    require_equal(known, remembered(*KNOWN))


def test_an_update_replaces_and_keeps(remembered):
    before, after = remembered(*KNOWN), remembered(("AAA", "1h"), ("BBB", "1d"), seed=1)
    joined = before.updated(after)
    assert joined.series == (("AAA", "1d"), ("AAA", "1h"), ("BBB", "1d"))
    require_equal(joined.of([KNOWN[0]]), before.of([KNOWN[0]]))
    require_equal(joined.of(after.series), after)
    require_equal(before, remembered(*KNOWN))
    require_equal(before.updated(SeriesMemory.empty()), before)
    require_equal(SeriesMemory.empty().updated(before), before)


@pytest.mark.parametrize("length", [0, 1, 8, 200, -1])
def test_a_damaged_file_is_refused(tmp_path, remembered, length):
    path = tmp_path / "memory"
    remembered(*KNOWN).write(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(SeriesMemoryError, match=r"damaged.*delete the file"):
        SeriesMemory.read(path)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(SeriesMemoryError, match="damaged"):
        SeriesMemory.read(tmp_path / "none")


@pytest.mark.parametrize("place", [-1, -5000, -20_000])
def test_a_changed_bit_is_found(tmp_path, remembered, place):
    path = tmp_path / "memory"
    remembered(*KNOWN).write(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(SeriesMemoryError, match="not what was written"):
        SeriesMemory.read(path)


def test_other_names_under_the_same_numbers_are_found(tmp_path, remembered):
    path = tmp_path / "memory"
    remembered(*KNOWN).write(path)
    path.write_bytes(path.read_bytes().replace(b"BBB", b"CCC"))
    with pytest.raises(SeriesMemoryError, match="not what was written"):
        SeriesMemory.read(path)


@pytest.mark.parametrize("lacking", ["series", "features", "sha256", "everything"])
def test_a_file_without_its_description_is_refused(tmp_path, remembered, lacking):
    path = tmp_path / "memory"
    remembered(*KNOWN).write(path)
    header = path.read_bytes()
    about = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    kept = None if lacking == "everything" else {name: text for name, text in about.items() if name != lacking}
    save_file(load_file(path), path, kept)
    with pytest.raises(SeriesMemoryError, match="damaged"):
        SeriesMemory.read(path)


def test_a_memory_of_other_features_is_refused(tmp_path, remembered, monkeypatch):
    path = tmp_path / "memory"
    remembered(*KNOWN).write(path)
    monkeypatch.setattr(memory_module, "_DECLARED", "others")
    with pytest.raises(SeriesMemoryError, match="other features"):
        SeriesMemory.read(path)


@pytest.mark.parametrize("name", ["averages", "history"])
def test_a_memory_of_another_length_is_refused(tmp_path, remembered, name):
    made = remembered(*KNOWN)
    shorter = SeriesMemory(**{**vars(made), name: getattr(made, name)[..., :-1]})
    shorter.write(tmp_path / "memory")
    with pytest.raises(SeriesMemoryError, match="other features"):
        SeriesMemory.read(tmp_path / "memory")


def test_a_memory_goes_on_with_its_own_decay(make_bars, walk, tmp_path):
    bars = make_bars(walk(80))
    whole = compute_features(bars, volatility_decay=0.8)
    first = continue_features(SeriesMemory.empty(volatility_decay=0.8), bars[:40]).memory
    first.write(tmp_path / "memory.safetensors")
    read = SeriesMemory.read(tmp_path / "memory.safetensors")
    later = continue_features(read, bars[40:]).frame
    pd.testing.assert_frame_equal(later, whole[40:].reset_index(drop=True), check_exact=True)
