"""Causal features of bars, quotes and chains: kernels, registry, schemas, and the audit that none sees ahead.

Nothing here is fitted or scaled (that is the work of ``windows``), and importing the room imports neither
numba nor torch.
"""
