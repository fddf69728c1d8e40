"""The experiment of a run: what the launchpad states, and what follows from it."""

from __future__ import annotations

from typing import get_args

import dagster as dg
import pytest
from pydantic import ValidationError

from assets.experiment import Experiment
from assets.forecaster import forecaster
from assets.loading import JOINED_AS_OF
from atlas_pipeline.config import HeadKind, load_config
from atlas_pipeline.definitions import build_defs
from atlas_pipeline.features.cross_section import MARKET
from atlas_pipeline.features.model_inputs import MODEL_SETS, PANEL_FEATURES, set_columns
from atlas_pipeline.features.registry import REGISTRY
from atlas_pipeline.models.registry import BACKBONES


def test_the_default_experiment_reads_the_sets_of_many_memories_and_of_the_market() -> None:
    config = Experiment().load()
    assert config == load_config("daily_indices")
    assert config.feature_size == len(set_columns(config.features)) == 26


@pytest.mark.parametrize("name", sorted(MODEL_SETS))
def test_the_number_of_inputs_follows_the_set(name: str) -> None:
    config = Experiment(overrides={"features": name}).load()
    assert (config.features, config.feature_size) == (name, len(MODEL_SETS[name]))
    stated = Experiment(overrides={"features": name, "feature_size": len(MODEL_SETS[name])}).load()
    assert stated == config


def test_a_set_and_a_number_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(
        dg.Failure, match="feature_size=8: the set 'a20' has 20 columns; leave feature_size out"
    ) as error:
        Experiment(overrides={"features": "a20", "feature_size": 8}).load()
    assert not error.value.allow_retries


def test_an_unknown_set_names_the_known_ones() -> None:
    with pytest.raises(
        dg.Failure,
        match=r"features='butterflies': there is no set of features 'butterflies'; use one of atlas8, technical",
    ):
        Experiment(overrides={"features": "butterflies"}).load()


def test_the_panel_holds_every_column_of_every_set_once() -> None:
    assert set(PANEL_FEATURES) == {name for names in MODEL_SETS.values() for name in names}
    assert len(set(PANEL_FEATURES)) == len(PANEL_FEATURES)
    tables = [set(REGISTRY), set(MARKET), *(set(columns) for _, columns, _ in JOINED_AS_OF)]
    assert sum(len(own) for own in tables) == len(set.union(*tables)), "a column's name says which table it is from"
    assert set(PANEL_FEATURES) <= set.union(*tables)


def test_sets_are_joined_each_column_once() -> None:
    config = Experiment(overrides={"features": "relative+options+relative"}).load()
    assert set_columns(config.features) == set_columns("relative") + set_columns("options")
    assert config.feature_size == len(set_columns(config.features))


def test_the_launchpads_fields_are_merged_over_the_preset() -> None:
    chosen = {"backbone": "residual_mlp", "head": "quantiles", "horizon": [1, 5], "features": "a20"}
    config = Experiment(**chosen, overrides={"max_epochs": 2}).load()
    assert (config.backbone, config.head, config.horizon) == ("residual_mlp", "quantiles", (1, 5))
    assert (config.features, config.feature_size, config.max_epochs) == ("a20", 20, 2)
    # One horizon is the number itself: the same model as the preset's has the same name.
    assert Experiment(horizon=[1]).load() == Experiment().load()


@pytest.mark.parametrize(
    ("fields", "culprit"),
    [
        ({"overrides": {"head": "cauchy"}}, r"Config\.head='cauchy': use one of student_t"),
        ({"horizon": [5, 1]}, r"Config\.horizon=\(5, 1\)"),
        ({"horizon": []}, r"Config\.horizon=\(\)"),
        ({"overrides": {"head": ""}}, r"Config\.head='': use one of student_t"),
        ({"head": "gaussian", "overrides": {"head": "student_t"}}, "head stands in the launchpad's field and in over"),
        ({"experiment": "weekly_butterflies"}, "there are: .*daily_indices"),
    ],
)
def test_a_choice_that_cannot_be_is_named(fields: dict[str, object], culprit: str) -> None:
    with pytest.raises(dg.Failure, match=culprit) as error:
        Experiment(**fields).load()
    assert not error.value.allow_retries


@pytest.mark.parametrize(
    ("name", "value", "choices"), [("backbone", "lstm", list(BACKBONES)), ("head", "", list(get_args(HeadKind)))]
)
def test_a_launchpad_s_choice_is_one_of_a_list(name: str, value: str, choices: list[str]) -> None:
    kind = dict(Experiment.to_config_schema().config_type.fields)[name].config_type.inner_type
    assert isinstance(kind, dg.Enum) and [each.config_value for each in kind.enum_values] == choices
    with pytest.raises(ValidationError, match="Input should be '"):
        Experiment(**{name: value})

    job = build_defs().resolve_implicit_global_asset_job_def().get_subset(asset_selection={forecaster.key})
    with pytest.raises(dg.DagsterInvalidConfigError, match=f"got {value}"):
        dg.validate_run_config(job, {"ops": {"forecaster": {"config": {name: value}}}})


def test_the_launchpad_tells_the_choices() -> None:
    described = {name: field.description or "" for name, field in Experiment.model_fields.items()}
    for name, choice in (
        ("experiment", "daily_stocks"),
        ("backbone", "mamba"),
        ("head", "threshold_3pct"),
        ("features", "heterogeneous"),
    ):
        assert choice in described[name]
