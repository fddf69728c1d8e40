"""Where a forward pass's time and a training step's memory go: ``python -m atlas_pipeline.training.profile``.

The two tables that a document of origin gives without saying how they were made, here measured on any backbone. What a
whole fit costs is in ``benchmarks.training``; a trace of single operations is ``tracing``'s.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections import defaultdict
from functools import partial
from itertools import pairwise
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
# Of the residual network, alone or a member of an ensemble.
_RESIDUAL_EMBEDDING = re.compile(r"backbone(\.members\.\d+)?\.(projection|units|unit_projection)")


def part_of(name: str, module: nn.Module) -> str | None:
    """Which part of the table a module's own time belongs to; None where its parent's."""
    if isinstance(module, PatchEmbedding) or _RESIDUAL_EMBEDDING.fullmatch(name):
        return "embedding"
    if isinstance(module, Attention):
        return "attention"
    if isinstance(module, SelectiveStateSpace):
        return "state space"
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm, BatchNorm)):
        return "normalisation"
    if isinstance(module, Head):
        return "head"
    if name.rpartition(".")[2] in ("expansion", "contraction"):
        return "feed-forward"
    return None


def forward_profile(model: Forecaster, windows: Tensor, repetitions: int = REPETITIONS) -> pd.DataFrame:
    """Measure how long each part of a forward pass takes.

    A pass is cut wherever a part begins or ends, and each stretch goes to the part it lies in, so that the parts add
    up. What lies between two layers of the same part, the activation of the feed-forward network, belongs to that
    part; what else lies between (residual sums, pooling) is ``other``. On a GPU the stretches are between events in
    its stream, so that nothing waits for the measurement.

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

    cuda = windows.device.type == "cuda"
    # Where the pass was cut: the instant, the part, the module that holds it, and whether the part begins there.
    cuts: list[tuple[Any, str, str, bool]] = []

    def cut(part: str, holder: str, begins: bool, *_: Any) -> None:
        instant: Any
        if cuda:
            instant = torch.cuda.Event(enable_timing=True)
            instant.record()
        else:
            instant = time.perf_counter()
        cuts.append((instant, part, holder, begins))

    handles = []
    for name, module in model.named_modules():
        part = part_of(name, module)
        if part is not None:
            holder = name.rpartition(".")[0]
            handles.append(module.register_forward_pre_hook(partial(cut, part, holder, True)))
            handles.append(module.register_forward_hook(partial(cut, part, holder, False)))
    passes = []
    try:
        model.eval()
        with torch.inference_mode():
            for _ in range(2 + repetitions):
                cuts.clear()
                cut("other", "", True)
                model(windows)
                cut("other", "", False)
                if cuda:
                    torch.cuda.synchronize(windows.device)
                passes.append(_by_part(cuts))
    finally:
        for handle in handles:
            handle.remove()
    totals = [sum(each.values()) for each in passes[2:]]
    median = passes[2:][totals.index(statistics.median_low(totals))]
    rows = [(part, median[part], median[part] / sum(median.values())) for part in PARTS if part in median]
    return pd.DataFrame(rows, columns=["part", "milliseconds", "share"])


def _by_part(cuts: list[tuple[Any, str, str, bool]]) -> dict[str, float]:
    spent: dict[str, float] = defaultdict(float)
    open_parts: list[str] = []
    for (start, part, holder, begins), (end, following, next_holder, next_begins) in pairwise(cuts):
        if begins:
            open_parts.append(part)
        else:
            open_parts.pop()
        between_two = not begins and next_begins and part == following and holder == next_holder
        milliseconds = 1e3 * (end - start) if isinstance(start, float) else start.elapsed_time(end)
        spent[part if between_two else open_parts[-1]] += milliseconds
    return dict(spent)


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
