"""Errors of fits and checkpoints, apart from the code that raises them, so that catching one imports no torch."""

from __future__ import annotations


class CorruptCheckpointError(RuntimeError):
    """A file of weights or training state is damaged or is not what its record says."""


class NonFiniteLossError(RuntimeError):
    """Too many steps had a loss or gradient that is NaN or infinite; the weights are those before them."""
