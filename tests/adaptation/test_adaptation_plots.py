import numpy as np
import pandas as pd
import pytest

from atlas_pipeline.adaptation.contest import Contest
from atlas_pipeline.adaptation.gate import ShadowResult, judge
from atlas_pipeline.adaptation.plots import plot_ledger, plot_shadow, plot_verdicts

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("bars, spoilt", [(300, False), (20, False), (300, True)])
def test_a_shadow_run_is_drawn_whatever_the_verdict(config, bars, spoilt):
    generator = np.random.default_rng(0)
    base = generator.normal(0, 0.01, bars)
    returns = {"candidate": base + 0.001, "champion": base - 0.0002, "base": base}
    if spoilt:
        returns["candidate"][10:] = np.nan
    results = {name: ShadowResult(series, 0.1, 0.2, 2 * bars) for name, series in returns.items()}
    decision = judge(*results.values(), config)
    instants = np.arange(bars + 1, dtype=np.int64) * 86_400_000_000
    picture = plot_shadow(Contest(decision, results, instants), "Candidate 000500")
    assert picture.startswith(PNG)
    assert len(picture) > 10_000


def test_a_ledger_is_drawn():
    bars = pd.date_range("2016-01-01", periods=50, freq="D", tz="UTC").as_unit("us")
    value = 10_000 * np.exp(np.random.default_rng(0).normal(0, 0.01, 50).cumsum())
    one = pd.DataFrame({"ledger": "main", "symbol": "AAA", "bar": bars, "equity": value})
    one["peak"] = one["equity"].cummax()
    picture = plot_ledger(pd.concat([one, one.assign(symbol="BBB", equity=value[::-1], peak=value.max())]))
    assert picture.startswith(PNG)


def test_every_look_of_the_gate_is_drawn() -> None:
    looks = pd.DataFrame(
        {
            "env_step": [500, 500, 1000],
            "candidate_version": ["2", "2", "3"],
            "steps": [200, 400, 40],
            "verdict": ["wait", "promote", "wait"],
            "over_champion_mean": [1e-5, 2e-5, None],
            "over_champion_lower": [-1e-5, 1e-5, None],
            "over_champion_upper": [2e-5, 3e-5, None],
        }
    )
    with_looks, without = plot_verdicts(looks), plot_verdicts(looks.iloc[2:])
    assert with_looks.startswith(b"\x89PNG") and without.startswith(b"\x89PNG")
    assert with_looks != without
