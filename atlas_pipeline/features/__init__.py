"""Causal features of bars, quotes and chains: kernels, registry, schemas, and the audit that none sees ahead.

Nothing here is fitted or scaled (that is the work of ``windows``). The public names are loaded when first used, so that
importing the room imports neither numba nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas_pipeline.features.causality import audit_causality
    from atlas_pipeline.features.compute import compute_atlas8, compute_features
    from atlas_pipeline.features.registry import REGISTRY, SETS
    from atlas_pipeline.features.stream import FeatureStream

__all__ = ["REGISTRY", "SETS", "FeatureStream", "audit_causality", "compute_atlas8", "compute_features"]

_MODULES = {
    "REGISTRY": "registry",
    "SETS": "registry",
    "FeatureStream": "stream",
    "audit_causality": "causality",
    "compute_atlas8": "compute",
    "compute_features": "compute",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its public names are {__all__}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
