"""`carat demo` from start to end, on a small plan."""

import pytest

from app.demo import run
from app.demo.calls import DemoPlan
from app.settings import Settings


@pytest.mark.slow
def test_a_demo_runs_to_its_page_and_a_second_run_finds_nothing_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "_HOURS", 3)
    settings = Settings(_env_file=None, warehouse=f"chdb://{tmp_path / 'warehouse'}", scratch=tmp_path / "scratch")
    printed = []
    for _ in range(2):
        run.run_demo(settings, DemoPlan(calls=1_500, days=3), tmp_path / "demo")
        printed.append(capsys.readouterr().out)
    first, second = printed
    assert "verified: every row matches the raw calls" in first
    assert " 0 stored" not in first
    assert " 0 stored" in second
    assert "took 4 snapshots: 0 versions" in second
    assert "Store overview" in (tmp_path / "demo" / "dashboards.html").read_text()
