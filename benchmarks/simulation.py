"""A million one-minute bars of a simulated market with the truth of each, beside the returns of its GARCH process."""

from __future__ import annotations

from importlib.metadata import version

from arch import arch_model

from atlas_pipeline.market.simulated import SimulatedSource
from benchmarks import figure, medians

FIRST, LAST = "2000-01-03", "2010-04-06"


def main() -> None:
    """Print ``market.simulate``."""
    settings = SimulatedSource(["A"]).settings
    rows = 0

    def ours() -> None:
        nonlocal rows
        # A source of its own each time: a second look at the same one would find its paths drawn.
        source = SimulatedSource(["A"], "1m", first=FIRST, last=LAST)
        first, last = source.range()
        bars, truth = source.bars(["A"], first, last), source.truth(["A"], first, last)
        assert len(bars) == len(truth)
        rows = len(bars)

    ours()
    process = arch_model(None, mean="Constant", vol="GARCH", p=1, o=1, q=1, dist="t")
    parameters = [
        0.0,
        1 - settings.persistence,
        settings.alpha,
        settings.gamma,
        settings.beta,
        settings.degrees_of_freedom,
    ]

    def peer() -> None:
        process.simulate(parameters, rows, burn=0)

    own, other = medians(ours, peer)
    figure(
        "market.simulate",
        own,
        "ms",
        f"arch {version('arch')}, returns of the same GJR-GARCH-t",
        other,
        other / own,
        f"{rows:,} one-minute bars (OHLCV, regimes, jumps) with their truth, one thread",
    )


if __name__ == "__main__":
    main()
