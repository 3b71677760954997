"""`carat insights`: apart from the sentences themselves, because a verb opens the warehouse on its own."""

import json
import sys

import pytest

from app import main

pytestmark = pytest.mark.slow


def test_the_verb_says_it_as_text_and_as_json(demo_settings, monkeypatch, capsys):
    monkeypatch.setenv("CARAT_WAREHOUSE", demo_settings.warehouse.with_password())
    said = []
    for arguments in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["carat", "insights", *arguments])
        with pytest.raises(SystemExit) as left:
            main.main()
        assert not left.value.code
        said.append(capsys.readouterr().out)
    report = json.loads(said[1])
    assert said[0].splitlines() == [f"- {one['text']}" for one in report]
    assert report[0].keys() == {"kind", "text", "card", "dashboard", "tab", "numbers"}
