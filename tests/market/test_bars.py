import pandas as pd

from atlas_pipeline.market import bars
from atlas_pipeline.market.bars import empty
from atlas_pipeline.market.quarantine import month_of
from atlas_pipeline.market.table import Table


def test_empty_frames_satisfy_their_tables():
    tables = [value for value in vars(bars).values() if isinstance(value, Table)]
    assert len(tables) == 6
    for table in tables:
        table.schema().validate(empty(table), lazy=True)


def test_months_are_those_of_utc():
    instants = pd.Series(pd.to_datetime(["2015-01-31 20:00-05:00", "2015-01-31 18:59-05:00"], utc=True))
    assert month_of(instants.dt.tz_convert("America/New_York")).tolist() == ["2015-02", "2015-01"]
