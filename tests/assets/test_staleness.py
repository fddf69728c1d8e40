"""What Dagster calls stale after a range run: nothing, until rows of an upstream month really change."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from atlas_pipeline.definitions import build_defs

MONTHS = ("2015-01", "2015-03")


@pytest.fixture
def definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path))
    return build_defs()


def materialize(
    definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, asset: str, first: str, last: str
) -> None:
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(asset)],
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
    )
    assert result.success


def statuses(definitions: dg.Definitions, instance: dg.DagsterInstance) -> dict[tuple[str, str], str]:
    resolver = CachingStaleStatusResolver(instance, definitions.resolve_asset_graph(), LoadingContextForTest(instance))
    judged = [("features", "2015-02"), ("features", "2015-03"), ("panel", "2015")]
    return {each: resolver.get_status(dg.AssetKey(each[0]), each[1]).value for each in judged}


def test_only_what_changed_makes_stale(definitions: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        materialize(definitions, instance, "ingest", "bars", *MONTHS)
        materialize(definitions, instance, "ingest", "features", *MONTHS)
        materialize(definitions, instance, "build_panels", "panel", "2015", "2015")
        assert set(statuses(definitions, instance).values()) == {"FRESH"}

        materialize(definitions, instance, "ingest", "bars", "2015-03", "2015-03")
        assert set(statuses(definitions, instance).values()) == {"FRESH"}, "the same rows again change nothing"

        restated = dg.AssetMaterialization("bars", partition="2015-03", tags={"dagster/data_version": "other rows"})
        instance.report_runless_asset_event(restated)
        after = statuses(definitions, instance)
        assert after["features", "2015-02"] == "FRESH"
        assert after["features", "2015-03"] == "STALE"
