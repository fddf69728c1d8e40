"""The training loop: steps, epochs, validation, early stopping, and what is done where a step fails.

Plain torch. Folds, scalers and bundles live in ``fit``, what is kept to go on in ``state``, batches are ``feed``'s;
here are tensors and weights only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from atlas_pipeline.config import Config
from atlas_pipeline.models.densities import DensityHead
from atlas_pipeline.models.forecaster import Forecaster
from atlas_pipeline.training.checkpoint import write_tensors
from atlas_pipeline.training.errors import NonFiniteLossError
from atlas_pipeline.training.feed import Draw, Feed
from atlas_pipeline.training.hardware import Compute
from atlas_pipeline.training.memory import is_out_of_memory, measured_batch, too_large_for
from atlas_pipeline.training.objective import Batch, LabelledWindows, Losses, evaluate, losses
from atlas_pipeline.training.optimizer import make_optimizer
from atlas_pipeline.training.progress import Progress
from atlas_pipeline.training.schedule import peak_learning_rate, rate_share
from atlas_pipeline.training.state import Position, random_state, restore_state, save_state, set_random_state
from atlas_pipeline.training.telemetry import Telemetry
from atlas_pipeline.training.tracing import tracing
from atlas_pipeline.training.weight_average import WeightAverage, load_parameters
from atlas_pipeline.windows.augmentation import draw_mixing
from atlas_pipeline.windows.sampling import epoch_order

# Without gradients four times as many windows fit.
EVALUATION_FACTOR = 4
# At this loss scale a gradient that is not finite is no longer too large for float16: it is wrong.
LOSS_SCALE_FLOOR = 1.0


@dataclass(frozen=True)
class _Sums:
    """Of one step's windows: loss, variance (percent squared), norm of the mean gradient before clipping."""

    loss: float
    variance: float
    gradient: float


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
        The windows; the training windows may stand on the host, the validation windows give inputs on the device.
    batch
        Windows on the device at once; gradients are accumulated to ``config.effective_batch_size``. ``"auto"``
        measures it.
    workers
        Threads that gather windows ahead, see ``feed``.
    log_interval, save_interval
        Steps between reports of the steps, and between checkpoints; see ``config.Hardware``.
    """

    def __init__(
        self,
        model: Forecaster,
        config: Config,
        compute: Compute,
        train: LabelledWindows,
        validation: LabelledWindows,
        batch: int | Literal["auto"],
        *,
        workers: int = 0,
        log_interval: int | None = None,
        save_interval: int | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.compute = compute
        self.train = train
        self.validation = validation
        # 0 stands for a batch still to be measured.
        self.batch = 0 if batch == "auto" else min(batch, config.effective_batch_size)
        self.workers = workers
        self.log_interval = log_interval
        self.save_interval = save_interval
        self.forward: Callable[..., Any] = (
            model if compute.compile == "off" else torch.compile(model, mode=compute.compile)
        )
        self.optimizer = make_optimizer(model, config)
        self.gradient_scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.scaled)
        self.average = WeightAverage(model, config.ema_decay)
        self.best = self.average.copy()
        self.position = Position()
        self.steps_per_epoch = math.ceil(len(train) / config.effective_batch_size)
        self.total_steps = self.steps_per_epoch * config.max_epochs
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        # Batch norm's running statistics, which a forward pass moves.
        self._statistics = [p for p in model.parameters() if not p.requires_grad]

    def run(
        self,
        checkpoint: Path,
        checkpoint_seconds: float,
        progress: Callable[[Progress], None],
        metrics: Callable[[int, dict[str, float]], None],
        step_metrics: Callable[[int, dict[str, float]], None] = lambda _step, _values: None,
        trace: Path | None = None,
    ) -> None:
        """Train to the end, or to the early stop, and leave the best evaluation's averaged weights in the model.

        Parameters
        ----------
        checkpoint
            The state is written here after each epoch and evaluation, and goes on from here where there is one.
        checkpoint_seconds
            Otherwise it is written no oftener than this; with ``save_interval`` that decides.
        progress, metrics, step_metrics
            Called after each step; after each evaluation with its number and metrics; and each ``log_interval`` steps
            with the number of steps done and figures of the last one and of the machine.
        trace
            Where a profile of a few steps goes.
        """
        if checkpoint.exists():
            restore_state(self, checkpoint)
        device, position = self.compute.device, self.position
        with Feed(self.train, device, self.workers) as feed, tracing(trace, device) as traced:
            if not self.batch and not position.finished:
                # Adam's two moments of every parameter.
                moments = 2 * sum(p.nbytes for p in self._parameters)
                self.batch = measured_batch(self.config, self.compute, moments, lambda n: self._try(feed, n))
            telemetry = Telemetry(device)
            self.model.train()
            saved = evaluated = started = time.monotonic()
            begun_at, evaluated_at = position.step, position.windows_learned
            while not position.finished:
                with closing(self._epoch(feed, checkpoint)) as steps:
                    for sums, size, rate in steps:
                        traced()
                        now = time.monotonic()
                        pace = (now - started) / (position.step - begun_at)
                        loss = sums.loss / size
                        progress(self._progress(loss, pace * (self.total_steps - position.step)))
                        if self._due(self.log_interval):
                            speed = size / pace
                            step_metrics(position.step, self._step_metrics(sums, size, rate, speed) | telemetry.read())
                        if self._due(self.config.eval_interval) or position.step == self.total_steps:
                            learned = position.windows_learned - evaluated_at
                            result = self._evaluate(rate, learned / max(now - evaluated, 1e-9))
                            # Metrics before the checkpoint: a kill between them reports twice, never not at all.
                            metrics(len(position.history) - 1, result)
                            evaluated, evaluated_at, must = time.monotonic(), position.windows_learned, True
                        else:
                            must = position.step_in_epoch == 0
                        if must or self._save_due(now - saved, checkpoint_seconds):
                            save_state(self, checkpoint)
                            saved = time.monotonic()
                        if position.finished:
                            break
            telemetry.close()
        load_parameters(self.model, self.best)
        self.model.eval()

    def losses(self, rows: Tensor) -> Losses:
        """Sum the losses of the training windows of these numbers, unmixed, with the gradient's graph."""
        return self._losses(self.train.batch(rows))

    def _losses(self, batch: Batch) -> Losses:
        progress = self.position.step / self.total_steps
        return losses(self.config, self.model, self.forward, batch, self.compute.autocast, progress)

    def _due(self, interval: int | None) -> bool:
        return self.position.step_in_epoch == 0 if interval is None else self.position.step % interval == 0

    def _save_due(self, seconds: float, at_least: float) -> bool:
        return seconds >= at_least if self.save_interval is None else self.position.step % self.save_interval == 0

    def _try(self, feed: Feed, size: int) -> None:
        """Run a forward and backward pass of so many windows, and leave no trace."""
        rows = torch.arange(size, device=self.train.ends.device) % len(self.train)
        random, statistics = self._volatile()
        try:
            batch = feed.batch(Draw(rows))
            self._losses(batch).objective.backward()
        finally:
            self._undo(random, statistics)

    def _volatile(self) -> tuple[dict[str, Tensor], list[Tensor]]:
        return random_state(self.compute.device), [p.detach().clone() for p in self._statistics]

    @torch.no_grad()
    def _undo(self, random: dict[str, Tensor], statistics: list[Tensor]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        set_random_state(random, self.compute.device)
        for parameter, value in zip(self._statistics, statistics, strict=True):
            parameter.copy_(value)

    def _epoch(self, feed: Feed, checkpoint: Path) -> Generator[tuple[_Sums, int, float], None, None]:
        """Take the steps that remain of the epoch; yield each one's sums, windows and learning rate."""
        position, config = self.position, self.config
        order = epoch_order(config.sampling, self.train.target, config.seed, position.epoch)
        chosen = order.to(self.train.ends.device).split(config.effective_batch_size)
        first = position.step - position.step_in_epoch

        def draw(number: int) -> Draw:
            rows = chosen[number]
            return Draw(rows).mixed(draw_mixing(config, first + number, len(rows)))

        def batches() -> Iterator[Batch]:
            remaining = range(position.step_in_epoch, len(chosen))
            return feed.batches(part for number in remaining for part in draw(number).split(self.batch))

        stream = batches()
        while position.step < first + len(chosen):
            number = position.step_in_epoch
            size = len(chosen[number])
            rate = peak_learning_rate(config) * rate_share(config, position.step, self.total_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            random, statistics = self._volatile()
            sums = self._gradients(size, stream)
            if sums is None:
                self._undo(random, statistics)
                self._halve()
                stream = batches()
                continue
            # With a loss scale an infinite gradient is how the scale is found; the scaler skips that step.
            finite = math.isfinite(sums.loss) and (math.isfinite(sums.gradient) or self._scale_is_sought())
            if finite:
                self.gradient_scaler.step(self.optimizer)
                self.gradient_scaler.update()
                self.average.update()
                position.loss_sum += sums.loss
                position.variance_sum += sums.variance
                position.windows += size
                position.windows_learned += size
            else:
                self._undo(random, statistics)
                # The scale stays; this only tells the scaler that the step is over.
                self.gradient_scaler.update(self.gradient_scaler.get_scale())
                self._skip(feed, draw(number), sums, rate, checkpoint)
            position.step += 1
            position.step_in_epoch += 1
            if position.step_in_epoch == len(chosen):
                position.epoch += 1
                position.step_in_epoch = 0
            yield sums, size, rate

    def _gradients(self, size: int, stream: Iterator[Batch]) -> _Sums | None:
        """Accumulate and clip the gradient of a step's mean loss; None where memory ran out on the way."""
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=self.compute.device)
        try:
            for _ in range(math.ceil(size / self.batch)):
                objective, reported, variance = self._losses(next(stream))
                # Divided by the effective batch, so that the sum of the gradients is that of its mean loss.
                self.gradient_scaler.scale(objective / size).backward()
                sums += torch.stack([reported, variance])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        self.gradient_scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, self.config.gradient_clip)
        # The one time in a step that the host waits for the device.
        return _Sums(*torch.cat([sums, norm.reshape(1)]).tolist())

    def _scale_is_sought(self) -> bool:
        return self.compute.scaled and self.gradient_scaler.get_scale() > LOSS_SCALE_FLOOR

    def _halve(self) -> None:
        if self.batch == 1:
            raise too_large_for(self.compute.device)
        self.batch //= 2
        self.position.out_of_memory_halvings += 1
        if self.compute.device.type == "cuda":
            torch.cuda.empty_cache()

    def _skip(self, feed: Feed, draw: Draw, sums: _Sums, rate: float, checkpoint: Path) -> None:
        position = self.position
        path = checkpoint.with_name(f"{checkpoint.stem}-skipped-{position.step}.safetensors")
        batch = feed.batch(draw)
        kept = {name: getattr(batch, name) for name in ("inputs", "target", "unit", "weight")}
        kept["ends"] = self.train.ends[draw.rows.to(self.train.ends.device)]
        if batch.mixed is not None:
            kept |= {f"mixed.{name}": tensor for name, tensor in batch.mixed._asdict().items()}
        tensors = {name: tensor for name, tensor in kept.items() if tensor is not None}
        about = {
            "epoch": position.epoch,
            "step": position.step,
            "loss": sums.loss / len(draw),
            "gradient_norm": sums.gradient,
            "learning_rate": rate,
        }
        write_tensors(path, tensors, about)
        position.skipped_steps += 1
        if position.skipped_steps > self.config.max_skipped_steps:
            raise NonFiniteLossError(
                f"epoch {position.epoch}, step {position.step}: loss {about['loss']}, gradient norm {sums.gradient}, "
                f"learning rate {rate:.2e}; steps skipped so far {position.skipped_steps}, of "
                f"Config.max_skipped_steps={self.config.max_skipped_steps}. The weights are those before that step. "
                f"Its windows are in {path}: look there for absurd values in the panel. Reduce learning_rate, use "
                "precision float32, or Hardware.anomaly to find the operation"
            )

    def _progress(self, loss: float, seconds_left: float) -> Progress:
        position = self.position
        return Progress(
            epoch=position.epoch if position.step_in_epoch else position.epoch - 1,
            step=position.step,
            total_steps=self.total_steps,
            loss=loss,
            seconds_left=seconds_left,
            physical_batch=self.batch,
            skipped_steps=position.skipped_steps,
            out_of_memory_halvings=position.out_of_memory_halvings,
        )

    def _step_metrics(self, sums: _Sums, size: int, rate: float, speed: float) -> dict[str, float]:
        return {
            f"step/{self.model.head.loss_name}": sums.loss / size,
            "step/gradient_norm": sums.gradient,
            "step/learning_rate": rate,
            "step/windows_per_second": speed,
            "step/physical_batch": self.batch,
            "step/skipped_steps": self.position.skipped_steps,
            "step/out_of_memory_halvings": self.position.out_of_memory_halvings,
        }

    def _judge(self) -> dict[str, float]:
        size = EVALUATION_FACTOR * self.batch
        while True:
            try:
                return evaluate(self.model, self.forward, self.validation, size, self.compute.autocast)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise too_large_for(self.compute.device) from error
            size //= 2

    def _evaluate(self, rate: float, windows_per_second: float) -> dict[str, float]:
        position = self.position
        with self.average.applied_to(self.model):
            self.model.eval()
            judged = self._judge()
        self.model.train()
        loss_name = self.model.head.loss_name
        loss = judged[loss_name]
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"step {position.step}: validation loss {loss} with finite training loss. The last "
                "checkpoint is from before this evaluation; reduce learning_rate"
            )
        # Every step since the last evaluation may have been skipped.
        windows = position.windows or math.nan
        has_variance = isinstance(self.model.head, DensityHead)
        result = {
            f"train/{loss_name}": position.loss_sum / windows,
            **({"train/variance": position.variance_sum / windows} if has_variance else {}),
            **{f"val/{name}": value for name, value in judged.items()},
            "learning_rate": rate,
            "windows_per_second": windows_per_second,
            "step": position.step,
            "skipped_steps": position.skipped_steps,
            "out_of_memory_halvings": position.out_of_memory_halvings,
        }
        position.history.append(result)
        if loss < position.best_loss or self.config.selection == "last":
            position.best_loss, position.best_epoch = loss, len(position.history) - 1
            self.best = self.average.copy()
        # Patience asks for a gain worth having; the weights kept are the best all the same.
        if loss < position.patience_loss - self.config.early_stopping_min_delta:
            position.patience_loss, position.epochs_without_gain = loss, 0
        else:
            position.epochs_without_gain += 1
        position.windows = 0
        position.loss_sum = position.variance_sum = 0.0
        position.finished = (
            position.step >= self.total_steps or position.epochs_without_gain >= self.config.early_stopping_patience
        )
        return result
