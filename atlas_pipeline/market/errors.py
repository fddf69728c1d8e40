"""What can go wrong between a source and a validated bar; each error names the culprit and the remedy."""

from __future__ import annotations

from collections.abc import Iterable


class MarketError(Exception):
    """Base of every error of this room."""


class SourceUnavailableError(MarketError):
    """A source cannot be read now: a missing file, a vendor that refuses, a network that is down."""


class UnknownSymbolError(MarketError):
    """Symbols were asked for that the source does not have.

    Parameters
    ----------
    source
        Name of the source.
    unknown, known
        The symbols it lacks and those it has.
    """

    def __init__(self, source: str, unknown: Iterable[str], known: Iterable[str]) -> None:
        self.source, self.unknown, self.known = source, tuple(unknown), tuple(known)
        super().__init__(
            f"source {source!r} has no symbol {', '.join(map(repr, self.unknown))}; "
            f"it has: {', '.join(self.known) or 'none'}"
        )

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...], tuple[str, ...]]]:
        return type(self), (self.source, self.unknown, self.known)


class NotOfferedError(MarketError):
    """A source was asked for a kind of data that it does not have.

    Parameters
    ----------
    source
        Name of the source.
    what
        What it does not have, in the plural.
    remedy
        How the user gets it elsewhere.
    """

    def __init__(self, source: str, what: str, remedy: str) -> None:
        self.source, self.what, self.remedy = source, what, remedy
        super().__init__(f"source {source!r} offers no {what}: {remedy}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.source, self.what, self.remedy)


class BrokenSchemaError(MarketError):
    """Columns are missing or of the wrong type, so that no row can be judged."""
