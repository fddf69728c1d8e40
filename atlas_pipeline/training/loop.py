"""The training loop: steps, epochs, validation, early stopping, and a state to go on from bit for bit.

Plain torch. Folds, scalers and bundles live in ``fit``; here are tensors and weights only.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atlas_pipeline.config import Config
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.training.checkpoint import read_tensors, write_tensors
from atlas_pipeline.training.errors import CorruptCheckpointError
from atlas_pipeline.training.hardware import Compute
from atlas_pipeline.training.objective import LabelledWindows, Losses, evaluate, losses
from atlas_pipeline.training.schedule import WeightAverage, cosine_with_warmup, load_parameters

# Without gradients four times as many windows fit.
EVALUATION_FACTOR = 4
_CORRUPT = "delete it, and the fit starts again from its beginning"


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is NaN or infinite; the weights before that step are unharmed."""


@dataclass(frozen=True)
class Progress:
    """Where a fit stands after an optimizer step: counts, last loss (nats), seconds expected to remain."""

    epoch: int
    step: int
    total_steps: int
    loss: float
    seconds_left: float


@dataclass
class _Position:
    """How far a fit has come, and what it has seen of the epoch it is in."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    variance_sum: float = 0.0
    windows: int = 0
    best_loss: float = math.inf
    best_epoch: int = -1
    patience_loss: float = math.inf
    epochs_without_gain: int = 0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


class Loop:
    """One fit of a forecaster.

    Parameters
    ----------
    model
        On the compute device; trained in place.
    config
        Optimisation settings.
    compute
        Where and in which precision.
    train, validation
        The windows.
    batch
        Windows on the device at once; gradients are accumulated to ``config.effective_batch_size``.
    """

    def __init__(
        self,
        model: Forecaster,
        config: Config,
        compute: Compute,
        train: LabelledWindows,
        validation: LabelledWindows,
        batch: int,
    ) -> None:
        self.model = model
        self.config = config
        self.compute = compute
        self.train = train
        self.validation = validation
        self.batch = batch
        self.forward: Callable[..., Any] = torch.compile(model) if compute.compile else model
        self.optimizer = _optimizer(model, config)
        self.gradient_scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.scaled)
        self.average = WeightAverage(model, config.ema_decay)
        self.best = self.average.copy()
        self.position = _Position()
        self.steps_per_epoch = math.ceil(len(train) / config.effective_batch_size)
        self.total_steps = self.steps_per_epoch * config.max_epochs

    def run(
        self,
        checkpoint: Path,
        checkpoint_seconds: float,
        progress: Callable[[Progress], None],
        metrics: Callable[[int, dict[str, float]], None],
    ) -> None:
        """Train to the end, or to the early stop, and leave the best epoch's averaged weights in the model.

        Parameters
        ----------
        checkpoint
            The state is written here after each epoch, and goes on from here where there is one.
        checkpoint_seconds
            Within an epoch it is written no oftener than this.
        progress, metrics
            Called after each step, and after each epoch with its number and metrics.
        """
        if checkpoint.exists():
            self._restore(checkpoint)
        saved = time.monotonic()
        while not self.position.finished:
            order = self._order(self.position.epoch)
            started, begun_at = time.monotonic(), self.position.step_in_epoch
            while self.position.step_in_epoch < self.steps_per_epoch:
                loss = self._step(order)
                elapsed = time.monotonic() - started
                pace = elapsed / (self.position.step_in_epoch - begun_at)
                left = pace * (self.total_steps - self.position.step)
                progress(Progress(self.position.epoch, self.position.step, self.total_steps, loss, seconds_left=left))
                within = self.position.step_in_epoch < self.steps_per_epoch
                if within and time.monotonic() - saved >= checkpoint_seconds:
                    self._save(checkpoint)
                    saved = time.monotonic()
            pace_windows = (self.steps_per_epoch - begun_at) * len(self.train) / self.steps_per_epoch
            speed = pace_windows / max(time.monotonic() - started, 1e-9)
            epoch = self.position.epoch
            # Metrics before the checkpoint: a kill between them reports an epoch twice, never not at all.
            metrics(epoch, self._end_epoch(speed))
            self._save(checkpoint)
            saved = time.monotonic()
        load_parameters(self.model, self.best)
        self.model.eval()

    def _order(self, epoch: int) -> Tensor:
        # From seed and epoch alone, so that a resumed fit sees the same windows in the same order.
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.train), generator=generator).to(self.train.ends.device)

    def losses(self, rows: Tensor) -> Losses:
        """Sum the losses of the training windows of these numbers, with the gradient's graph."""
        return losses(self.config, self.forward, self.train.batch(rows), self.compute.autocast)

    def _step(self, order: Tensor) -> float:
        position, config = self.position, self.config
        size = config.effective_batch_size
        chosen = order[position.step_in_epoch * size : (position.step_in_epoch + 1) * size]
        rate = config.learning_rate * cosine_with_warmup(position.step, self.total_steps, config.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=chosen.device)
        for rows in chosen.split(self.batch):
            objective, likelihood, variance = self.losses(rows)
            # Divided by the effective batch, so that the sum of the gradients is that of its mean loss.
            self.gradient_scaler.scale(objective / len(chosen)).backward()
            sums += torch.stack([likelihood.detach(), variance.detach()])
        self.gradient_scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
        likelihood_sum, variance_sum, gradient = [*sums.tolist(), float(norm)]
        # With a loss scale an infinite gradient is how the scale is found; the scaler skips that step.
        finite = math.isfinite(likelihood_sum) and (self.compute.scaled or math.isfinite(gradient))
        if not finite:
            raise NonFiniteLossError(
                f"epoch {position.epoch}, step {position.step}: loss {likelihood_sum / len(chosen)}, "
                f"gradient norm {gradient}, learning rate {rate:.2e}. The last checkpoint is from "
                "before this step. Reduce learning_rate, use precision float32, or look for absurd values in "
                "the panel"
            )
        self.gradient_scaler.step(self.optimizer)
        self.gradient_scaler.update()
        self.average.update(self.model)
        position.step += 1
        position.step_in_epoch += 1
        position.loss_sum += likelihood_sum
        position.variance_sum += variance_sum
        position.windows += len(chosen)
        return likelihood_sum / len(chosen)

    def _end_epoch(self, windows_per_second: float) -> dict[str, float]:
        position = self.position
        with self.average.applied_to(self.model):
            self.model.eval()
            size = EVALUATION_FACTOR * self.batch
            judged = evaluate(self.forward, self.validation, size, self.compute.autocast)
        loss = judged["nll_loss"]
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"epoch {position.epoch}: validation loss {loss} with finite training loss. The last "
                "checkpoint is from before this epoch's end; reduce learning_rate"
            )
        result = {
            "train/nll_loss": position.loss_sum / position.windows,
            "train/variance": position.variance_sum / position.windows,
            **{f"val/{name}": value for name, value in judged.items()},
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "windows_per_second": windows_per_second,
        }
        position.history.append(result)
        if loss < position.best_loss:
            position.best_loss, position.best_epoch = loss, position.epoch
            self.best = self.average.copy()
        # Patience asks for a gain worth having; the weights kept are the best all the same.
        if loss < position.patience_loss - self.config.early_stopping_min_delta:
            position.patience_loss, position.epochs_without_gain = loss, 0
        else:
            position.epochs_without_gain += 1
        position.epoch += 1
        position.step_in_epoch = position.windows = 0
        position.loss_sum = position.variance_sum = 0.0
        position.finished = (
            position.epoch >= self.config.max_epochs
            or position.epochs_without_gain >= self.config.early_stopping_patience
        )
        return result

    def _save(self, path: Path) -> None:
        tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in self.model.named_parameters()}
        tensors |= {f"average.{name}": w for name, w in self.average.weights.items()}
        tensors |= {f"best.{name}": w for name, w in self.best.items()}
        optimizer = self.optimizer.state_dict()["state"]
        tensors |= {f"optimizer.{i}.{key}": t for i, state in optimizer.items() for key, t in state.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.compute.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.compute.device)
        record = {
            "position": dataclasses.asdict(self.position),
            "average_steps": self.average.steps,
            "gradient_scaler": self.gradient_scaler.state_dict(),
        }
        write_tensors(path, tensors, record)

    def _restore(self, path: Path) -> None:
        tensors, record = read_tensors(path, _CORRUPT)

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

        weights = part("model.")
        if {n: p.shape for n, p in self.model.named_parameters()} != {n: w.shape for n, w in weights.items()}:
            raise CorruptCheckpointError(f"{path} holds the weights of another network: {_CORRUPT}")
        load_parameters(self.model, weights)
        device = self.compute.device
        self.average.weights = {name: w.to(device) for name, w in part("average.").items()}
        self.average.steps = record["average_steps"]
        self.best = {name: w.to(device) for name, w in part("best.").items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in part("optimizer.").items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.gradient_scaler.load_state_dict(record["gradient_scaler"])
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], device)
        self.position = _Position(**record["position"])


def _optimizer(model: nn.Module, config: Config) -> torch.optim.AdamW:
    # Weight decay shrinks matrices; biases, norms and the positions have no scale of their own to shrink.
    decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and not n.endswith("positions")]
    others = [p for n, p in model.named_parameters() if p.ndim <= 1 or n.endswith("positions")]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=True,
    )
