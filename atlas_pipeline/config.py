"""What is learned: the frozen configuration of an experiment, its hash, and the presets.

``Config`` is flat, as its users type it, and made of sections, so that each stage can be keyed by exactly the
settings that change it. How a run is executed (device, precision, physical batch) is ``Hardware``; where things
are (paths, credentials) is in neither: that is the environment's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

ScalerKind = Literal["robust", "min_max", "instance"]
BackboneKind = Literal["patchtst", "mamba", "residual_mlp", "recursive"]
HeadKind = Literal[
    "student_t",
    "skewed_t",
    "gaussian",
    "quantiles",
    "direction",
    "threshold_1pct",
    "threshold_2pct",
    "threshold_3pct",
    "threshold_5pct",
    "regression",
]
PatchPadding = Literal["none", "end"]
Channels = Literal["mixing", "independent"]
Positions = Literal["learned", "rotary"]
Norm = Literal["layer", "rms", "batch"]
NormPlacement = Literal["pre", "post"]
ScheduleKind = Literal["cosine", "one_cycle", "constant"]
SamplingKind = Literal["shuffled", "stratified"]
Selection = Literal["best", "last"]
IterationWeights = Literal["linear", "uniform"]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is read, windows, labels and the fold's split.

    ``features`` names the set whose columns the model reads, or several joined by "+" (``features.model_inputs``);
    ``scaler`` says how they are scaled (``windows.scaler``). ``horizon`` is in bars, one or several, increasing; the
    policy trades on the first. ``volatility_decay`` is the RiskMetrics lambda of the trailing volatility that locations
    and scales are multiples of (RiskMetrics Technical Document, 4th ed., 1996, sec. 5.3). ``policy_years`` lie between
    the last label the forecaster is fitted on and the fold's year. ``validation_fraction`` is the newest share of the
    fitting rows, split off with an embargo of the longest horizon.
    """

    features: str = "relative"
    scaler: ScalerKind = "robust"
    seq_length: int = 512
    horizon: int | tuple[int, ...] = 1
    volatility_decay: float = 0.94
    policy_years: int = 4
    validation_fraction: float = 0.15

    @property
    def horizons(self) -> tuple[int, ...]:
        """All horizons, in bars."""
        return (self.horizon,) if isinstance(self.horizon, int) else self.horizon

    @property
    def longest_horizon(self) -> int:
        """Bars that a label may reach ahead."""
        return max(self.horizons)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network; ``feature_size`` is the number of columns of the set it reads.

    Patches of ``patch_length`` bars begin every ``stride`` bars; ``patch_padding="end"`` repeats the newest bar
    ``stride`` times and so makes one patch more. ``channels``, ``positions`` and ``norm_placement`` are the patch
    transformers' (``models.patchtst``). ``n_layers`` counts transformer or Mamba layers or residual blocks.
    ``stochastic_depth`` is the probability of dropping the last layer in training; it rises linearly to it.
    ``state_size`` is the states a channel of Mamba has. The recursive backbone makes ``latent_steps`` in each of
    ``supervision_steps``.
    """

    backbone: BackboneKind = "patchtst"
    head: HeadKind = "student_t"
    patch_length: int = 16
    stride: int = 16
    patch_padding: PatchPadding = "none"
    channels: Channels = "mixing"
    positions: Positions = "learned"
    norm: Norm = "layer"
    norm_placement: NormPlacement = "pre"
    feature_size: int = 8
    d_model: int = 256
    n_heads: int = 8
    n_layers: int = 6
    ff_dim: int = 1024
    dropout: float = 0.1
    stochastic_depth: float = 0.0
    state_size: int = 16
    latent_steps: int = 4
    supervision_steps: int = 8


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Supervised pretraining; the effective batch is ``batch_size * accumulation_steps``.

    ``schedule`` is the learning rate's course (``training.schedule``), ``cycles`` the cosines in it, each a restart;
    with ``scale_learning_rate`` its peak grows with the square root of the effective batch. ``sampling`` says how an
    epoch's windows fall into batches (``windows.sampling``). ``mixup_alpha`` and ``cutmix_alpha`` are the parameters of
    the Beta distribution windows are mixed by, 0 for not at all (``windows.augmentation``). ``eval_interval`` counts
    optimizer steps between evaluations, and ``early_stopping_patience`` bears so many without a gain; None evaluates
    after each epoch. ``selection`` says whether the best evaluation's weights are kept or the last's: where the rate is
    annealed to the end and validation windows are few, the last is the better choice. A fit skips
    ``max_skipped_steps`` steps whose loss or gradient is not finite, and stops at the next.

    ``label_smoothing`` is of the heads that say a probability, ``huber_delta`` of ``regression``; ``iteration_weights``
    and ``supervision_ramp`` of the recursive backbone (``models.recursive``).
    """

    batch_size: int = 64
    accumulation_steps: int = 8
    learning_rate: float = 1e-4
    scale_learning_rate: bool = False
    schedule: ScheduleKind = "cosine"
    cycles: int = 1
    sampling: SamplingKind = "shuffled"
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    weight_decay: float = 0.01
    max_epochs: int = 50
    eval_interval: int | None = None
    selection: Selection = "best"
    max_skipped_steps: int = 5
    warmup_fraction: float = 0.1
    gradient_clip: float = 0.5
    ema_decay: float = 0.9999
    early_stopping_patience: int = 10
    early_stopping_min_delta: float = 0.001
    log_sigma_penalty: float = 0.0
    label_smoothing: float = 0.0
    huber_delta: float = 1.0
    iteration_weights: IterationWeights = "linear"
    supervision_ramp: float = 0.5
    seed: int = 0

    @property
    def effective_batch_size(self) -> int:
        """Windows an optimizer step learns from, whatever the device holds at once."""
        return self.batch_size * self.accumulation_steps


@dataclass(frozen=True, kw_only=True)
class TradingSettings:
    """The simulator: costs are fractions of the traded notional, the fill is a price of the next bar.

    Positions are whole multiples of equity between ``min_position`` and ``max_position``. The differential
    Sharpe ratio pays nothing during its first ``sharpe_warmup`` bars.
    """

    initial_balance: float = 10_000.0
    commission: float = 1e-4
    slippage: float = 1e-4
    fill: Literal["close", "open"] = "close"
    min_position: int = -1
    max_position: int = 1
    sharpe_eta: float = 0.01
    sharpe_warmup: int = 20


@dataclass(frozen=True, kw_only=True)
class PPOSettings:
    """The policy's optimisation; ``ppo_steps`` counts environment steps."""

    gamma: float = 0.99
    gae_lambda: float = 0.95
    ppo_epsilon: float = 0.2
    value_loss_coef: float = 0.5
    entropy_coef: float = 0.01
    ppo_steps: int = 200_000
    ppo_environments: int = 32
    ppo_rollout: int = 128
    ppo_epochs: int = 4
    ppo_minibatch: int = 1024
    ppo_learning_rate: float = 3e-4
    policy_hidden: int = 64


@dataclass(frozen=True, kw_only=True)
class AdaptationSettings:
    """LoRA adapters, prioritized replay, the online update and the promotion gate.

    ``gate_minimum_steps`` shadow steps must have passed before the gate decides at all; it promotes where the
    lower ``gate_confidence`` bound of the candidate's net return over the champion's is above zero.
    """

    lora_rank: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.1
    lora_learning_rate: float = 5e-5
    online_update_freq: int = 500
    online_batch_size: int = 256
    online_epochs: int = 4
    importance_clip: float = 1.0
    per_buffer_size: int = 100_000
    per_alpha: float = 0.6
    per_beta: float = 0.4
    per_beta_increment: float = 0.001
    per_epsilon: float = 1e-6
    gate_minimum_steps: int = 200
    gate_confidence: float = 0.9


@dataclass(frozen=True, kw_only=True)
class ExecutionSettings:
    """Execution defaults of a plain Python user; in the pipeline the ``compute`` resource decides these."""

    use_flash_attention: bool = True
    use_amp: bool = True
    gradient_checkpointing: bool = True


CHOICES: dict[str, Any] = {
    "scaler": ScalerKind,
    "backbone": BackboneKind,
    "head": HeadKind,
    "patch_padding": PatchPadding,
    "channels": Channels,
    "positions": Positions,
    "norm": Norm,
    "norm_placement": NormPlacement,
    "schedule": ScheduleKind,
    "sampling": SamplingKind,
    "selection": Selection,
    "iteration_weights": IterationWeights,
}
"""What the settings that name a kind can be."""

READ_BY: dict[str, tuple[str, ...]] = {
    "patch_padding": ("patchtst", "mamba", "recursive"),
    "channels": ("patchtst",),
    "positions": ("patchtst", "recursive"),
    "norm_placement": ("patchtst", "recursive"),
    "state_size": ("mamba",),
    "latent_steps": ("recursive",),
    "supervision_steps": ("recursive",),
    "iteration_weights": ("recursive",),
    "supervision_ramp": ("recursive",),
}
"""Backbones that read a setting; others refuse it, because a change without effect would pass for a result."""

DENSITY_HEADS: tuple[HeadKind, ...] = ("student_t", "skewed_t", "gaussian")
"""Heads that say a density of the return, which GARCH models are compared with and policies read."""

_PROBABILITY_HEADS: tuple[HeadKind, ...] = (
    "direction",
    "threshold_1pct",
    "threshold_2pct",
    "threshold_3pct",
    "threshold_5pct",
)
READ_BY_HEAD: dict[str, tuple[str, ...]] = {
    "log_sigma_penalty": DENSITY_HEADS,
    "label_smoothing": _PROBABILITY_HEADS,
    "huber_delta": ("regression",),
}
"""Heads that read a setting; others refuse it."""


Section = type[DataSettings | ModelSettings | TrainingSettings | TradingSettings | PPOSettings | AdaptationSettings]


@dataclass(frozen=True, kw_only=True)
class Config(
    DataSettings,
    ModelSettings,
    TrainingSettings,
    TradingSettings,
    PPOSettings,
    AdaptationSettings,
    ExecutionSettings,
):
    """Everything that decides what is learned, in one frozen object; change it with ``dataclasses.replace``.

    Raises
    ------
    ValueError
        Naming the field, its value and the remedy, where a value cannot work.
    """

    def __post_init__(self) -> None:
        def require(condition: bool, field: str, remedy: str) -> None:
            if not condition:
                raise ValueError(f"Config.{field}={getattr(self, field)!r}: {remedy}")

        for name, kinds in CHOICES.items():
            choices = get_args(kinds)
            require(getattr(self, name) in choices, name, f"use one of {', '.join(choices)}")
        if isinstance(self.horizon, list):
            object.__setattr__(self, "horizon", tuple(self.horizon))
        require(
            all(isinstance(each, int) and each >= 1 for each in self.horizons) and len(self.horizons) > 0,
            "horizon",
            "a label needs at least one future bar; use 1 or more, or several such numbers",
        )
        require(
            all(near < far for near, far in pairwise(self.horizons)), "horizon", "name each horizon once, increasing"
        )
        require(0 < self.stride <= self.patch_length, "stride", "use 1 to patch_length")
        remainder = (self.seq_length - self.patch_length) % self.stride
        require(
            self.backbone == "residual_mlp"
            or (self.seq_length >= self.patch_length and (remainder == 0 or self.patch_padding == "end")),
            "seq_length",
            f"must be patch_length ({self.patch_length}) plus a multiple of stride ({self.stride}), or at least "
            "patch_length with patch_padding='end'",
        )
        require(
            self.backbone in ("mamba", "residual_mlp") or self.d_model % self.n_heads == 0,
            "d_model",
            f"must be divisible by n_heads ({self.n_heads})",
        )
        require(
            self.positions != "rotary" or self.d_model // self.n_heads % 2 == 0,
            "positions",
            f"rotations turn pairs, and a head is {self.d_model // self.n_heads} wide: make d_model / n_heads even, or "
            "use learned",
        )
        require(
            self.norm != "batch" or self.backbone != "recursive",
            "norm",
            "one network serves all steps of backbone='recursive', and batch statistics are of one: use layer or rms",
        )
        for kind, table in (("backbone", READ_BY), ("head", READ_BY_HEAD)):
            chosen = getattr(self, kind)
            for name, readers in table.items():
                default = getattr(Config, name)
                require(
                    chosen in readers or getattr(self, name) == default,
                    name,
                    f"{kind}={chosen!r} does not read it: leave it at {default!r}, or use {' or '.join(readers)}",
                )
        for name in (
            "batch_size",
            "accumulation_steps",
            "max_epochs",
            "cycles",
            "seq_length",
            "n_layers",
            "state_size",
            "latent_steps",
            "supervision_steps",
            "lora_rank",
            "feature_size",
            "online_update_freq",
            "online_batch_size",
            "ppo_steps",
            "ppo_environments",
            "ppo_rollout",
        ):
            require(getattr(self, name) >= 1, name, "use 1 or more")
        for name in ("volatility_decay", "validation_fraction", "gamma", "gae_lambda", "sharpe_eta", "gate_confidence"):
            require(0 < getattr(self, name) < 1, name, "use a number between 0 and 1")
        for name in ("dropout", "stochastic_depth", "lora_dropout", "commission", "slippage", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, "use a number from 0 up to, not including, 1")
        require(0 <= self.warmup_fraction < 1, "warmup_fraction", "use a number from 0 up to, not including, 1")
        require(
            self.cycles == 1 or self.schedule == "cosine",
            "cycles",
            f"schedule={self.schedule!r} has no restarts: leave it at 1, or use cosine",
        )
        require(self.eval_interval is None or self.eval_interval >= 1, "eval_interval", "use 1 or more steps, or None")
        for name in ("mixup_alpha", "cutmix_alpha", "max_skipped_steps"):
            require(getattr(self, name) >= 0, name, "use 0 or more")
        require(0 <= self.label_smoothing < 1, "label_smoothing", "use a number from 0 up to, not including, 1")
        require(0 <= self.supervision_ramp <= 1, "supervision_ramp", "use a share of the training, 0 to 1")
        require(self.huber_delta > 0, "huber_delta", "use a number above 0")
        require(self.min_position <= 0 < self.max_position, "min_position", "bounds must enclose the flat position 0")

    def digest(self, *sections: Section) -> str:
        """SHA-256 (first 16 hex digits) over the fields of the sections given, or over all of what is learned."""
        return digest_of(self.values(*(sections or LEARNED)))

    def values(self, *sections: Section) -> dict[str, Any]:
        """Return the settings of these sections by name."""
        return {f.name: getattr(self, f.name) for section in sections for f in dataclasses.fields(section)}


LEARNED: tuple[Section, ...] = (
    DataSettings,
    ModelSettings,
    TrainingSettings,
    TradingSettings,
    PPOSettings,
    AdaptationSettings,
)


def digest_of(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of a JSON-serializable value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16", "float16"]
CompileMode = Literal["off", "default", "reduce-overhead", "max-autotune"]
DataPath = Literal["auto", "device", "host"]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """How a run is executed; changing it never changes the model, and never the effective batch.

    ``compile`` is the mode of ``torch.compile``. ``batch_size`` is the physical batch on the device (``"auto"``
    measures it). ``deterministic`` keeps to reproducible kernels, ``benchmark`` lets cuDNN time its kernels and take
    the fastest, ``tf32`` lets a GPU round the factors of float32 products to ten bits. ``threads=0`` leaves torch's
    choice. ``data`` says where a fit's rows stand (``"auto"``: on the device where they fit); on the host, ``workers``
    threads gather windows ahead, 0 gathers them as they are asked for. ``log_interval`` and ``save_interval`` count
    optimizer steps; None reports the steps once an epoch and leaves checkpoints to the clock. ``anomaly`` names the
    operation that first gave NaN in a backward pass, and is slow.
    """

    device: Device = "auto"
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    compile: CompileMode = "off"
    batch_size: int | Literal["auto"] = 64
    deterministic: bool = False
    benchmark: bool = False
    tf32: bool = False
    threads: int = 0
    data: DataPath = "auto"
    workers: int = 0
    log_interval: int | None = None
    save_interval: int | None = None
    anomaly: bool = False

    def __post_init__(self) -> None:
        def require(condition: bool, field: str, remedy: str) -> None:
            if not condition:
                raise ValueError(f"Hardware.{field}={getattr(self, field)!r}: {remedy}")

        for name, kinds in (
            ("device", Device),
            ("precision", Precision),
            ("compile", CompileMode),
            ("data", DataPath),
        ):
            choices = get_args(kinds)
            # A YAML boolean equals 0 or 1, never a name, and is refused with the names there are.
            require(getattr(self, name) in choices, name, f"use one of {', '.join(choices)}")
        require(self.batch_size == "auto" or self.batch_size >= 1, "batch_size", "use 1 or more, or auto")
        require(self.workers >= 0, "workers", "use 0 or more")
        for name in ("log_interval", "save_interval"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "use 1 or more steps, or None")
        require(
            not (self.deterministic and self.benchmark),
            "benchmark",
            "cuDNN takes whichever kernel was fastest, so runs differ: leave out benchmark or deterministic",
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise FileNotFoundError(f"no configuration {path.name!r} in {path.parent}; there are: {known}")
    content = yaml.safe_load(path.read_text()) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of settings, found {type(content).__name__}")
    return content


def experiment_settings(name: str | Path, **overrides: Any) -> dict[str, Any]:
    """What the experiment or use preset of this name in ``configs/`` (or at this path) states, and the overrides.

    What neither states is not in it: it has its default in ``Config``.

    Raises
    ------
    FileNotFoundError
        Where there is none of this name; the message lists those there are.
    ValueError
        Where a setting is unknown.
    """
    path = Path(name) if str(name).endswith(".yaml") else CONFIGS / "experiments" / f"{name}.yaml"
    settings = {**_read(path), **overrides}
    unknown = sorted(settings.keys() - {f.name for f in dataclasses.fields(Config)})
    if unknown:
        raise ValueError(f"{path}: unknown settings {unknown}; see atlas_pipeline.config.Config for the known ones")
    return settings


def experiments() -> list[str]:
    """Names of all experiments and use presets, sorted."""
    return sorted(path.stem for path in (CONFIGS / "experiments").glob("*.yaml"))


def load_config(name: str | Path, **overrides: Any) -> Config:
    """The experiment or use preset of this name, with overrides on top; errors as of ``experiment_settings``.

    Raises
    ------
    ValueError
        Where a setting cannot work.
    """
    return Config(**experiment_settings(name, **overrides))


def hardware_preset(name: str) -> Hardware:
    """The hardware preset of this name in ``configs/hardware/``: cpu, rtx4050, rtx4060ti, rtx4090, a100, h200."""
    return Hardware(**_read(CONFIGS / "hardware" / f"{name}.yaml"))


def hardware_presets() -> list[str]:
    """Names of all hardware presets, sorted."""
    return sorted(path.stem for path in (CONFIGS / "hardware").glob("*.yaml"))
