"""The log: JSON lines for programs, warnings for people."""

import json
import sys

from app.core.log import Log


def test_without_a_terminal_each_event_is_a_json_object_on_a_line(capsys):
    Log().info("loaded", rows=3, path="a\nb")
    Log().warning("odd")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["level"], first["rows"], first["path"]) == ("loaded", "info", 3, "a\nb")
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["level"]) == ("odd", "warning")


def test_on_a_terminal_only_warnings_and_errors_are_shown_and_nothing_controls_it(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    Log().info("loaded")
    Log().error("failed", error="\x1b[2Jx", rows=3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r"[error] failed  error='\x1b[2Jx'  rows=3")
