"""One window through a forecaster: eager torch, ONNX Runtime in float32 and int8, and the accuracy each loses.

``python -m benchmarks.inference``, on two threads. The default network is fitted for one epoch on the indices before
2014, the demo's as its experiment says, and accuracy is measured on their windows of 2014.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from atlas_pipeline.config import Config, Hardware
from atlas_pipeline.features.model_inputs import set_columns
from atlas_pipeline.training.bundle import TrainedForecaster
from atlas_pipeline.training.density import nll
from atlas_pipeline.training.export import VALUES, WINDOWS, export_onnx, quantize_int8
from atlas_pipeline.training.fit import fit_forecaster
from atlas_pipeline.training.objective import densities_of
from atlas_pipeline.windows.folds import Fold
from atlas_pipeline.windows.index import density_unit, labels
from atlas_pipeline.windows.panel import Panel
from atlas_pipeline.windows.scaled_windows import ScaledWindows
from benchmarks import figure
from benchmarks.density import Array, experiment
from benchmarks.density_data import bundled_panel

THREADS = 2
YEAR = 2014
ROUNDS, CALLS, WARM_CALLS = 6, 50, 10


def fitted(config: Config, folder: Path) -> tuple[TrainedForecaster, Panel]:
    """Fit before the year that accuracy is measured on."""
    panel = bundled_panel(config.features)
    hardware = Hardware(device="cpu", precision="bfloat16", batch_size=64)
    return fit_forecaster(panel, Fold(YEAR, config), config, hardware, folder), panel


def latencies(functions: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Milliseconds of a call, median and 99th percentile.

    The functions take turns of many calls each: ONNX Runtime's threads spin for a while after a call, on the cores of
    whoever is called next.
    """
    timings: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            for _ in range(WARM_CALLS):
                function()
            for _ in range(CALLS):
                started = time.perf_counter()
                function()
                timings[name].append(1e3 * (time.perf_counter() - started))
    return {name: (statistics.median(own), float(np.quantile(own, 0.99))) for name, own in timings.items()}


def encoder(config: Config) -> nn.Module:
    """Torch's own encoder of the same width, depth and tokens, and a projection: what the network is held against."""
    layer = nn.TransformerEncoderLayer(
        config.d_model, config.n_heads, config.ff_dim, 0.0, "gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, config.n_layers, enable_nested_tensor=False).eval()


def report(prefix: str, config: Config, folder: Path) -> None:
    """Print the three figures of a configuration."""
    trained, panel = fitted(config, folder / "state")
    plain, small = folder / "model.onnx", folder / "int8.onnx"
    export_onnx(trained, plain)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    fold = Fold(YEAR, config)
    ends = fold.window_ends(panel, datetime(YEAR, 1, 1, tzinfo=UTC), datetime(YEAR + 1, 1, 1, tzinfo=UTC), 1)
    windows = ScaledWindows(panel, ends, trained.scaler, trained.fold, config.seq_length, torch.device("cpu"))
    inputs = windows(torch.from_numpy(ends))
    quantize_int8(plain, small, inputs.numpy())
    sessions = {
        name: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for name, path in (("onnx", plain), ("int8", small))
    }
    one, one_array = inputs[:1].contiguous(), inputs[:1].contiguous().numpy()
    tokens = trained.model.backbone(one).shape[1]
    model, peer = trained.model.eval(), encoder(config)
    example = torch.randn(1, tokens, config.d_model)
    with torch.inference_mode():
        found = latencies(
            {
                "eager": lambda: model.head.values(model(one)[1]),
                "peer": lambda: peer(example),
                **{
                    name: lambda session=session: session.run([VALUES], {WINDOWS: one_array})
                    for name, session in sessions.items()
                },
            }
        )
        exact = model.head.values(model(inputs)[1]).double().numpy()
    unit, outcome = density_unit(panel, ends, 1)[:, None], labels(panel, ends, 1)

    def loss(values: Array) -> float:
        return float(nll(outcome, densities_of(values, unit)[0]).mean())

    for name in ("eager", "onnx", "int8"):
        median, tail = found[name]
        if name == "eager":
            other, against, lost = (
                "torch's TransformerEncoder of the same size",
                found["peer"][0],
                f"NLL {loss(exact):.4f}",
            )
        else:
            values = sessions[name].run([VALUES], {WINDOWS: inputs.numpy()})[0].astype(np.float64)
            off = np.abs(values - exact)[:, 0]
            off[:, :2] /= exact[:, :1, 1]
            apart = ", ".join(
                f"{quantity} {mean:.2g} (at most {most:.2g})"
                for quantity, mean, most in zip(model.head.quantities, off.mean(axis=0), off.max(axis=0), strict=True)
            )
            lost = f"NLL {loss(values) - loss(exact):+.5f}; off by, location and scale in scales: {apart}"
            other, against = "eager, same run", found["eager"][0]
        weights = sum(p.numel() for p in model.parameters())
        note = f"p99 {tail:.2f} ms; {lost}; batch 1, {THREADS} threads, {weights:,} weights"
        figure(f"{prefix}.{name}", median, "ms", other, against, against / median, note)


def main() -> None:
    """Print ``inference.*`` of the default network and of the demo's."""
    torch.set_num_threads(THREADS)
    default = Config(
        batch_size=64, accumulation_steps=1, learning_rate=3e-4, max_epochs=1, ema_decay=0.99, policy_years=0
    )
    assert default.feature_size == len(set_columns(default.features))
    for prefix, config in (("inference", default), ("inference.daily_indices", experiment("daily_indices"))):
        with tempfile.TemporaryDirectory() as folder:
            report(prefix, config, Path(folder))


if __name__ == "__main__":
    main()
