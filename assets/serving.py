"""Between the registry and what trades: a version's tags name its files, by paths relative to the state's folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.loading import forecaster_folder, open_panels
from assets.metadata import permanent
from atlas_pipeline.config import Config, TradingSettings
from resources.artifacts import Artifacts
from resources.tracking import CHAMPION, MODEL, ModelVersion, Tracking

if TYPE_CHECKING:
    from atlas_pipeline.adaptation.serving import LivePolicy
    from atlas_pipeline.windows.folds import Fold


def champion_version(tracking: Tracking) -> ModelVersion:
    """Return the version that the champion's alias names: the one truth about what is live.

    Raises
    ------
    dagster.Failure
        Where nothing is live yet.
    """
    version = tracking.alias(MODEL, CHAMPION)
    if version is None:
        raise dg.Failure(
            f"model {MODEL!r} has no {CHAMPION}: materialize the policy of a fold, the first becomes it",
            allow_retries=False,
        )
    return version


def load_version(version: ModelVersion, artifacts: Artifacts) -> LivePolicy:
    """Load base, heads and adapter of a registered version.

    Raises
    ------
    dagster.Failure
        Where a file is missing or damaged, or the three do not belong together.
    """
    from atlas_pipeline.adaptation.lora import AdapterBaseMismatchError
    from atlas_pipeline.adaptation.serving import LivePolicy
    from atlas_pipeline.training.errors import CorruptCheckpointError

    forecaster, policy, adapter = (version.tags[name] for name in ("forecaster", "policy", "adapter"))
    with permanent(CorruptCheckpointError, AdapterBaseMismatchError):
        folder = artifacts.verify(artifacts.absolute(forecaster))
        files = [artifacts.absolute(file) for file in (policy, adapter) if file]
        for file in files:
            artifacts.verify(file.parent)
        return LivePolicy.load(folder, files[0], files[1] if adapter else None, str(version.version))


def with_rules_of(version: ModelVersion, config: Config) -> Config:
    """Return the configuration with the costs, bounds, fill and reward that the version's policy was trained by.

    They shape what the policy sees, so another launch's settings must not replace them.
    """
    return dataclasses.replace(config, **json.loads(version.tags["trading"]))


def register_base(
    tracking: Tracking,
    artifacts: Artifacts,
    config: Config,
    fold: Fold,
    file: Path,
    created_at: datetime,
    tags: Mapping[str, str],
) -> int:
    """Register forecaster and policy as a base with an empty adapter; the first ever is live at once."""
    from atlas_pipeline.adaptation.serving import LivePolicy

    folder = forecaster_folder(artifacts, config, str(fold.year), open_panels(artifacts, config, fold.fit_end))
    live = LivePolicy.load(folder, file, None, "")
    version = tracking.register(
        MODEL,
        file.parent,
        key=f"base/{fold.year}/{file.parent.name}",
        tags={
            **tags,
            "kind": "base",
            "trading": json.dumps({f.name: getattr(config, f.name) for f in dataclasses.fields(TradingSettings)}),
            "forecaster": artifacts.relative(folder),
            "policy": artifacts.relative(file),
            "adapter": "",
            "sha256": live.adapter.sha256,
            "env_step": "0",
            "created_at": created_at.isoformat(),
            "trades_from": fold.start.isoformat(),
        },
    )
    if tracking.alias(MODEL, CHAMPION) is None:
        # The tag first: a base that is live without it would be a candidate once it is no longer live.
        tracking.tag_version(MODEL, version, "verdict", "promote")
        tracking.set_alias(MODEL, CHAMPION, version)
    return version
