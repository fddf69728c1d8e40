"""From numbers of windows to batches on the device.

Where the rows stand on the device this is one gather there. Where they stand on the host, threads gather windows ahead
into pinned memory and the copies overlap the computation. Threads, not processes: a gather is one kernel that leaves
the interpreter free, and a process would copy each batch once more to hand it over. Which windows a batch holds is
decided in ``windows.sampling`` and ``windows.augmentation``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType

import torch
from torch import Tensor

from atlas_pipeline.config import Hardware
from atlas_pipeline.training.objective import Batch, LabelledWindows, Mixed
from atlas_pipeline.windows.augmentation import Mixing, mix

# Batches that each thread is ahead, DataLoader's own default.
AHEAD = 2
# Share of the device's free memory that the rows may take; the network needs the rest.
DATA_SHARE = 0.25


@dataclass(frozen=True)
class Draw:
    """Windows to make a batch of: their numbers, int64 [n], and those of their partners and how they mix."""

    rows: Tensor
    partners: Tensor | None = None
    mixing: Mixing | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def mixed(self, mixing: Mixing | None) -> Draw:
        """Let these windows be mixed with one another."""
        return self if mixing is None else Draw(self.rows, self.rows[mixing.partner], mixing)

    def split(self, size: int) -> list[Draw]:
        """Part it into draws of at most ``size`` windows."""
        if self.mixing is None or self.partners is None:
            return [Draw(rows) for rows in self.rows.split(size)]
        bounds = [(first, min(first + size, len(self))) for first in range(0, len(self), size)]
        return [
            Draw(self.rows[first:last], self.partners[first:last], self.mixing.part(first, last))
            for first, last in bounds
        ]


class Feed:
    """Makes the batches of a fit; a context, inside which its threads live.

    Parameters
    ----------
    windows
        The training windows, where their rows stand.
    device
        Where batches are wanted.
    workers
        Threads that gather ahead; 0 gathers when a batch is asked for.
    """

    def __init__(self, windows: LabelledWindows, device: torch.device, workers: int) -> None:
        self.windows = windows
        self.device = device
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, "gather") if workers else None

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def batch(self, draw: Draw) -> Batch:
        """Make one batch, on the device."""
        return self._on_device(self._gather(draw))

    def batches(self, draws: Iterable[Draw]) -> Iterator[Batch]:
        """Make batches one after the other, on the device; draws are asked for as far ahead as the threads go."""
        if self._pool is None:
            yield from map(self.batch, draws)
            return
        waiting: deque[Future[Batch]] = deque()
        try:
            for draw in draws:
                waiting.append(self._pool.submit(self._gather, draw))
                if len(waiting) > AHEAD * self.workers:
                    yield self._on_device(waiting.popleft().result())
            while waiting:
                yield self._on_device(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()

    def _gather(self, draw: Draw) -> Batch:
        home = self.windows.ends.device
        batch = self.windows.batch(draw.rows.to(home))
        if draw.mixing is not None and draw.partners is not None:
            mixing = draw.mixing
            start = None if mixing.start is None else mixing.start.to(home)
            mixing = replace(mixing, share=mixing.share.to(home), start=start)
            other = self.windows.batch(draw.partners.to(home))
            batch = batch._replace(
                inputs=mix(batch.inputs, other.inputs, mixing),
                mixed=Mixed(other.target, other.unit, mixing.share, other.weight),
            )
        return _each(batch, Tensor.pin_memory) if self._copies_to_cuda else batch

    def _on_device(self, batch: Batch) -> Batch:
        if self.windows.ends.device == self.device:
            return batch
        return _each(batch, lambda tensor: tensor.to(self.device, non_blocking=True))

    @property
    def _copies_to_cuda(self) -> bool:
        return self.device.type == "cuda" and self.windows.ends.device.type == "cpu"


def data_home(hardware: Hardware, device: torch.device, data_bytes: int) -> torch.device:
    """Where a fit's rows are to stand: the device, or the host.

    Parameters
    ----------
    hardware
        ``data``; ``"auto"`` means the device where the rows take at most ``DATA_SHARE`` of its free memory.
    device
        Where the network computes.
    data_bytes
        Size of the rows.
    """
    host = torch.device("cpu")
    if hardware.data == "host":
        return host
    if (
        hardware.data == "auto"
        and device.type == "cuda"
        and data_bytes > DATA_SHARE * torch.cuda.mem_get_info(device)[0]
    ):
        return host
    return device


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    def of(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else change(tensor)

    mixed = batch.mixed
    if mixed is not None:
        mixed = Mixed(change(mixed.target), change(mixed.unit), change(mixed.share), of(mixed.weight))
    return Batch(change(batch.inputs), change(batch.target), change(batch.unit), mixed, of(batch.weight))
