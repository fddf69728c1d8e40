"""Declarative automation: the year's panel follows its features, also in a year that is not over."""

import dagster as dg
import pytest

from assets.features import panel
from atlas_pipeline.definitions import build_defs

FEATURES, OPTIONS, PANEL = (dg.AssetKey(name) for name in ("features", "option_features", "panel"))


def report(instance: dg.DagsterInstance, month: str, asset: dg.AssetKey = FEATURES) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=month))


def check(instance: dg.DagsterInstance, name: str, passed: bool, asset: dg.AssetKey = FEATURES) -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=asset, check_name=name, passed=passed, blocking=True)
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


@pytest.mark.parametrize(("passed", "due"), [(None, {"2018"}), (True, {"2018"}), (False, set())])
def test_option_features_move_the_panel_where_there_are_any_unless_their_check_failed(passed, due) -> None:
    definitions = build_defs()
    with dg.DagsterInstance.ephemeral() as instance:
        for name in ("features_schema", "features_causality"):
            check(instance, name, passed=True)
        report(instance, "2018-07")
        _, cursor = requested(definitions, instance)
        report(instance, "2018-07", OPTIONS)
        if passed is not None:
            check(instance, "option_features_schema", passed=passed, asset=OPTIONS)
        assert requested(definitions, instance, cursor)[0] == due


def test_nothing_that_trains_is_automated() -> None:
    graph = build_defs().resolve_asset_graph()
    automated = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).automation_condition}
    assert automated == {"panel", "resampled_bars"}
