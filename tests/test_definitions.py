"""The code location: what it holds, in one snapshot; what it must not import; where it loads from."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import dagster as dg
import yaml

from atlas_pipeline.definitions import build_defs

PROJECT = Path(__file__).resolve().parent.parent
SNAPSHOT = Path(__file__).with_name("definitions_snapshot.json")
HEAVY = ("torch", "mlflow", "numba", "peft", "arch", "pandera", "exchange_calendars", "yfinance", "matplotlib")


def described(definitions: dg.Definitions) -> dict[str, object]:
    graph = definitions.resolve_asset_graph()
    assets = {
        key.to_user_string(): {
            "group": graph.get(key).group_name,
            "partitions": type(graph.get(key).partitions_def).__name__ + _range(graph.get(key).partitions_def)
            if graph.get(key).partitions_def
            else None,
            "depends_on": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            "kinds": sorted(graph.get(key).kinds),
            "checks": {
                check.name: ("blocking" if graph.get(check).blocking else "reporting")
                for check in sorted(graph.get(key).check_keys, key=lambda check: check.name)
            },
        }
        for key in sorted(graph.get_all_asset_keys())
    }
    repository = definitions.get_repository_def()
    return {
        "assets": assets,
        "jobs": sorted(name for name in repository.job_names if not name.startswith("__")),
        "schedules": {
            schedule.name: [schedule.cron_schedule, schedule.execution_timezone]
            for schedule in repository.schedule_defs
        },
        "sensors": {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs},
        "resources": sorted(repository.get_top_level_resources()),
    }


def _range(partitions: dg.PartitionsDefinition) -> str:
    if isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        return f" {partitions.get_first_partition_key()}..{partitions.get_last_partition_key()}"
    return f" {partitions.name}" if isinstance(partitions, dg.DynamicPartitionsDefinition) else ""


def test_the_code_location_is_the_one_in_the_snapshot() -> None:
    """Written anew by ``python tests/test_definitions.py``: look at the difference before committing it."""
    assert described(build_defs()) == json.loads(SNAPSHOT.read_text())


def test_every_asset_is_described_owned_and_grouped() -> None:
    graph = build_defs().resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, f"{key} has no description"
        assert node.owners, f"{key} has no owner"
        assert node.group_name != "default", f"{key} has no group"
        assert node.code_version, f"{key} has no code version"
        assert node.freshness_policy or node.group_name in {"forecaster", "policy"} or node.is_partitioned


def test_loading_is_light() -> None:
    """A code location is loaded by every step's process: its weight is paid hundreds of times a day."""
    script = (
        "import sys, json, time; start = time.perf_counter();"
        "from atlas_pipeline.definitions import defs;"
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(output.splitlines()[-1]) == []


def test_both_ways_to_load_name_the_same_location() -> None:
    """Schedules and sensors keep their state under the location's name."""
    workspace = yaml.safe_load((PROJECT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    assert workspace["location_name"] == project["code_location_name"]
    assert workspace["module_name"] == project["code_location_target_module"]


def test_resources_can_be_replaced() -> None:
    replaced = build_defs({"compute": dg.ResourceDefinition.hardcoded_resource("other")})
    assert (
        replaced.get_repository_def().get_top_level_resources()["compute"]
        is not (build_defs().get_repository_def().get_top_level_resources()["compute"])
    )


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(described(build_defs()), indent=2, sort_keys=True) + "\n")
