"""The demo in small, and its page."""

import json

from rich.console import Console

from equipoise.lab import demo


def test_demo_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "HIDDEN", (16,) * 30)
    monkeypatch.setattr(demo, "EPOCHS", 4)
    console = Console(record=True, width=120)
    page = demo.run(console, tmp_path)
    text = page.read_text(encoding="utf-8")
    numbers = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    for name in ("gelu", "tanh"):
        assert numbers[name]["equipoise"]["accuracy"] > 0.8
        assert numbers[name]["default"]["accuracy"] < 0.3
        assert f"{name}, equipoise" in text
    printed = console.export_text()
    assert "lost-correlation" in printed
    assert "in balance" in printed
    assert 'src="http' not in text
