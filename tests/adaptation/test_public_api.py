import subprocess
import sys

import pytest

import atlas_pipeline


def test_importing_the_package_costs_neither_torch_nor_numba():
    code = "import sys, atlas_pipeline; atlas_pipeline.Config(); dir(atlas_pipeline); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(shown.stdout.split())
    assert "atlas_pipeline.config" in modules
    assert not modules & {"torch", "numba", "numpy", "pandas", "dagster"}


@pytest.mark.parametrize("name", atlas_pipeline.__all__)
def test_every_public_name_is_there(name):
    assert getattr(atlas_pipeline, name).__name__ == name
    assert name in dir(atlas_pipeline)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"'Agent'.*SOTATradingAgent"):
        getattr(atlas_pipeline, "Agent".strip())


def test_tables_are_declared_without_torch_and_numba():
    code = "import sys, atlas_pipeline.adaptation.ledger; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(shown.stdout.split()) & {"torch", "numba"}
