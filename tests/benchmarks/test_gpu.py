"""The figures of a GPU, driven on a CPU at a size for it."""

from __future__ import annotations

import json

import pytest

from atlas_pipeline.config import Config, Hardware
from atlas_pipeline.models.forecaster import Forecaster
from benchmarks import gpu

pytest.importorskip("transformers")


@pytest.mark.parametrize(("size", "weights"), [("2m", 2e6), ("20m", 20e6), ("200m", 200e6)])
def test_the_sizes_are_what_they_are_called(size, weights):
    import torch

    with torch.device("meta"):
        model = Forecaster(Config(**gpu.SIZES[size]))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(weights, rel=0.25)


def test_without_a_gpu_it_says_so(capsys, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    gpu.main()
    said = capsys.readouterr()
    assert "no CUDA device here" in said.err and said.out == ""


def test_a_report_has_every_figure(capsys, monkeypatch):
    tiny = {"d_model": 8, "n_heads": 2, "n_layers": 1, "ff_dim": 16, "seq_length": 32}
    monkeypatch.setitem(gpu.SIZES, "2m", tiny)
    # Compiling takes half a minute here, whatever the size; its modes are the engine's own tests'.
    monkeypatch.setattr(gpu, "COMPILED", ())
    gpu.report("2m", Hardware(device="cpu", precision="bfloat16"), 4, 1e12, "test", steps=2)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["figure"] for line in lines] == ["gpu.2m.flops", "gpu.2m.amp", "gpu.2m.checkpointing"]
    assert all(line["value"] >= 0 and line["note"] for line in lines)
    config = Config(**tiny)
    weights = sum(p.numel() for p in Forecaster(config).backbone.parameters())
    assert gpu.flops(config, Forecaster(config)) == 3 * (2 * weights * 2 + 4 * 8 * 4)
    gpu.report("2m", Hardware(device="cpu"), 4, None, "an unknown chip", steps=1)
    said = capsys.readouterr()
    assert "no peak is known of an unknown chip" in said.err and "gpu.2m.flops" not in said.out


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 4060 Ti", None),
    ],
)
def test_a_card_has_the_peak_of_its_own_data_sheet(device, peak):
    assert gpu.peak_of(device) == peak
