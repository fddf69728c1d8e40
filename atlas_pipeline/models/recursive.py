"""The recursive backbone: a small network applied again and again to a latent state; and the schedule of its losses.

Jolicoeur-Martineau, Less is More: Recursive Reasoning with Tiny Networks, 2025, arXiv:2510.04871, sec. 4. One
supervision step refines the latent state ``latent_steps`` times, then the answer once; ``supervision_steps`` of them
follow each other, each from the detached state of the last, and each can be given a loss. A training loop takes their
tokens from ``iterations``, as many as ``supervision_curriculum`` says, and weighs them by ``iteration_weights``.

Not taken over: the paper's further recursions without gradient in each supervision step, and its learned halting,
which saves work where an answer can be recognised as right; a density cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from atlas_pipeline.config import Config
from atlas_pipeline.models.patchtst import PatchTransformer


class Recursive(PatchTransformer):
    """The backbone; one patch transformer of ``n_layers`` (the paper's best has 2) refines both states.

    Answer and latent state begin at zero: the network meets the window in its first application.

    Parameters
    ----------
    config
        The model's and the window's settings.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.latent_steps = config.latent_steps
        self.supervision_steps = config.supervision_steps

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens [batch, n_patches, d_model] of windows [batch, seq_length, features], of the last step.

        The gradient is of the last supervision step alone.
        """
        for answer in self._answers(x, self.supervision_steps):
            tokens = answer
        return tokens

    def iterations(self, x: Tensor, steps: int | None = None) -> list[Tensor]:
        """Return the tokens [batch, n_patches, d_model] after each supervision step, the final ones last.

        Parameters
        ----------
        x
            Windows [batch, seq_length, features].
        steps
            Supervision steps to make, 1 or more; None makes ``supervision_steps``.

        Raises
        ------
        ValueError
            Where no step is asked for.
        """
        steps = self.supervision_steps if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps={steps}: a supervision step makes the tokens, ask for 1 or more")
        return list(self._answers(x, steps))

    def _answers(self, x: Tensor, steps: int) -> Iterator[Tensor]:
        inputs = self.embedding(x)
        answer = latent = torch.zeros_like(inputs)
        for _ in range(steps):
            answer, latent = answer.detach(), latent.detach()
            for _ in range(self.latent_steps):
                latent = self.transform(inputs + answer + latent)
            answer = self.transform(answer + latent)
            yield answer


def iteration_weights(steps: int, kind: Literal["uniform", "linear"] = "linear") -> tuple[float, ...]:
    """Weights of the losses of supervision steps, the first step's first; their sum is 1.

    Parameters
    ----------
    steps
        Supervision steps made, 1 or more.
    kind
        ``uniform``: all alike, as in the paper. ``linear``: proportional to the step's number, because later answers
        are the ones that are used.

    Raises
    ------
    ValueError
        Where there is no step or no such kind.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: there is nothing to weigh, use 1 or more")
    if kind not in ("uniform", "linear"):
        raise ValueError(f"kind={kind!r}: use one of uniform, linear")
    weights = [1.0 if kind == "uniform" else float(step) for step in range(1, steps + 1)]
    return tuple(weight / sum(weights) for weight in weights)


def supervision_curriculum(progress: float, steps: int, ramp: float = 0.5) -> int:
    """Supervision steps to train with: from one at the start, by equal stages, to all after a share of training.

    A short recursion is learned sooner and costs less (curriculum learning: Bengio et al., ICML 2009).

    Parameters
    ----------
    progress
        Share of the training that is done, 0 to 1.
    steps
        Supervision steps there are in the end.
    ramp
        Share of the training after which all are made, 0 to 1; 0 makes all from the start.

    Raises
    ------
    ValueError
        Where progress or ramp is outside 0 to 1, or there is no step.
    """
    for name, value in (("progress", progress), ("ramp", ramp)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name}={value}: use a share of the training, 0 to 1")
    if steps < 1:
        raise ValueError(f"steps={steps}: use 1 or more")
    if progress >= ramp:
        return steps
    return 1 + int(progress / ramp * (steps - 1))
