"""Market settings: one file, refused by name where it cannot work."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from atlas_pipeline.market.settings import MARKETS, MarketSettings, load_market_settings, market_settings_path
from resources.market import Market
from resources.warehouse import Warehouse


def write(folder: Path, text: str) -> Path:
    path = folder / "market.yaml"
    path.write_text(text)
    return path


def test_the_project_s_own_file_is_the_bundled_market() -> None:
    settings = load_market_settings()
    assert settings.source == "bundled"
    assert [entry["symbol"] for entry in settings.symbols] == ["SP500", "NASDAQ"]
    assert settings.replay_start == datetime(2018, 6, 29, 20, tzinfo=UTC)


def test_a_volatility_index_says_when_it_is_published(tmp_path: Path) -> None:
    path = write(tmp_path, "source: bundled\nsymbols: [A, {symbol: V, calendar: XCBF}]\nvolatility_index: V\n")
    assert load_market_settings(path).volatility_index == "V"


def test_the_environment_names_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "source: yahoo\nsymbols: [SPY]\n")
    monkeypatch.setenv("ATLAS_MARKET", str(path))
    assert market_settings_path() == path
    settings = load_market_settings()
    assert (settings.source, settings.last_month, settings.replay_start) == ("yahoo", None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: bundled\nsymbols: []\n", "symbols"),
        ("source: oracle\nsymbols: [A]\n", "oracle"),
        ("source: bundled\nsymbols: [A]\ntickers: [B]\n", "tickers"),
        ("source: bundled\nsymbols: [A]\nfirst_month: soon\n", "first_month"),
        ("source: bundled\nsymbols: [A]\nreplay_start: later\n", "replay_start"),
        ("source: bundled\nsymbols: [A, A]\n", "symbol 'A' stands twice"),
        ("source: bundled\nsymbols: [A]\ninterval: soon\n", "interval 'soon' is none"),
        ("source: bundled\nsymbols: [A]\ninterval: 1wk\ntimescales: [1mo]\n", "1mo is not made of whole bars of 1wk"),
        ("source: bundled\nsymbols: [A]\nvolatility_index: V\n", "'V' must be one of the symbols"),
        ("source: bundled\nsymbols: [A]\nvolatility_index: A\n", "and not the only one"),
        ("source: bundled\nsymbols: [A, V]\nvolatility_index: V\n", "'V' has no calendar of its own: .* XCBF"),
        ("source: bundled\nsymbols: [A]\ntimescales: [1d]\n", "1d is not made of whole bars of 1d"),
    ],
)
def test_what_cannot_work_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_market_settings(write(tmp_path, text))


@pytest.mark.parametrize("name", [path.stem for path in MARKETS.glob("*.yaml")])
def test_every_market_of_the_project_can_be_chosen_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_MARKET", name)
    settings = load_market_settings()
    assert settings.source == name
    market = Market(warehouse=Warehouse(home="unused"), **market_fields(settings))
    assert market.universe.symbols and market.feed.name == name


def market_fields(settings: MarketSettings) -> dict[str, Any]:
    """The settings as the resource takes them."""
    fields = {name: getattr(settings, name) for name in ("source", "interval", "calendar", "options")}
    return {**fields, "symbols": list(settings.symbols), "timescales": list(settings.timescales)}


def test_a_missing_file_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_MARKET", str(tmp_path / "absent.yaml"))
    with pytest.raises(FileNotFoundError, match="neither a file nor one of the markets bundled, simulated, yahoo"):
        load_market_settings()
