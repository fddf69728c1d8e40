"""Exported networks say what the trained ones say, whatever the batch; one that does not is not written."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from atlas_pipeline.training import export
from atlas_pipeline.training.export import ExportError, export_onnx, quantize_int8, run_onnx
from atlas_pipeline.training.fit import fit_forecaster
from atlas_pipeline.windows.folds import Fold

YEAR = 2003


@pytest.fixture
def trained(make_panel, small, hardware, tmp_path):
    config = small(max_epochs=1, head="skewed_t", horizon=(1, 5))
    return fit_forecaster(make_panel(), Fold(YEAR, config), config, hardware, tmp_path / "state")


def test_onnx_runtime_says_what_torch_says_in_float32_and_nearly_in_int8(trained, tmp_path):
    path, small = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    export_onnx(trained, path)
    quantize_int8(path, small)
    windows = torch.randn(7, 32, 2)
    with torch.inference_mode():
        embedding, outputs = trained.model(windows)
        values = trained.model.head.values(outputs)
    found = run_onnx(path, windows.numpy())
    np.testing.assert_allclose(found[0], embedding, atol=1e-4)
    np.testing.assert_allclose(found[1], values, atol=1e-4)
    rough = run_onnx(small, windows.numpy())[1]
    # Eight bits of a weight are two digits.
    assert 0 < np.abs(rough - values.numpy())[..., :2].max() < 0.1
    for each in (path, small):
        about = {entry.key: entry.value for entry in onnx.load(each).metadata_props}
        assert about["base_hash"] == trained.base_hash and about["fold"] == str(YEAR)
        assert json.loads(about["features"]) == ["x", "z"] and json.loads(about["horizons"]) == [1, 5]
        assert json.loads(about["quantities"]) == ["location", "scale", "df", "skew"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["int8.onnx", "model.onnx", "state"]


def test_a_network_that_is_exported_wrongly_is_not_written(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    with pytest.raises(ExportError, match=r"from torch's on \d windows, 0.0 is allowed: nothing was written"):
        export_onnx(trained, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
