"""Which experiment a run learns: chosen in the launchpad, the same for every asset of a fold."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, get_args

import dagster as dg
from pydantic import Field

from atlas_pipeline.config import DENSITY_HEADS, BackboneKind, Config, HeadKind, experiment_settings, experiments
from atlas_pipeline.features.model_inputs import MODEL_SETS, set_columns
from atlas_pipeline.features.registry import VOLATILITY

DEFAULT_EXPERIMENT = "daily_indices"
# As enumerations the launchpad completes and checks them while they are typed; mypy wants members written out.
Backbone = StrEnum("Backbone", [(kind, kind) for kind in get_args(BackboneKind)])  # type: ignore[misc]
Head = StrEnum("Head", [(kind, kind) for kind in get_args(HeadKind)])  # type: ignore[misc]


class Experiment(dg.Config):
    """The experiment's name in configs/experiments and what is to differ from it."""

    experiment: str = Field(
        default=DEFAULT_EXPERIMENT,
        description=f"Preset, a file in configs/experiments: {', '.join(experiments())}; or the path of your own.",
    )
    backbone: Backbone | None = Field(
        default=None, description=f"Network: {', '.join(get_args(BackboneKind))}. Unset: the preset's."
    )
    head: Head | None = Field(
        default=None,
        description=f"What is said of the return: a density ({', '.join(DENSITY_HEADS)}), or "
        f"{', '.join(kind for kind in get_args(HeadKind) if kind not in DENSITY_HEADS)}. Unset: the preset's.",
    )
    horizon: list[int] | None = Field(
        default=None, description="Bars ahead, one or several, increasing, such as [1, 5, 20]. Unset: the preset's."
    )
    features: str | None = Field(
        default=None,
        description=f"Sets that are read, joined by +: {', '.join(MODEL_SETS)}. Unset: the preset's.",
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Other settings that differ from the preset, such as {max_epochs: 1}."
    )

    def load(self) -> Config:
        """Return the frozen configuration; ``feature_size`` follows the set of features.

        Raises
        ------
        dagster.Failure
            Where the experiment or a setting is unknown or cannot work; retrying cannot mend it.
        """
        chosen: dict[str, Any] = {
            name: str(getattr(self, name))
            for name in ("backbone", "head", "features")
            if getattr(self, name) is not None
        }
        if self.horizon is not None:
            chosen["horizon"] = self.horizon[0] if len(self.horizon) == 1 else tuple(self.horizon)
        try:
            twice = sorted(chosen.keys() & self.overrides.keys())
            if twice:
                raise ValueError(f"{', '.join(twice)} stands in the launchpad's field and in overrides: say it once")
            differing = chosen | self.overrides
            stated = experiment_settings(self.experiment, **differing)
            if "features" in differing and "feature_size" not in differing:
                # The file's is of the file's set.
                stated.pop("feature_size", None)
            columns = set_columns(stated.get("features", Config.features))
            config = Config(**{"feature_size": len(columns), **stated})
            if config.feature_size != len(columns):
                raise ValueError(
                    f"feature_size={config.feature_size}: the set {config.features!r} has {len(columns)} columns; "
                    "leave feature_size out, it follows the set"
                )
            if config.volatility_decay != VOLATILITY.parameters["decay"]:
                raise ValueError(
                    f"volatility_decay={config.volatility_decay}: the features are computed with "
                    f"{VOLATILITY.parameters['decay']}; another decay needs another feature table"
                )
            return config
        except (FileNotFoundError, ValueError) as error:
            raise dg.Failure(str(error), allow_retries=False) from error
