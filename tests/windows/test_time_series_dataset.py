import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from atlas_pipeline.windows.time_series_dataset import TimeSeriesDataset


def series(rows, features=3):
    return np.arange(rows * features, dtype=np.float64).reshape(rows, features)


@pytest.mark.parametrize("rows, seq_length, horizon", [(10, 4, 1), (10, 4, 3), (5, 4, 1), (7, 1, 6)])
def test_each_item_is_a_window_and_what_follows_it(rows, seq_length, horizon):
    data = series(rows)
    dataset = TimeSeriesDataset(data, seq_length, horizon)
    items = [dataset[i] for i in range(len(dataset))]
    assert len(items) == rows - seq_length - horizon + 1
    for start, (window, target) in enumerate(items):
        np.testing.assert_array_equal(window, data[start : start + seq_length])
        np.testing.assert_array_equal(target, data[start + seq_length + horizon - 1, :1])
    np.testing.assert_array_equal(items[-1][1], data[-1, :1])
    np.testing.assert_array_equal(dataset[-1][0], items[-1][0])


def test_a_window_never_holds_its_target_or_anything_later():
    data = series(20)
    changed = data.copy()
    changed[9:] = -1.0
    one, other = TimeSeriesDataset(data, 4, 2), TimeSeriesDataset(changed, 4, 2)
    for start in range(6):  # windows that end before row 9
        np.testing.assert_array_equal(one[start][0], other[start][0])


def test_loads_in_batches():
    batches = list(DataLoader(TimeSeriesDataset(series(12, 8), 4), batch_size=3))
    assert batches[0][0].shape == (3, 4, 8)
    assert batches[0][1].shape == (3, 1)
    assert batches[0][0].dtype == torch.float32


@pytest.mark.parametrize(
    "data, seq_length, horizon, message",
    [
        (np.zeros(5), 2, 1, "shape"),
        (np.zeros((5, 2)), 5, 1, "5 rows hold no window"),
        (np.zeros((5, 2)), 0, 1, "seq_length=0"),
        (np.zeros((5, 2)), 2, 0, "horizon=0"),
    ],
)
def test_refuses_what_cannot_work(data, seq_length, horizon, message):
    with pytest.raises(ValueError, match=message):
        TimeSeriesDataset(data, seq_length, horizon)


def test_ends():
    dataset = TimeSeriesDataset(series(6), 4)
    assert len(list(dataset)) == 2
    with pytest.raises(IndexError, match="window 2 of 2"):
        dataset[2]
