"""The page of features is the registry's."""

import re
import subprocess
import sys

import pytest

from atlas_pipeline.features.coverage import REASONS
from atlas_pipeline.features.cross_section import MARKET
from atlas_pipeline.features.documentation import PAGE, feature_page, write_feature_page
from atlas_pipeline.features.microstructure import MICROSTRUCTURE
from atlas_pipeline.features.options import OPTION_CONTRACT, OPTION_UNDERLYING
from atlas_pipeline.features.registry import REGISTRY, SETS

DECLARED = [*REGISTRY.values(), *MARKET.values(), *MICROSTRUCTURE, *OPTION_CONTRACT, *OPTION_UNDERLYING]


@pytest.fixture(scope="module")
def page() -> str:
    return feature_page()


def test_the_committed_page_is_that_of_the_registry(page):
    assert PAGE.read_text(encoding="utf-8") == page, f"{PAGE.name} is not what the registry says: run make docs"


def test_every_feature_is_there_once_with_all_it_declares(page):
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in page.splitlines() if re.match(r"\| `\w+` \| ", line)]
    of_features = [[cell.strip().replace("\\|", "|") for cell in row] for row in rows if len(row) == 8]
    assert sorted(row[0].strip("`") for row in of_features) == sorted(feature.name for feature in DECLARED)
    for feature in DECLARED:
        (row,) = (row for row in of_features if row[0] == f"`{feature.name}`" and row[1] == feature.formula)
        assert row[2] == ", ".join(f"`{name}`" for name in feature.inputs)
        assert all(f"{name} = {value:g}" in row[3] for name, value in feature.parameters.items())
        assert row[4:6] == [str(feature.warmup), feature.unit]
        assert row[7] == feature.source


def test_every_table_has_cells_as_many_as_its_header(page):
    for table in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table[:200]


def test_sets_and_reasons_are_named(page):
    for name, columns in SETS.items():
        assert f"| `{name}` | {len(columns)} |" in page
    text = " ".join(page.split())
    for reason in REASONS:
        assert f"*{reason}*" in text


def test_the_command_writes_the_page_whole(tmp_path, page):
    path = tmp_path / "docs" / "features.md"
    write_feature_page(path)
    assert path.read_text(encoding="utf-8") == page
    assert list(path.parent.iterdir()) == [path]


def test_names_can_be_looked_up_without_numba_or_torch():
    code = (
        "import sys; from atlas_pipeline.features import documentation, schema, coverage, drift, plots, causality; "
        "found = {'numba', 'torch', 'pandera', 'arch', 'matplotlib'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
