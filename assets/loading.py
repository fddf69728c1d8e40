"""What a stage reads of the stages before it, found by what made it and never by which is newest.

A checkpoint's folder is named by configuration, data and code. A stage that asks for it computes the name again, so a
model trained on other rows, or with other settings, is not found instead of being taken silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.metadata import permanent
from assets.partitions import YEARS
from atlas_pipeline.config import (
    Config,
    DataSettings,
    ModelSettings,
    PPOSettings,
    TradingSettings,
    TrainingSettings,
    digest_of,
)
from atlas_pipeline.features.cross_section import MARKET, market_means
from atlas_pipeline.features.microstructure import GAP, MICROSTRUCTURE_FEATURES, MICROSTRUCTURE_SET
from atlas_pipeline.features.model_inputs import set_columns, table_columns
from atlas_pipeline.features.options import OPTIONS_SET, UNDERLYING_OPTION_FEATURES
from atlas_pipeline.features.registry import FEATURES
from atlas_pipeline.features.relative import VOLATILITY
from atlas_pipeline.market.adjustment import DIVIDEND, SPLIT
from atlas_pipeline.market.bars import BARS
from resources.artifacts import Artifacts

if TYPE_CHECKING:
    from atlas_pipeline.trading.market_path import MarketPath
    from atlas_pipeline.training.bundle import TrainedForecaster
    from atlas_pipeline.windows.folds import Fold
    from atlas_pipeline.windows.panel import Panel
    from resources.lake import Lake
    from resources.warehouse import Warehouse

CODE_VERSION = "5"
"""Of everything that is learned; raised when the code would learn something else from the same rows."""

JOINED_AS_OF = (
    # A chain of Friday's close still says something on the morning after a long weekend.
    (UNDERLYING_OPTION_FEATURES, OPTIONS_SET, timedelta(days=4)),
    (MICROSTRUCTURE_FEATURES, MICROSTRUCTURE_SET, GAP),
)
"""Tables whose rows are not of bars, the columns that models read of them, and the age at which a row is too old."""

PATHS_FILE = "paths.safetensors"
POLICY_FILE = "policy.safetensors"


def model_rows(
    lake: Lake, start: datetime, end: datetime, features: Sequence[str], snapshot: int | None = None
) -> Panel:
    """Read these features, prices, trailing volatility, splits and dividends of all bars in [start, end).

    What is not of bars is what was known when the bar was complete, and missing where nothing was. The market's means
    are over the series in the lake.
    """
    from atlas_pipeline.features.as_of import latest_as_of
    from atlas_pipeline.windows.panel import Panel

    joined = {name for _, of_table, _ in JOINED_AS_OF for name in of_table}
    own = [name for name in table_columns(features) if name not in joined]
    inputs = lake.read(
        FEATURES,
        start=start,
        end=end,
        snapshot=snapshot,
        columns=list(dict.fromkeys([*FEATURES.key, *own, VOLATILITY.name, SPLIT.name, DIVIDEND.name])),
    )
    columns = [*BARS.key, "open", "high", "low", "close", "volume"]
    prices = lake.read(BARS, start=start, end=end, snapshot=snapshot, columns=columns)
    rows = inputs.merge(prices, on=list(BARS.key), validate="one_to_one")
    market = [name for name in features if name in MARKET]
    if market:
        rows[market] = market_means(rows, market)
    for table, of_table, limit in JOINED_AS_OF:
        wanted = [name for name in features if name in of_table]
        if wanted:
            known = lake.read(table, start=start - limit, end=end, snapshot=snapshot, columns=[*table.key, *wanted])
            rows[wanted] = latest_as_of(rows, known, wanted, limit)
    return Panel.from_frame(rows, features, volatility=VOLATILITY.name)


def open_panels(artifacts: Artifacts, config: Config, before: datetime) -> Panel:
    """Open the columns that this configuration reads of every year's panel up to an instant.

    Rows at or after it are never returned, and columns of other sets neither: nothing of them is in a digest.

    Raises
    ------
    dagster.Failure
        Where a year's panel is missing, damaged or lacks a column, named with the remedy.
    """
    from atlas_pipeline.windows.panel import Panel, PanelError

    first = YEARS.get_first_partition_key()
    years = range(int(str(first)), before.year + (before > before.replace(month=1, day=1)))
    if not years:
        raise dg.Failure(
            f"the market begins in {first}, nothing of it is known before {before:%Y-%m-%d}: "
            "choose a later fold or fewer policy_years",
            allow_retries=False,
        )
    with permanent(PanelError):
        paths = [artifacts.panel_path(year) for year in years]
        return Panel.open(paths, before=before, features=set_columns(config.features))


def snapshot_of(warehouse: Warehouse, known: Panel, before: datetime) -> int:
    """Return the lake's snapshot that holds exactly the panels' rows and columns: from it all can be learned again.

    Raises
    ------
    dagster.Failure
        Where it does not, since bars were restated after the panels were written.
    """
    from atlas_pipeline.market.instants import EPOCH

    with warehouse.session() as lake:
        snapshot = lake.snapshot()
        rows = model_rows(lake, EPOCH, before, known.features, snapshot)
    if rows.sha256() != known.sha256():
        raise dg.Failure(
            f"the panels before {before:%Y-%m-%d} are not made of the features and bars as they are stored now "
            f"(snapshot {snapshot}): materialize the panel of the years that were restated",
            allow_retries=False,
        )
    return snapshot


def forecaster_folder(artifacts: Artifacts, config: Config, fold: str, known: Panel) -> Path:
    """Folder of the forecaster that this configuration and these rows make; the same for every run that asks."""
    digest = digest_of([config.digest(DataSettings, ModelSettings, TrainingSettings), known.sha256(), CODE_VERSION])
    return artifacts.directory("forecaster", fold, digest)


def load_forecaster(artifacts: Artifacts, config: Config, fold: Fold) -> TrainedForecaster:
    """Load the forecaster that this configuration and today's rows make.

    Raises
    ------
    dagster.Failure
        Where it was not trained yet, was trained on other rows or settings, or is damaged.
    """
    from atlas_pipeline.training.bundle import TrainedForecaster
    from atlas_pipeline.training.errors import CorruptCheckpointError

    folder = forecaster_folder(artifacts, config, str(fold.year), open_panels(artifacts, config, fold.fit_end))
    if not folder.exists():
        raise dg.Failure(
            f"no forecaster of fold {fold.year} was trained with these settings on these rows: "
            "materialize forecaster with the same experiment and overrides (bars may have been restated since)",
            allow_retries=False,
        )
    with permanent(CorruptCheckpointError):
        return TrainedForecaster.load(artifacts.verify(folder))


def paths_file(artifacts: Artifacts, config: Config, fold: str, base_hash: str, data: str) -> Path:
    """File of the market paths that this forecaster makes of these rows."""
    digest = digest_of([config.digest(DataSettings), base_hash, data, CODE_VERSION])
    return artifacts.directory("embeddings", fold, digest) / PATHS_FILE


def policy_file(artifacts: Artifacts, config: Config, fold: Fold, paths: list[MarketPath]) -> Path:
    """File of the policy that this configuration learns on the policy years of these paths."""
    from atlas_pipeline.trading.comparison import during
    from atlas_pipeline.trading.path_file import paths_digest

    data = paths_digest([during(path, fold.policy_start, fold.start) for path in paths])
    digest = digest_of(
        [config.digest(TradingSettings, PPOSettings), config.gradient_clip, config.seed, data, CODE_VERSION]
    )
    return artifacts.directory("policy", str(fold.year), digest) / POLICY_FILE


def load_paths(artifacts: Artifacts, config: Config, fold: Fold) -> tuple[list[MarketPath], str]:
    """Load the fold's market paths and the hash of their forecaster.

    Raises
    ------
    dagster.Failure
        Where they were not computed with these settings on these rows, or are damaged.
    """
    from atlas_pipeline.trading.path_file import read_paths
    from atlas_pipeline.training.errors import CorruptCheckpointError

    trained = load_forecaster(artifacts, config, fold)
    known = open_panels(artifacts, config, fold.end)
    file = paths_file(artifacts, config, str(fold.year), trained.base_hash, known.sha256())
    if not file.exists():
        raise dg.Failure(
            f"no embeddings of fold {fold.year} with these settings on these rows: "
            "materialize embeddings with the same experiment and overrides",
            allow_retries=False,
        )
    with permanent(CorruptCheckpointError):
        artifacts.verify(file.parent)
        paths, base_hash = read_paths(file)
    return paths, base_hash
