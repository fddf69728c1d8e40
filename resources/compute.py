"""The ``compute`` resource: how a run is executed. What is learned is not decided here."""

import dataclasses
from typing import Literal

import dagster as dg
from pydantic import Field

from atlas_pipeline.config import Hardware, hardware_preset, hardware_presets


class Compute(dg.ConfigurableResource):
    """Device, precision and batching of training and inference: a hardware preset, and what is to differ from it.

    The same experiment runs on any hardware unchanged: the physical batch follows the memory and accumulation keeps
    the effective batch of the experiment.
    """

    preset: str = Field(
        default="cpu", description="Hardware preset in configs/hardware: " + ", ".join(hardware_presets())
    )
    device: str | None = Field(
        default=None,
        description="`cpu`, `cuda`, `mps`, or `auto` for the first accelerator there is. Unset: the preset's.",
    )
    precision: str | None = Field(
        default=None,
        description="Mixed precision: `float32` (off), `bfloat16`, or `float16` (with loss scaling).",
    )
    gradient_checkpointing: bool | None = Field(
        default=None, description="Recompute activations in the backward pass: less memory, more time."
    )
    compile: str | None = Field(
        default=None,
        description="Mode of torch.compile: `off`, `default`, `reduce-overhead` (CUDA graphs) or `max-autotune`.",
    )
    batch_size: str | None = Field(
        default=None, description="Physical batch: a number, or `auto` to measure what fits the device."
    )
    deterministic: bool | None = Field(default=None, description="Only deterministic kernels; slower on a GPU.")
    benchmark: bool | None = Field(
        default=None, description="Let cuDNN time its kernels and take the fastest; not with `deterministic`."
    )
    tf32: bool | None = Field(
        default=None,
        description="TF32 on a GPU: float32 products with factors rounded to ten bits, several times faster.",
    )
    threads: int | None = Field(
        default=None, description="CPU threads; 0 leaves the choice to torch, one for a small network."
    )
    data: str | None = Field(
        default=None, description="Where a fit's rows stand: `device`, `host`, or `auto` for the device where they fit."
    )
    workers: int | None = Field(
        default=None, description="Threads that gather windows ahead where the rows are on the host; 0 for none."
    )
    log_interval: int | None = Field(
        default=None, description="Optimizer steps between reports of speed, load and loss. Unset: once an epoch."
    )
    save_interval: int | None = Field(
        default=None, description="Optimizer steps between checkpoints. Unset: by the clock."
    )
    anomaly: bool | None = Field(
        default=None, description="Name the operation that first gave NaN in a backward pass; slow."
    )

    def hardware(self) -> Hardware:
        """Return the preset with this resource's own settings on top.

        Raises
        ------
        FileNotFoundError
            Where the preset does not exist; the message lists those that do.
        ValueError
            Where a setting is none of its choices.
        """
        own = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(Hardware)
            if field.name != "batch_size" and getattr(self, field.name) is not None
        }
        if self.batch_size is not None:
            own["batch_size"] = _batch_size(self.batch_size)
        return dataclasses.replace(hardware_preset(self.preset), **own)

    def inference(self) -> Hardware:
        """Return the hardware for forecasts, embeddings and what trades on them: float32, unrounded.

        A window then gives the same embedding in training, on paper, in shadow and in the online update, whatever it is
        batched with; in bfloat16 it moves by about a hundredth, and importance weights with it.
        """
        return dataclasses.replace(self.hardware(), precision="float32", tf32=False)

    def accumulation_steps(self, effective_batch_size: int) -> int:
        """Number of physical batches accumulated into one optimizer step, so that the effective batch is kept."""
        physical = self.hardware().batch_size
        return 1 if physical == "auto" else -(-effective_batch_size // physical)


def _batch_size(value: str) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if value.isdigit() and int(value) > 0:
        return int(value)
    raise ValueError(f"compute.batch_size={value!r}: give a positive number, or auto")
