"""A trained forecaster as an ONNX file: what serves it without torch, in float32 or with int8 weights.

Scaled windows go in, as ``ScaledWindows`` makes them: scaler and unit stay outside, with the bundle. ``onnx`` and
``onnxruntime`` are the extra ``onnx``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.training.bundle import TrainedForecaster
from atlas_pipeline.whole_file import whole_file

WINDOWS, EMBEDDING, VALUES = "windows", "embedding", "values"
# Float32 sums in another order; outputs are of size one.
TOLERANCE = 1e-3
# Mean over windows and outputs; eight bits are two digits, and a few roundings add up.
INT8_TOLERANCE = 0.05
# Batches of other sizes than the traced one show whether the batch was frozen into the graph.
_BATCHES = (1, 5)


class ExportError(RuntimeError):
    """An exported network does not say what the trained one says, or an int8 one not nearly."""


class _Said(nn.Module):
    def __init__(self, model: Forecaster) -> None:
        super().__init__()
        self.model = model

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        embedding, outputs = self.model(windows)
        return embedding, self.model.head.values(outputs)


def export_onnx(trained: TrainedForecaster, path: Path) -> None:
    """Write the network as ONNX, once ONNX Runtime was seen to say what torch says.

    Parameters
    ----------
    trained
        Whatever its backbone and head.
    path
        The file appears whole or not at all. Input ``windows`` float32 [batch, seq_length, features]; outputs
        ``embedding`` [batch, d_model] and ``values`` [batch, horizons, quantities], of the head. Its metadata name
        base, scaler, fold, features, horizons and quantities.

    Raises
    ------
    ExportError
        Where an output differs from torch's by more than ``TOLERANCE`` of its size; nothing is written.
    """
    import onnx

    config = trained.config
    said = _Said(trained.model).cpu().eval()
    example = torch.zeros(3, config.seq_length, config.feature_size)
    program = torch.onnx.export(
        said,
        (example,),
        input_names=[WINDOWS],
        output_names=[EMBEDDING, VALUES],
        dynamic_shapes={WINDOWS: {0: torch.export.Dim.DYNAMIC}},
        dynamo=True,
        verbose=False,
    )
    model = cast("torch.onnx.ONNXProgram", program).model_proto
    onnx.helper.set_model_props(
        model,
        {
            "base_hash": trained.base_hash,
            "scaler_hash": trained.scaler_hash,
            "fold": str(trained.fold),
            "features": json.dumps(trained.scaler.features),
            "horizons": json.dumps(config.horizons),
            "quantities": json.dumps(trained.model.head.quantities),
        },
    )
    content = model.SerializeToString()
    _require_same(said, content, config.seq_length, config.feature_size)
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def _require_same(said: nn.Module, content: bytes, seq_length: int, features: int) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for batch in _BATCHES:
        # Ordinary inputs, and such as a scaler cuts at.
        windows = (
            torch.randn(batch, seq_length, features, generator=generator) * torch.linspace(1, 8, batch)[:, None, None]
        )
        with torch.inference_mode():
            expected = said(windows)
        for name, ours, theirs in zip(
            (EMBEDDING, VALUES), expected, session.run(None, {WINDOWS: windows.numpy()}), strict=True
        ):
            off = _differences(ours.numpy(), theirs).max(initial=0.0)
            if off > TOLERANCE:
                raise ExportError(
                    f"the exported network's {name} is {off:.2g} from torch's on {batch} windows, "
                    f"{TOLERANCE} is allowed: nothing was written; report the backbone and head"
                )


def _differences(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Differences as shares of one and the size, [n]; one infinity where shapes or what is not finite differ."""
    if ours.shape != theirs.shape:
        return np.array([np.inf], np.float32)
    finite = np.isfinite(ours)
    # An infinity is a value too: of a normal density's degrees of freedom.
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True) or not np.isfinite(theirs[finite]).all():
        return np.array([np.inf], np.float32)
    return np.abs(ours[finite] - theirs[finite]) / (1 + np.abs(ours[finite]))


def quantize_int8(source: Path, target: Path, windows: NDArray[np.float32]) -> None:
    """Write the file again with int8 weights of its matrix products; activations are quantized as they come.

    Dynamic quantization by ONNX Runtime, a scale for each output channel: no calibration data, and a third of the
    size. Static quantization was a fifth slower and its mean error a third larger (the default network unfitted, on
    noise). What is lost is measured in ``benchmarks.inference``. The metadata are kept.

    Parameters
    ----------
    source
        What ``export_onnx`` wrote.
    target
        Appears whole or not at all.
    windows
        Such as it will be asked of, scaled, float32 [n, seq_length, features]: both files are run on them.

    Raises
    ------
    ExportError
        Where on these windows the values are further than ``INT8_TOLERANCE`` of their size from the source's, in the
        mean, or not finite; nothing is written.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exact = run_onnx(source, windows)[1]
    with whole_file(target) as temporary:
        quantize_dynamic(source, temporary, weight_type=QuantType.QInt8, per_channel=True)
        off = _differences(exact, run_onnx(temporary, windows)[1]).mean()
        if not off <= INT8_TOLERANCE:
            raise ExportError(
                f"with int8 weights the values are {off:.2g} from {source.name}'s in the mean of {len(windows)} "
                f"windows, {INT8_TOLERANCE} is allowed: nothing was written; serve {source.name}"
            )


def run_onnx(
    path: Path, windows: NDArray[np.float32], threads: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run an exported network.

    Parameters
    ----------
    path
        What ``export_onnx`` or ``quantize_int8`` wrote.
    windows
        Scaled, float32 [n, seq_length, features].
    threads
        0 leaves the choice to ONNX Runtime.

    Returns
    -------
    embedding, values
        float32 [n, d_model] and [n, horizons, quantities].
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    embedding, values = session.run([EMBEDDING, VALUES], {WINDOWS: windows})
    return embedding, values
