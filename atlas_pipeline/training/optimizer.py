"""The optimizer of a fit, and which parameters its weight decay shrinks."""

from __future__ import annotations

import torch
from torch import nn

from atlas_pipeline.config import Config

# Last names of parameters that have a scale of their own whatever their shape: learned positions, the logarithms of
# Mamba's decay rates (Gu and Dao, 2023, do not decay them), the weights of PatchTST's channels, and biases, which are
# matrices where each input has units of its own.
UNDECAYED = ("positions", "log_rate", "channel_weights", "bias")


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay is to shrink a parameter: a matrix or a kernel, no bias, norm or ``UNDECAYED``."""
    return parameter.ndim > 1 and name.rpartition(".")[2] not in UNDECAYED


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """Make AdamW (Loshchilov and Hutter, ICLR 2019), its update of all parameters one kernel.

    Parameters without gradient, batch norm's running statistics, are not in it.

    Parameters
    ----------
    model
        On the device it is trained on.
    config
        ``learning_rate`` and ``weight_decay``.
    """
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in learned if is_decayed(name, p)]
    others = [p for name, p in learned if not is_decayed(name, p)]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=True,
    )
