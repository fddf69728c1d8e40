"""``Config``: the sections in one object that refuses what cannot work; and its hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

from atlas_pipeline.config.sections import (
    CHOICES,
    READ_BY,
    READ_BY_HEAD,
    AdaptationSettings,
    DataSettings,
    ExecutionSettings,
    ModelSettings,
    PPOSettings,
    Section,
    TradingSettings,
    TrainingSettings,
)


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
        if isinstance(self.target_symbols, list):
            object.__setattr__(self, "target_symbols", tuple(self.target_symbols))
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
            self.scaler != "instance" or self.seq_length > 1,
            "scaler",
            "a window of one bar is its own mean, and every input would be 0: use a longer window or another scaler",
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
            "members",
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
        for name in (
            "dropout",
            "input_dropout",
            "stochastic_depth",
            "lora_dropout",
            "commission",
            "slippage",
            "ema_decay",
        ):
            require(0 <= getattr(self, name) < 1, name, "use a number from 0 up to, not including, 1")
        require(0 <= self.warmup_fraction < 1, "warmup_fraction", "use a number from 0 up to, not including, 1")
        require(
            self.cycles == 1 or self.schedule == "cosine",
            "cycles",
            f"schedule={self.schedule!r} has no restarts: leave it at 1, or use cosine",
        )
        require(self.eval_interval is None or self.eval_interval >= 1, "eval_interval", "use 1 or more steps, or None")
        for name in ("mixup_alpha", "cutmix_alpha", "max_skipped_steps", "input_units"):
            require(getattr(self, name) >= 0, name, "use 0 or more")
        require(
            self.input_dropout == 0 or self.input_units > 0,
            "input_dropout",
            "it drops the units of an input, and there are none: leave it at 0, or set input_units",
        )
        require(
            self.recency_half_life is None or self.recency_half_life > 0,
            "recency_half_life",
            "use a number of years above 0, or None",
        )
        require(
            isinstance(self.target_symbols, tuple) and len(set(self.target_symbols)) == len(self.target_symbols),
            "target_symbols",
            "give a list of symbols, each once",
        )
        require(self.target_weight > 0, "target_weight", "use a number above 0")
        require(
            (self.target_weight == 1) == (len(self.target_symbols) == 0),
            "target_weight",
            "it is the weight of target_symbols: give both, or neither",
        )
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
