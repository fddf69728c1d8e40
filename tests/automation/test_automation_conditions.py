"""Declarative automation: the year's panel follows its features, also in a year that is not over."""

import dagster as dg

from assets.features import panel
from atlas_pipeline.definitions import build_defs

FEATURES, PANEL = dg.AssetKey("features"), dg.AssetKey("panel")


def report(instance: dg.DagsterInstance, month: str) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(FEATURES, partition=month))


def check(instance: dg.DagsterInstance, name: str, passed: bool) -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=FEATURES, check_name=name, passed=passed, blocking=True)
    )


def requested(
    definitions: dg.Definitions, instance: dg.DagsterInstance, cursor: object = None
) -> tuple[set[str], object]:
    result = dg.evaluate_automation_conditions(
        definitions, instance, asset_selection=dg.AssetSelection.assets(panel), cursor=cursor
    )
    return set(result.get_requested_partitions(PANEL)), result.cursor


def test_the_panel_of_a_running_year_follows_its_months() -> None:
    definitions = build_defs()
    with dg.DagsterInstance.ephemeral() as instance:
        for name in ("features_schema", "features_causality"):
            check(instance, name, passed=True)
        _, cursor = requested(definitions, instance)
        report(instance, "2018-07")
        due, cursor = requested(definitions, instance, cursor)
        assert due == {"2018"}
        again, _ = requested(definitions, instance, cursor)
        assert again == set(), "one update asks for one run"


def test_a_failed_blocking_check_holds_the_panel_back() -> None:
    definitions = build_defs()
    with dg.DagsterInstance.ephemeral() as instance:
        check(instance, "features_schema", passed=True)
        check(instance, "features_causality", passed=False)
        _, cursor = requested(definitions, instance)
        report(instance, "2018-07")
        due, _ = requested(definitions, instance, cursor)
        assert due == set()


def test_nothing_that_trains_is_automated() -> None:
    graph = build_defs().resolve_asset_graph()
    automated = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).automation_condition}
    assert automated == {"panel", "resampled_bars"}
