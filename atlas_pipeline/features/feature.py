"""What a feature's declaration holds; the features themselves are declared set by set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from atlas_pipeline.market.table import Column, Dtype

CURRENCY = "currency"


@dataclass(frozen=True)
class Feature:
    """One feature.

    Attributes
    ----------
    name
        Column in its table.
    formula
        What it is, in symbols or words; O, H, L, C and V are a bar's, with earlier splits and dividends taken out of
        them, σ is the column ``volatility_ewma``.
    inputs
        Columns of the rows it is made from, or other features.
    unit
        Its unit; one in ``CURRENCY`` is a price, or a difference of prices, as traded at its bar.
    source
        Where the formula comes from.
    warmup
        Rows at the start of a series, or after a missing bar, that have no value.
    parameters
        Lengths in rows and other constants of the formula.
    minimum, maximum
        Smallest and largest possible value, where there is one.
    """

    name: str
    formula: str
    inputs: tuple[str, ...]
    unit: str
    source: str
    warmup: int = 0
    parameters: Mapping[str, float] = field(default_factory=dict)
    minimum: float | None = None
    maximum: float | None = None

    @property
    def in_currency(self) -> bool:
        """Whether it is multiplied with the prices, so that it is given on the scale of its own bar."""
        return self.unit == CURRENCY

    def column(self, dtype: Dtype = "float32") -> Column:
        """Declare the column of the table; null where the feature is undefined."""
        description = f"{self.formula}. Source: {self.source}"
        return Column(self.name, dtype, description, self.unit, nullable=True, minimum=self.minimum)
