"""Exported networks say what the trained ones say, whatever the batch; one that does not is not written."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from atlas_pipeline.training.export import (
    TOLERANCE,
    ExportError,
    _differences,
    export_onnx,
    quantize_int8,
    run_onnx,
)
from atlas_pipeline.training.fit import fit_forecaster
from atlas_pipeline.windows.folds import Fold

YEAR = 2003


@pytest.fixture(params=[True, False], ids=["fused", "reference"])
def trained(make_panel, small, hardware, tmp_path, request):
    # Both kernels of attention are exported: each is traced its own way.
    config = small(max_epochs=1, head="skewed_t", horizon=(1, 5), use_flash_attention=request.param)
    return fit_forecaster(make_panel(), Fold(YEAR, config), config, hardware, tmp_path / "state", features=["x", "z"])


def test_onnx_runtime_says_what_torch_says_in_float32_and_nearly_in_int8(trained, tmp_path):
    path, small = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    # The bundle beside it names the same scaler.
    scaler_hash = json.loads((trained.save(tmp_path / "bundle") / "config.json").read_text())["scaler_hash"]
    export_onnx(trained, path)
    windows = torch.randn(7, 32, 2)
    quantize_int8(path, small, windows.numpy())
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
        assert about["scaler_hash"] == scaler_hash
        assert json.loads(about["features"]) == ["x", "z"] and json.loads(about["horizons"]) == [1, 5]
        assert json.loads(about["quantities"]) == ["location", "scale", "df", "skew"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "int8.onnx", "model.onnx", "state"]


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "residual_mlp", "input_units": 4, "members": 3, "head": "quantiles"},
        {"backbone": "mamba", "head": "gaussian"},
        {"backbone": "recursive", "latent_steps": 1, "supervision_steps": 2, "head": "direction"},
        {"channels": "independent", "positions": "rotary", "norm": "batch", "head": "threshold_2pct"},
    ],
    ids=lambda settings: settings.get("backbone", "patchtst"),
)
def test_every_kind_of_network_is_exported(make_panel, small, hardware, tmp_path, settings):
    config = small(max_epochs=1, **settings)
    trained = fit_forecaster(make_panel(), Fold(YEAR, config), config, hardware, tmp_path / "s", features=["x", "z"])
    export_onnx(trained, tmp_path / "model.onnx")
    windows = torch.randn(5, 32, 2)
    with torch.inference_mode():
        embedding, outputs = trained.model(windows)
        values = trained.model.head.values(outputs).numpy()
    found = run_onnx(tmp_path / "model.onnx", windows.numpy())
    np.testing.assert_allclose(found[0], embedding, atol=1e-4)
    np.testing.assert_allclose(found[1], values, atol=1e-4)


@pytest.mark.parametrize("trained", [True], indirect=True)
def test_a_network_that_is_exported_wrongly_is_not_written(trained, tmp_path, monkeypatch):
    def other_weights(*_, **__):
        # What a broken exporter would give: a graph of the same shapes with outputs of its own.
        windows = onnx.helper.make_tensor_value_info("windows", onnx.TensorProto.FLOAT, ["n", 32, 2])
        outputs = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in (("embedding", ["n", 16]), ("values", ["n", 2, 4]))
        ]
        constants = [
            onnx.helper.make_node(
                "Constant", [], [name], value=onnx.numpy_helper.from_array(np.zeros(shape, np.float32))
            )
            for name, shape in (("embedding", (1, 16)), ("values", (1, 2, 4)))
        ]
        graph = onnx.helper.make_graph(constants, "broken", [windows], outputs)
        opset = [onnx.helper.make_opsetid("", 18)]
        return SimpleNamespace(model_proto=onnx.helper.make_model(graph, opset_imports=opset, ir_version=10))

    monkeypatch.setattr(torch.onnx, "export", other_weights)
    with pytest.raises(ExportError, match=r"embedding is .* from torch's on 1 windows, 0.001 is allowed: nothing was"):
        export_onnx(trained, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("trained", [True], indirect=True)
def test_int8_weights_that_lose_too_much_are_not_written(trained, tmp_path):
    # An input that no weight reads takes all eight bits of the one that is read.
    windows = torch.randn(7, 32, 2)
    windows[..., 1] = 1e4
    with torch.no_grad():
        trained.model.backbone.embedding.projection.weight[:, 1::2] = 0.0
        trained.model.head.projection.weight.mul_(100.0)
    export_onnx(trained, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"from model.onnx's in the mean of 7 windows, 0.05 is allowed: nothing was"):
        quantize_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", windows.numpy())
    assert not (tmp_path / "int8.onnx").exists()


@pytest.mark.parametrize(
    ("theirs", "same"),
    [
        ([[1.0, np.inf]], True),
        ([[1.0, -np.inf]], False),
        ([[1.0, np.nan]], False),
        ([[np.inf, np.inf]], False),
        ([[1.1, np.inf]], False),
        ([1.0, np.inf], False),
    ],
)
def test_infinities_and_shapes_are_compared_too(theirs, same):
    off = _differences(np.array([[1.0, np.inf]], np.float32), np.array(theirs, np.float32))
    assert bool(off.max() <= TOLERANCE) is same
