"""How tables, frames and pictures are shown in the UI, and how permanent failures are told from transient ones."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import pandas as pd

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


def table_metadata(table: Table) -> dict[str, object]:
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


def picture(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    """Return a PNG picture that the asset's page shows in place."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


@contextmanager
def permanent(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors that a retry cannot mend into failures that allow none; their message is shown as it is."""
    try:
        yield
    except errors as error:
        raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error
