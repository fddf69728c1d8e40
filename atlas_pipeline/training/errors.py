"""Errors of checkpoints, apart from the code that reads them, so that catching one imports no torch."""

from __future__ import annotations


class CorruptCheckpointError(RuntimeError):
    """A file of weights or training state is damaged or is not what its record says."""
