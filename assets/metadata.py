"""How tables, frames and pictures are shown in the UI, and how permanent failures are told from transient ones."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pandas as pd
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from atlas_pipeline.config import digest_of
from atlas_pipeline.market.table import Table

OWNERS = ["team:atlas"]

TRANSIENT = dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For steps that meet a network or a contended lock; permanent errors leave as failures that allow no retry."""


def column_schema(table: Table) -> dg.TableSchema:
    """Return the table's columns as the UI shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=column.dtype,
                description=f"{column.description} [{column.unit}]" if column.unit else column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=table.key == (column.name,)),
            )
            for column in table.columns
        ]
    )


def table_metadata(table: Table) -> dict[str, Any]:
    """Return the definition metadata of an asset that fills this table."""
    return {
        "dagster/table_name": f"lake.main.{table.name}",
        "dagster/column_schema": column_schema(table),
        "key": ", ".join(table.key),
    }


def frame(data: pd.DataFrame, digits: int = 4) -> dg.MarkdownMetadataValue:
    """Return a small frame as a Markdown table, numbers rounded to significant digits."""
    header = "| " + " | ".join(str(name) for name in data.columns) + " |"
    ruler = "|" + "|".join("--:" if pd.api.types.is_numeric_dtype(kind) else ":--" for kind in data.dtypes) + "|"
    rows = [
        "| " + " | ".join(_cell(value, digits) for value in row) + " |"
        for row in data.itertuples(index=False, name=None)
    ]
    return dg.MetadataValue.md("\n".join([header, ruler, *rows]))


def _cell(value: object, digits: int) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:,.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
    if isinstance(value, pd.Timestamp):
        return value.strftime("%Y-%m-%d" if value == value.normalize() else "%Y-%m-%d %H:%M")
    return str(value).replace("|", "\\|").replace("\n", " ")


def shares(outside: Mapping[str, float]) -> dg.MarkdownMetadataValue:
    """Share of the bars at which an input is beyond what the scaler saw in training; all inputs that ever are."""
    beyond = [{"input": name, "share of bars": share} for name, share in outside.items() if share > 0]
    if not beyond:
        return dg.MetadataValue.md("none")
    return frame(pd.DataFrame(beyond, columns=["input", "share of bars"]).sort_values("share of bars", ascending=False))


def picture(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    """Return a PNG picture that the asset's page shows in place."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def materializations(
    context: dg.AssetExecutionContext,
    versions: Mapping[str, str],
    metadata: Mapping[str, Any],
    partition_metadata: Mapping[str, Mapping[str, Any]],
    restated: Mapping[str, str] | None = None,
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """Yield what a run over one or more partitions made, each partition under its own data version.

    A run's one result stamps all its partitions alike, and a month ingested again with the same rows would then
    count as changed; so a range run is followed by one event a partition that carries the partition's own version.

    Parameters
    ----------
    versions
        Partition key to the hash of its rows.
    metadata
        Of the whole run.
    partition_metadata
        Partition key to what is particular to it.
    restated
        Partitions that the run was not asked for but changed, to the hash of their rows.
    """
    alone = len(versions) == 1
    others = {**(restated or {}), **({} if alone else versions)}
    if not alone:
        yield dg.MaterializeResult(
            metadata=dict(metadata), data_version=dg.DataVersion(digest_of(dict(sorted(versions.items()))))
        )
    last = None if alone else list(versions)[-1]
    provenance = _provenance(context) if others else {}
    for key, version in others.items():
        # The asset's page shows the latest event only: it says what the run made.
        shown = metadata if key == last else {}
        yield dg.AssetMaterialization(
            asset_key=context.asset_key,
            partition=key,
            metadata={**shown, **partition_metadata[key]},
            tags={DATA_VERSION_TAG: version, **provenance},
        )
    if alone:
        (key, version), *_ = versions.items()
        yield dg.MaterializeResult(
            metadata={**metadata, **partition_metadata[key]}, data_version=dg.DataVersion(version)
        )


def _provenance(context: dg.AssetExecutionContext) -> dict[str, str]:
    """Return the tags that say what an event was made from; without them Dagster calls the partition stale."""
    tags = {
        CODE_VERSION_TAG: str(context.assets_def.code_versions_by_key[context.asset_key]),
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
    }
    for upstream in context.assets_def.asset_deps[context.asset_key]:
        latest = context.instance.fetch_materializations(upstream, limit=1).records
        if latest:
            version = extract_data_version_from_entry(latest[0].event_log_entry)
            tags[get_input_event_pointer_tag(upstream)] = str(latest[0].storage_id)
            tags[get_input_data_version_tag(upstream)] = "" if version is None else version.value
    return tags


@contextmanager
def permanent(*errors: type[Exception], transient: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn errors that a retry cannot mend into failures that allow none; ``transient`` ones pass as they are."""
    try:
        yield
    except transient:
        raise
    except errors as error:
        raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error
