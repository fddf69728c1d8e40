"""What models can read: the columns of each set, and all of them, which a panel holds."""

from __future__ import annotations

from atlas_pipeline.features.registry import SETS

PANEL_FEATURES: tuple[str, ...] = tuple(dict.fromkeys(name for names in SETS.values() for name in names))
"""Columns of all sets, each once, so that a set can be chosen without building the panels again."""


def set_columns(name: str) -> tuple[str, ...]:
    """Columns of the set of this name, in the order in which a model reads them.

    Raises
    ------
    ValueError
        Where there is none of this name; the message lists those there are.
    """
    if name not in SETS:
        raise ValueError(f"Config.features={name!r}: there is no such set of features, use one of {', '.join(SETS)}")
    return SETS[name]
