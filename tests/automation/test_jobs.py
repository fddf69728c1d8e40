"""Maintenance of the lake: what a model was made from stays readable, what nothing names goes."""

from datetime import timedelta

import pytest

from atlas_pipeline.features.registry import FEATURES
from resources.reading import SnapshotNotFoundError
from resources.tracking import MODEL
from resources.warehouse import Warehouse


def test_maintenance_keeps_the_snapshots_that_models_name(traded_copy, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = traded_copy.warehouse
    month = warehouse.read(FEATURES, partitions=["2007-12"])
    (base,) = traded_copy.tracking.versions(MODEL)
    (forecaster,) = traded_copy.artifacts.kept("forecaster")
    named = {int(base.tags["snapshot"]), int(traded_copy.artifacts.provenance(forecaster)["snapshot"])}
    assert len(named) == 2, "the policy saw a later lake than the forecaster"
    warehouse.replace(FEATURES, {"2007-12": month.iloc[:-1]})
    nameless = warehouse.snapshot()
    warehouse.replace(FEATURES, {"2007-12": month})
    counts, latest = warehouse.row_counts(), warehouse.data_version(FEATURES)

    # A week has passed.
    compact = Warehouse.compact
    monkeypatch.setattr(Warehouse, "compact", lambda self, keep: compact(self, keep, older_than=timedelta(0)))
    assert traded_copy.run("maintain_lake").success

    assert (warehouse.row_counts(), warehouse.data_version(FEATURES)) == (counts, latest)
    for snapshot in named:
        assert len(warehouse.read(FEATURES, partitions=["2007-12"], snapshot=snapshot)) == len(month)
    with pytest.raises(SnapshotNotFoundError):
        warehouse.read(FEATURES, snapshot=nameless)
