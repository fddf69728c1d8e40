"""Dagster resources: the warehouse, the market, the compute device, experiment tracking and artifacts."""
