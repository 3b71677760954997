"""What a command imports before it has anything to do: most of the CPU that a small shop's hour costs."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import CHECKOUT

# What takes tens of milliseconds, and only some commands, or hours with new calls, need.
TYPING_CALLS = {"app.frames.events", "app.jobs.build.day", "app.jobs.build.builders", "pyarrow.compute", "ua_parser"}
OF_A_SERVER = {"clickhouse_connect", "urllib3", "pymysql", "cryptography"}
OF_A_TERMINAL = {"rich", "pygments"}
OF_DEVELOPMENT = {"pandas", "distributed", "tornado"}
NEVER = {"structlog", "tenacity", "yaml", *OF_A_SERVER, *OF_A_TERMINAL, *OF_DEVELOPMENT}
ENGINES = {"polars", "pyarrow", "numpy", "chdb", "pydantic"}


def imported_by(*arguments: str, folder: str = ".", among: set[str]) -> list[str]:
    """Which of these modules a command has imported when it ends."""
    code = (
        "import json, sys\n"
        "import app.main\n"
        "sys.argv = ['carat', *json.loads(sys.argv[1])]\n"
        "try:\n    app.main.main()\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code\n"
        f"print('\\n' + json.dumps(sorted(set({sorted(among)}) & set(sys.modules))))"
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CARAT_")},
        "CARAT_WAREHOUSE": f"chdb://{folder}/warehouse",
        "CARAT_SPOOL": f"{folder}/spool",
        "PYTHONPATH": str(CHECKOUT),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        capture_output=True,
        check=True,
        cwd=folder,
        env=environment,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_help_imports_no_engine_and_no_settings():
    assert imported_by("--help", among={*NEVER, *ENGINES, *TYPING_CALLS}) == []


@pytest.mark.slow
def test_status_plan_and_an_hour_without_calls_import_nothing_that_types_calls(tmp_path):
    folder = str(tmp_path)
    imported_by("migrate", folder=folder, among=set())
    for verb in ("status", "plan", "hourly"):
        assert imported_by(verb, "--json", folder=folder, among={*NEVER, *TYPING_CALLS}) == [], verb
