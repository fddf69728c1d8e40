"""Which experiment a run learns: chosen in the launchpad, the same for every asset of a fold."""

from __future__ import annotations

from typing import Any

import dagster as dg
from pydantic import Field

from atlas_pipeline.config import Config, experiment_settings
from atlas_pipeline.features.model_inputs import set_columns
from atlas_pipeline.features.registry import VOLATILITY

DEFAULT_EXPERIMENT = "daily_indices"


class Experiment(dg.Config):
    """The experiment's name in configs/experiments and what is to differ from it."""

    experiment: str = Field(default=DEFAULT_EXPERIMENT, description="Name of a file in configs/experiments.")
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Settings that differ from the file, such as {max_epochs: 1}."
    )

    def load(self) -> Config:
        """Return the frozen configuration; ``feature_size`` follows the set of features.

        Raises
        ------
        dagster.Failure
            Where the experiment or a setting is unknown or cannot work; retrying cannot mend it.
        """
        try:
            stated = experiment_settings(self.experiment, **self.overrides)
            if "features" in self.overrides and "feature_size" not in self.overrides:
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
