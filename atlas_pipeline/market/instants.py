"""Instants as whole microseconds since 1970 UTC: what arrays and files hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(instant: datetime) -> int:
    """Microseconds since 1970-01-01 UTC of an instant with a time zone.

    Raises
    ------
    ValueError
        Where the instant has no time zone: it could be any of 24 hours.
    """
    if instant.tzinfo is None:
        raise ValueError(f"{instant!r} has no time zone; give it one, for example tzinfo=datetime.UTC")
    return (instant - EPOCH) // timedelta(microseconds=1)
