"""Where a forward pass's time and a training step's memory go: ``python -m atlas_pipeline.training.profile``.

The two tables that a document of origin gives without saying how they were made, here measured on any backbone. What a
whole fit costs is in ``benchmarks.training``; a trace of single operations is ``tracing``'s.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atlas_pipeline.config import Config, load_config
from atlas_pipeline.models.backbone import BatchNorm
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.models.head import Head
from atlas_pipeline.models.mamba import SelectiveStateSpace
from atlas_pipeline.models.patchtst import Attention, PatchEmbedding

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("embedding", "attention", "state space", "feed-forward", "normalisation", "head", "other")
MEGABYTE = 1e6
REPETITIONS = 9


def part_of(name: str, module: nn.Module) -> str | None:
    """Which part of the table a module's own time belongs to; None where its parent's."""
    if isinstance(module, PatchEmbedding) or name == "backbone.projection":
        return "embedding"
    if isinstance(module, Attention):
        return "attention"
    if isinstance(module, SelectiveStateSpace):
        return "state space"
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm, BatchNorm)):
        return "normalisation"
    if isinstance(module, Head):
        return "head"
    if name.rpartition(".")[2] in ("expansion", "contraction", "linear"):
        return "feed-forward"
    return None


def forward_profile(model: Forecaster, windows: Tensor, repetitions: int = REPETITIONS) -> pd.DataFrame:
    """Measure how long each part of a forward pass takes.

    A part's time is its modules' own, without that of parts inside them, so that the parts add up; what lies between
    (residual sums, activations, pooling) is ``other``.

    Parameters
    ----------
    model
        On the windows' device; put into evaluation mode.
    windows
        float32 [batch, seq_length, features].
    repetitions
        The median pass's times are given, after two to warm up.

    Returns
    -------
    pandas.DataFrame
        ``part``, ``milliseconds``, ``share``; shares sum to 1.
    """
    import pandas as pd

    def now() -> float:
        if windows.device.type == "cuda":
            torch.cuda.synchronize(windows.device)
        return time.perf_counter()

    spent: dict[str, float] = defaultdict(float)
    # Of each open part: its name, when it began, and how long parts inside it took.
    stack: list[tuple[str, float, float]] = []

    def enter(part: str, *_: Any) -> None:
        stack.append((part, now(), 0.0))

    def leave(*_: Any) -> None:
        part, began, inside = stack.pop()
        whole = now() - began
        spent[part] += whole - inside
        if stack:
            name, start, already = stack[-1]
            stack[-1] = (name, start, already + whole)

    handles = []
    for name, module in model.named_modules():
        part = part_of(name, module)
        if part is not None:
            handles.append(module.register_forward_pre_hook(partial(enter, part)))
            handles.append(module.register_forward_hook(leave))
    passes = []
    try:
        model.eval()
        with torch.inference_mode():
            for _ in range(2 + repetitions):
                spent.clear()
                enter("other")
                model(windows)
                leave()
                passes.append(dict(spent))
    finally:
        for handle in handles:
            handle.remove()
    totals = [sum(each.values()) for each in passes[2:]]
    median = passes[2:][totals.index(statistics.median_low(totals))]
    rows = [(part, 1e3 * median[part], median[part] / sum(median.values())) for part in PARTS if part in median]
    return pd.DataFrame(rows, columns=["part", "milliseconds", "share"])


def memory_breakdown(model: Forecaster, batch: int, config: Config) -> pd.DataFrame:
    """Measure the memory of a training step in float32, by what holds it.

    Parameters
    ----------
    model
        Put into training mode; its gradients are used and cleared.
    batch
        Windows at once.
    config
        Of the model.

    Returns
    -------
    pandas.DataFrame
        ``holder`` (weights, optimizer state, gradients, activations), ``megabytes`` (10^6 bytes). Activations are the
        tensors that the backward pass keeps, each storage once, without the weights.
    """
    import pandas as pd

    model.train()
    parameters = list(model.parameters())
    device = parameters[0].device
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        return tensor

    windows = torch.randn(batch, config.seq_length, config.feature_size, device=device)
    horizons = len(config.horizons)
    target, unit = torch.zeros(batch, horizons, device=device), torch.ones(batch, horizons, device=device)
    optimizer = torch.optim.AdamW(model.parameters())
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        _, outputs = model(windows)
        loss = model.head.loss(outputs, target, unit).mean()
    activations = sum(kept.values())
    loss.backward()
    gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    before = [p.detach().clone() for p in parameters]
    optimizer.step()
    state = sum(t.nbytes for each in optimizer.state.values() for t in each.values() if isinstance(t, Tensor))
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    model.zero_grad(set_to_none=True)
    weights = sum(p.nbytes for p in parameters)
    rows = {"weights": weights, "optimizer state": state, "gradients": gradients, "activations": activations}
    return pd.DataFrame([(name, size / MEGABYTE) for name, size in rows.items()], columns=["holder", "megabytes"])


def main() -> None:
    """Print both tables of an experiment's network."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", help="name of a file in configs/experiments; without it the default network")
    parser.add_argument("--batch", type=int, default=64, help="windows at once")
    arguments = parser.parse_args()
    config = load_config(arguments.experiment) if arguments.experiment else Config()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Forecaster(config).to(device)
    windows = torch.randn(arguments.batch, config.seq_length, config.feature_size, device=device)
    console = Console()
    for title, frame in (
        (f"Forward pass of {arguments.batch} windows, {device.type}, float32", forward_profile(model, windows)),
        (f"Memory of a training step of {arguments.batch} windows", memory_breakdown(model, arguments.batch, config)),
    ):
        table = Table(*frame.columns, title=title)
        for row in frame.itertuples(index=False):
            table.add_row(*(value if isinstance(value, str) else f"{value:.3f}" for value in row))
        console.print(table)


if __name__ == "__main__":
    main()
