"""Where a fit stands, for whoever watches it, and a bar in the terminal that shows it."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Progress:
    """Where a fit stands after an optimizer step.

    Attributes
    ----------
    epoch, step, total_steps
        Epochs and steps done, and the steps of a fit that does not stop early.
    loss
        NLL of the step's windows, nats; NaN or infinite where the step was skipped.
    seconds_left
        To the last of ``total_steps``, at the pace so far.
    physical_batch
        Windows on the device at once.
    skipped_steps, out_of_memory_halvings
        How often a step was skipped because it was not finite, and the physical batch halved.
    """

    epoch: int
    step: int
    total_steps: int
    loss: float
    seconds_left: float
    physical_batch: int
    skipped_steps: int = 0
    out_of_memory_halvings: int = 0


class ProgressBar:
    """A bar with loss, step and time left; a context, and the ``progress`` to give to ``fit_forecaster``.

    Parameters
    ----------
    console
        Where to draw; None takes the terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._bars: Any = Bars(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("NLL {task.fields[loss]:.4f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]} left"),
            console=console,
        )
        self._task: Any = None
        self._last: Progress | None = None

    def __enter__(self) -> ProgressBar:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Draw where the fit stands; halvings of the batch and skipped steps are written above the bar."""
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        fields = {"epoch": progress.epoch, "loss": progress.loss, "left": f"{minutes}:{seconds:02d}"}
        if self._task is None:
            self._task = self._bars.add_task("fit", total=progress.total_steps, **fields)
        self._bars.update(self._task, completed=progress.step, **fields)
        last = self._last or progress
        if progress.out_of_memory_halvings > last.out_of_memory_halvings:
            self._bars.console.print(
                f"step {progress.step}: out of memory, {progress.physical_batch} windows at once from here on"
            )
        if progress.skipped_steps > last.skipped_steps:
            self._bars.console.print(f"step {progress.step}: skipped, its loss or gradient is not finite")
        self._last = progress
