"""What a page shows of values."""

from __future__ import annotations

from assets.metadata import shares


def test_inputs_beyond_the_training_range_are_listed_by_share_and_none_is_said() -> None:
    text = shares({"calm": 0.0, "rare": 0.01, "common": 0.25}).md_str
    assert "calm" not in text and text.index("common") < text.index("rare")
    assert shares({"calm": 0.0}).md_str == "none"
