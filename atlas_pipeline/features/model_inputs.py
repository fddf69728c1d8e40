"""What models can read: the columns of each set, and all of them, which a panel holds."""

from __future__ import annotations

from collections.abc import Iterable

from atlas_pipeline.features.cross_section import MARKET
from atlas_pipeline.features.microstructure import MICROSTRUCTURE_SET
from atlas_pipeline.features.options import OPTIONS_SET
from atlas_pipeline.features.registry import SETS

MODEL_SETS: dict[str, tuple[str, ...]] = {
    **SETS,
    "market": tuple(MARKET),
    "options": OPTIONS_SET,
    "microstructure": MICROSTRUCTURE_SET,
}
"""Columns of each set: of bars, of all bars of the instant, and of what is joined to a bar as of its instant."""

PANEL_FEATURES: tuple[str, ...] = tuple(dict.fromkeys(name for names in MODEL_SETS.values() for name in names))
"""Columns of all sets, each once, so that a set can be chosen without building the panels again."""


def table_columns(features: Iterable[str]) -> tuple[str, ...]:
    """Columns of the feature table that these are read from or made of, each once; what is joined is kept as it is."""
    return tuple(dict.fromkeys(MARKET[name].inputs[0] if name in MARKET else name for name in features))


def set_columns(features: str) -> tuple[str, ...]:
    """Columns of a set, or of several, in the order in which a model reads them, each once.

    Parameters
    ----------
    features
        As ``Config.features``: the name of a set, or names joined by "+", such as "relative+options".

    Raises
    ------
    ValueError
        Where there is no set of one of these names; the message lists those there are.
    """
    names = features.split("+")
    for name in names:
        if name not in MODEL_SETS:
            raise ValueError(
                f"Config.features={features!r}: there is no set of features {name!r}; use one of "
                f"{', '.join(MODEL_SETS)}, or several joined by +"
            )
    return tuple(dict.fromkeys(column for name in names for column in MODEL_SETS[name]))
