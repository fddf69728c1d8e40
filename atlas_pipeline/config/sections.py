"""What is learned, section by section, with the kinds each setting can be and who reads it; ``Config`` joins them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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
    ``members`` such networks are learned side by side and averaged (``models.ensemble``).
    ``stochastic_depth`` is the probability of dropping the last layer in training; it rises linearly to it.
    ``state_size`` is the states a channel of Mamba has. The recursive backbone makes ``latent_steps`` in each of
    ``supervision_steps``. The residual network reads ``input_units`` bounded units of each input beside it, and drops
    all those of an input at once with probability ``input_dropout``.
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
    members: int = 1
    ff_dim: int = 1024
    dropout: float = 0.1
    stochastic_depth: float = 0.0
    state_size: int = 16
    latent_steps: int = 4
    supervision_steps: int = 8
    input_units: int = 0
    input_dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Supervised pretraining; the effective batch is ``batch_size * accumulation_steps``.

    ``schedule`` is the learning rate's course (``training.schedule``), ``cycles`` the cosines in it, each a restart;
    with ``scale_learning_rate`` its peak grows with the square root of the effective batch. ``sampling`` says how an
    epoch's windows fall into batches (``windows.sampling``). ``mixup_alpha`` and ``cutmix_alpha`` are the parameters of
    the Beta distribution windows are mixed by, 0 for not at all (``windows.augmentation``). With
    ``recency_half_life``, in years, a window that ends so much before the newest counts half. ``target_symbols`` are
    those the model is meant for, where others are learned beside them for what they have in common: their windows count
    ``target_weight`` times as much (``windows.sampling``). ``eval_interval`` counts
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
    recency_half_life: float | None = None
    target_symbols: tuple[str, ...] = ()
    target_weight: float = 1.0
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
    # The steps of a recursion have losses of their own.
    "members": ("patchtst", "mamba", "residual_mlp"),
    "input_units": ("residual_mlp",),
    "input_dropout": ("residual_mlp",),
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
