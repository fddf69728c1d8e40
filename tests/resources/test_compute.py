"""The compute resource: a preset, and what differs from it."""

import pytest

from atlas_pipeline.config import hardware_preset
from resources.compute import Compute


def test_the_preset_as_it_is() -> None:
    assert Compute(preset="h200").hardware() == hardware_preset("h200")


def test_own_settings_come_on_top() -> None:
    hardware = Compute(preset="rtx4050", precision="float32", batch_size="auto", threads=1).hardware()
    assert (hardware.precision, hardware.batch_size, hardware.threads) == ("float32", "auto", 1)


def test_inference_rounds_nothing_whatever_the_preset() -> None:
    compute = Compute(preset="h200")
    assert (compute.hardware().precision, compute.hardware().tf32) == ("bfloat16", True)
    assert (compute.inference().precision, compute.inference().tf32) == ("float32", False)


def test_the_engine_s_settings_come_through() -> None:
    own = {"compile": "max-autotune", "data": "host", "workers": 2, "log_interval": 10, "save_interval": 50}
    hardware = Compute(**own).hardware()
    assert {name: getattr(hardware, name) for name in own} == own
    with pytest.raises(ValueError, match="compile='fast': use one of off"):
        Compute(compile="fast").hardware()


@pytest.mark.parametrize(("physical", "steps"), [("64", 8), ("100", 6), ("512", 1), ("4096", 1), ("auto", 1)])
def test_accumulation_keeps_the_effective_batch(physical: str, steps: int) -> None:
    assert Compute(batch_size=physical).accumulation_steps(512) == steps


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match="rtx4090"):
        Compute(preset="abacus").hardware()


@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_an_impossible_batch_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=value):
        Compute(batch_size=value).hardware()
