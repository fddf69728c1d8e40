"""Experiments and hardware presets by name, from the YAML files in ``configs``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from atlas_pipeline.config.experiment import Config
from atlas_pipeline.config.hardware import Hardware
from atlas_pipeline.config.sections import READ_BY, READ_BY_HEAD

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise FileNotFoundError(f"no configuration {path.name!r} in {path.parent}; there are: {known}")
    content = yaml.safe_load(path.read_text()) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of settings, found {type(content).__name__}")
    return content


def experiment_settings(name: str | Path, **overrides: Any) -> dict[str, Any]:
    """What the experiment or use preset of this name in ``configs/`` (or at this path) states, and the overrides.

    What neither states is not in it: it has its default in ``Config``. Where the overrides name a backbone or head,
    what the file states for its own and theirs does not read is left out.

    Raises
    ------
    FileNotFoundError
        Where there is none of this name; the message lists those there are.
    ValueError
        Where a setting is unknown.
    """
    path = Path(name) if str(name).endswith(".yaml") else CONFIGS / "experiments" / f"{name}.yaml"
    stated = _read(path)
    for kind, table in (("backbone", READ_BY), ("head", READ_BY_HEAD)):
        if kind in overrides:
            chosen = overrides[kind]
            stated = {name: value for name, value in stated.items() if chosen in table.get(name, (chosen,))}
    settings = {**stated, **overrides}
    unknown = sorted(settings.keys() - {f.name for f in dataclasses.fields(Config)})
    if unknown:
        raise ValueError(f"{path}: unknown settings {unknown}; see atlas_pipeline.config.Config for the known ones")
    return settings


def experiments() -> list[str]:
    """Names of all experiments and use presets, sorted."""
    return sorted(path.stem for path in (CONFIGS / "experiments").glob("*.yaml"))


def load_config(name: str | Path, **overrides: Any) -> Config:
    """The experiment or use preset of this name, with overrides on top; errors as of ``experiment_settings``.

    Raises
    ------
    ValueError
        Where a setting cannot work.
    """
    return Config(**experiment_settings(name, **overrides))


def hardware_preset(name: str) -> Hardware:
    """The hardware preset of this name in ``configs/hardware/``: cpu, rtx4050, rtx4060ti, rtx4090, a100, h200."""
    return Hardware(**_read(CONFIGS / "hardware" / f"{name}.yaml"))


def hardware_presets() -> list[str]:
    """Names of all hardware presets, sorted."""
    return sorted(path.stem for path in (CONFIGS / "hardware").glob("*.yaml"))
