"""The code location: assembles what is made elsewhere, and nothing else.

Assets and checks come from ``assets``, jobs, schedules and sensors from ``automation``, resources from ``resources``.
Nothing is computed here and no model library is imported: the location loads in a second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets import (
    adapter,
    bar_checks,
    champion,
    features,
    forecaster,
    forecasts,
    market,
    paper,
    policy,
    predictions,
    snapshot_features,
    snapshots,
)
from atlas_pipeline.automation.jobs import JOBS
from atlas_pipeline.automation.schedules import SCHEDULES
from atlas_pipeline.automation.sensors import SENSORS
from resources.artifacts import Artifacts
from resources.compute import Compute
from resources.market import Market
from resources.tracking import Tracking
from resources.warehouse import Warehouse

DEFAULT_HOME = Path(__file__).resolve().parent.parent / ".atlas"
STAGES = [
    market,
    bar_checks,
    snapshots,
    features,
    snapshot_features,
    forecaster,
    forecasts,
    predictions,
    policy,
    paper,
    adapter,
    champion,
]


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Return the code location's definitions.

    Parameters
    ----------
    resource_overrides
        Resources by key that replace the default ones, for tests and other deployments.
    """
    home = dg.EnvVar("ATLAS_HOME") if "ATLAS_HOME" in os.environ else str(DEFAULT_HOME)
    warehouse = Warehouse(home=home)
    resources: dict[str, Any] = {
        "warehouse": warehouse,
        "market": Market(warehouse=warehouse),
        "compute": Compute(),
        "tracking": Tracking(home=home),
        "artifacts": Artifacts(home=home),
    }
    return dg.Definitions(
        assets=dg.load_assets_from_modules(STAGES),
        asset_checks=dg.load_asset_checks_from_modules(STAGES),
        jobs=JOBS,
        schedules=SCHEDULES,
        sensors=SENSORS,
        resources={**resources, **(resource_overrides or {})},
    )


defs = build_defs()
