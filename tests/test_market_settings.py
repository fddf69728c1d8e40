"""Market settings: one file, refused by name where it cannot work."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from atlas_pipeline.market.settings import load_market_settings, market_settings_path


def write(folder: Path, text: str) -> Path:
    path = folder / "market.yaml"
    path.write_text(text)
    return path


def test_the_project_s_own_file_is_the_bundled_market() -> None:
    settings = load_market_settings()
    assert settings.source == "bundled"
    assert settings.symbols == ("SP500", "NASDAQ")
    assert settings.replay_start == datetime(2018, 6, 29, 20, tzinfo=UTC)


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
    ],
)
def test_what_cannot_work_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_market_settings(write(tmp_path, text))


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ATLAS_MARKET"):
        load_market_settings(tmp_path / "absent.yaml")
