"""How a table of the warehouse is declared: columns with unit and meaning, key, partition.

One declaration serves the warehouse's DDL, the pandera schema and the column schema shown in the UI. No table is
declared here: each stands in the room whose rows it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandera.pandas as pa

Dtype = Literal["string", "float64", "float32", "int64", "int32", "bool", "timestamp", "date"]

PANDAS_DTYPE: dict[Dtype, str] = {
    "string": "str",
    "float64": "float64",
    "float32": "float32",
    "int64": "int64",
    "int32": "int32",
    "bool": "bool",
    "timestamp": "datetime64[us, UTC]",
    "date": "datetime64[us]",
}


@dataclass(frozen=True)
class Column:
    """One column: its name, type, unit and meaning; ``minimum`` is inclusive and refuses smaller values."""

    name: str
    dtype: Dtype
    description: str
    unit: str = ""
    nullable: bool = False
    minimum: float | None = None


@dataclass(frozen=True)
class Table:
    """A table: name, meaning, columns, the key that makes a row unique, and the column it is partitioned by.

    ``time`` names the column that says when a row could be known; reads bounded by ``before`` compare it.
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition_by: str | None = None
    time: str | None = None
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(column.name for column in self.columns))
        needed = [*self.key, *(name for name in (self.partition_by, self.time) if name)]
        missing = [name for name in needed if name not in self.names]
        if missing:
            raise ValueError(f"table {self.name!r} names columns it does not have: {missing}")

    def schema(self) -> pa.DataFrameSchema:
        """The pandera schema: these columns in this order and no others, coerced, keys unique."""
        import pandera.pandas as pa

        return pa.DataFrameSchema(
            {
                column.name: pa.Column(
                    PANDAS_DTYPE[column.dtype],
                    checks=[] if column.minimum is None else [pa.Check.ge(column.minimum)],
                    nullable=column.nullable,
                    description=column.description,
                )
                for column in self.columns
            },
            name=self.name,
            strict=True,
            ordered=True,
            coerce=True,
            unique=list(self.key),
            description=self.description,
        )
