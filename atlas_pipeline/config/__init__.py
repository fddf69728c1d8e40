"""What is learned: the frozen configuration of an experiment, its hash, and the presets.

``Config`` is flat, as its users type it, and made of sections, so that each stage can be keyed by exactly the
settings that change it. How a run is executed (device, precision, physical batch) is ``Hardware``; where things
are (paths, credentials) is in neither: that is the environment's.
"""

from __future__ import annotations

from atlas_pipeline.config.experiment import LEARNED, Config, digest_of
from atlas_pipeline.config.files import (
    CONFIGS,
    experiment_settings,
    experiments,
    hardware_preset,
    hardware_presets,
    load_config,
)
from atlas_pipeline.config.hardware import CompileMode, DataPath, Device, Hardware, Precision
from atlas_pipeline.config.sections import (
    CHOICES,
    DENSITY_HEADS,
    READ_BY,
    READ_BY_HEAD,
    AdaptationSettings,
    BackboneKind,
    Channels,
    DataSettings,
    ExecutionSettings,
    HeadKind,
    IterationWeights,
    ModelSettings,
    Norm,
    NormPlacement,
    PatchPadding,
    Positions,
    PPOSettings,
    SamplingKind,
    ScalerKind,
    ScheduleKind,
    Section,
    Selection,
    TradingSettings,
    TrainingSettings,
)

__all__ = [
    "CHOICES",
    "CONFIGS",
    "DENSITY_HEADS",
    "LEARNED",
    "READ_BY",
    "READ_BY_HEAD",
    "AdaptationSettings",
    "BackboneKind",
    "Channels",
    "CompileMode",
    "Config",
    "DataPath",
    "DataSettings",
    "Device",
    "ExecutionSettings",
    "Hardware",
    "HeadKind",
    "IterationWeights",
    "ModelSettings",
    "Norm",
    "NormPlacement",
    "PPOSettings",
    "PatchPadding",
    "Positions",
    "Precision",
    "SamplingKind",
    "ScalerKind",
    "ScheduleKind",
    "Section",
    "Selection",
    "TradingSettings",
    "TrainingSettings",
    "digest_of",
    "experiment_settings",
    "experiments",
    "hardware_preset",
    "hardware_presets",
    "load_config",
]
