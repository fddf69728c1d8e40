"""The configuration: the documents' defaults, hashes by section, refusals that name the field."""

import dataclasses
from typing import get_args

import pytest

from atlas_pipeline.config import (
    CHOICES,
    CONFIGS,
    READ_BY,
    AdaptationSettings,
    BackboneKind,
    Config,
    DataSettings,
    ModelSettings,
    PPOSettings,
    TrainingSettings,
    experiment_settings,
    experiments,
    hardware_preset,
    hardware_presets,
    load_config,
)

DOCUMENTED = {
    "seq_length": 512, "patch_length": 16, "stride": 16, "feature_size": 8,
    "d_model": 256, "n_heads": 8, "n_layers": 6, "ff_dim": 1024, "dropout": 0.1,
    "lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.1,
    "gamma": 0.99, "gae_lambda": 0.95, "ppo_epsilon": 0.2, "value_loss_coef": 0.5, "entropy_coef": 0.01,
    "batch_size": 64, "accumulation_steps": 8, "learning_rate": 1e-4, "lora_learning_rate": 5e-5,
    "per_buffer_size": 100_000, "per_alpha": 0.6, "per_beta": 0.4, "online_update_freq": 500,
    "use_flash_attention": True, "use_amp": True, "gradient_checkpointing": True,
}  # fmt: skip


def test_defaults_are_the_documented_ones() -> None:
    config = Config()
    assert {name: getattr(config, name) for name in DOCUMENTED} == DOCUMENTED


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seq_length = 256  # type: ignore[misc]


def test_a_section_s_digest_moves_with_its_own_settings_only() -> None:
    before, after = Config(), Config(ppo_epsilon=0.1)
    assert before.digest(ModelSettings, TrainingSettings) == after.digest(ModelSettings, TrainingSettings)
    assert before.digest(AdaptationSettings) == after.digest(AdaptationSettings)
    assert before.digest(PPOSettings) != after.digest(PPOSettings)
    assert before.digest() != after.digest()


def test_what_is_read_and_how_it_is_scaled_is_part_of_the_data() -> None:
    digests = {config.digest(DataSettings) for config in (Config(), Config(features="a20"), Config(scaler="min_max"))}
    assert len(digests) == 3


def test_execution_is_not_part_of_what_is_learned() -> None:
    assert Config(use_amp=False, gradient_checkpointing=False).digest() == Config().digest()


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"scaler": "quantile"}, "scaler='quantile': use one of robust, min_max, instance"),
        (
            {"scaler": "instance", "seq_length": 1, "patch_length": 1, "stride": 1},
            "scaler='instance': .* longer window",
        ),
        ({"horizon": 0}, "horizon=0"),
        ({"stride": 0}, "stride=0"),
        ({"seq_length": 500}, "seq_length=500"),
        ({"d_model": 250}, "d_model=250"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"gamma": 1.0}, "gamma=1.0"),
        ({"commission": -0.1}, "commission=-0.1"),
        ({"max_position": 0}, "min_position"),
        ({"backbone": "lstm"}, "backbone='lstm': use one of patchtst, mamba, residual_mlp, recursive"),
        ({"head": "cauchy"}, "head='cauchy': use one of student_t, skewed_t, gaussian, quantiles"),
        ({"norm": "group"}, "norm='group': use one of layer, rms, batch"),
        ({"norm_placement": "middle"}, "norm_placement='middle': use one of pre, post"),
        ({"positions": "sine"}, "positions='sine': use one of learned, rotary"),
        ({"channels": "mixed"}, "channels='mixed': use one of mixing, independent"),
        ({"patch_padding": "start"}, "patch_padding='start': use one of none, end"),
        ({"seq_length": 0, "backbone": "residual_mlp"}, "seq_length=0: use 1 or more"),
        ({"seq_length": 8, "patch_padding": "end"}, "seq_length=8"),
        ({"positions": "rotary", "d_model": 24}, "positions='rotary': .* a head is 3 wide"),
        ({"norm": "batch", "backbone": "recursive"}, "norm='batch': .* use layer or rms"),
        ({"stochastic_depth": 1.0}, "stochastic_depth=1.0"),
        ({"state_size": 0, "backbone": "mamba"}, "state_size=0"),
        ({"latent_steps": 0, "backbone": "recursive"}, "latent_steps=0"),
        ({"supervision_steps": 0, "backbone": "recursive"}, "supervision_steps=0"),
        ({"channels": "independent", "backbone": "mamba"}, "channels='independent': .*'mamba' does not .* patchtst"),
        ({"positions": "rotary", "backbone": "residual_mlp"}, "leave it at 'learned', or use patchtst or recursive"),
        ({"patch_padding": "end", "backbone": "residual_mlp"}, "patch_padding='end'"),
        ({"norm_placement": "post", "backbone": "mamba"}, "norm_placement='post'"),
        ({"state_size": 8}, "state_size=8"),
        ({"input_units": 8}, "input_units=8: backbone='patchtst' does not read it"),
        ({"input_units": -1, "backbone": "residual_mlp"}, "input_units=-1: use 0 or more"),
        ({"input_dropout": 0.2, "backbone": "residual_mlp"}, "input_dropout=0.2: .* there are none"),
        ({"input_units": 8, "input_dropout": 1.0, "backbone": "residual_mlp"}, "input_dropout=1.0"),
        ({"latent_steps": 2}, "latent_steps=2"),
        ({"supervision_steps": 2}, "supervision_steps=2"),
        ({"schedule": "linear"}, "schedule='linear': use one of cosine, one_cycle, constant"),
        ({"sampling": "weighted"}, "sampling='weighted': use one of shuffled, stratified"),
        ({"cycles": 0}, "cycles=0"),
        ({"cycles": 2, "schedule": "one_cycle"}, "cycles=2: .* or use cosine"),
        ({"warmup_fraction": 1.0}, "warmup_fraction=1.0"),
        ({"eval_interval": 0}, "eval_interval=0"),
        ({"mixup_alpha": -1.0}, "mixup_alpha=-1.0"),
        ({"cutmix_alpha": -1.0}, "cutmix_alpha=-1.0"),
        ({"members": 0}, "members=0"),
        ({"members": 2, "backbone": "recursive"}, "members=2: backbone='recursive' does not read it: leave it at 1"),
        ({"recency_half_life": 0.0}, "recency_half_life=0.0: use a number of years"),
        ({"target_symbols": ("A", "A"), "target_weight": 2.0}, "target_symbols=.* each once"),
        ({"target_symbols": "SPY", "target_weight": 2.0}, "target_symbols='SPY': give a list"),
        ({"target_symbols": ("A",), "target_weight": 0.0}, "target_weight=0.0: use a number above 0"),
        ({"target_symbols": ("A",)}, "target_weight=1.0: .* give both, or neither"),
        ({"target_weight": 2.0}, "target_weight=2.0: .* give both, or neither"),
        ({"max_skipped_steps": -1}, "max_skipped_steps=-1"),
    ],
)
def test_what_cannot_work_is_refused_by_name(settings: dict[str, float], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        Config(**settings)  # type: ignore[arg-type]


def test_with_end_padding_any_window_has_its_patches() -> None:
    assert Config(seq_length=500, patch_padding="end").seq_length == 500


def test_only_who_makes_patches_and_heads_needs_them_to_divide() -> None:
    assert Config(backbone="residual_mlp", seq_length=500, d_model=250).d_model == 250
    assert Config(backbone="mamba", d_model=250).d_model == 250
    with pytest.raises(ValueError, match="seq_length=500"):
        Config(backbone="mamba", seq_length=500)


def test_every_choice_of_a_kind_is_checked() -> None:
    kinds = {f.name for f in dataclasses.fields(ModelSettings) if f.type not in ("int", "float")}
    assert kinds <= set(CHOICES)


def test_every_experiment_loads() -> None:
    names = [path.stem for path in (CONFIGS / "experiments").glob("*.yaml")]
    assert {"daily_indices", "hft", "swing", "research"} <= set(names)
    for name in names:
        assert isinstance(load_config(name), Config)


def test_unknown_experiment_lists_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match="daily_indices"):
        load_config("weekly_butterflies")


def test_an_experiment_s_settings_are_those_that_are_stated() -> None:
    stated = experiment_settings("daily_indices", max_epochs=3)
    assert stated["max_epochs"] == 3 and "weight_decay" not in stated
    assert Config(**stated) == load_config("daily_indices", max_epochs=3)


@pytest.mark.parametrize("backbone", get_args(BackboneKind))
@pytest.mark.parametrize("name", experiments())
def test_another_backbone_leaves_out_what_it_does_not_read(name: str, backbone: str) -> None:
    own = load_config(name).backbone
    stated = experiment_settings(name, backbone=backbone)
    assert stated["backbone"] == backbone and Config(**stated).backbone == backbone
    left_out = experiment_settings(name).keys() - stated.keys() - {"backbone"}
    assert (not left_out) if own == backbone else all(backbone not in READ_BY[each] for each in left_out)
    if own != backbone:
        # What is asked for is not left out.
        with pytest.raises(ValueError, match="does not read it"):
            load_config(name, backbone=backbone, **{"state_size" if backbone != "mamba" else "latent_steps": 3})


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="learning_rat"):
        load_config("daily_indices", learning_rat=1.0)


def test_hardware_presets() -> None:
    assert {"cpu", "rtx4050", "rtx4060ti", "rtx4090", "a100", "h200"} <= set(hardware_presets())
    for name in hardware_presets():
        hardware_preset(name)


def test_the_values_of_a_section_are_what_its_digest_is_of() -> None:
    values = Config(ppo_epsilon=0.1).values(PPOSettings)
    assert values["ppo_epsilon"] == 0.1 and "learning_rate" not in values
    assert set(values) | set(Config().values(ModelSettings)) == set(Config().values(PPOSettings, ModelSettings))
