"""Runs Metabase's own validator of dashboards as code.

It is a development tool under the AGPL: npm installs it into the user's cache, and Carat contains no part of it.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from app.core.errors import DashboardError
from app.core.file_lock import locked
from app.dashboards.findings import Finding

PACKAGE = "@metabase/representations@1.2.0"
FIX = "install Node.js 20 or later with npm"

_FAILED = re.compile(r"FAIL\s+(\S.*?)(?:\s+\(\w+\))?")
_TOTAL = re.compile(r"(\d+) passed, (\d+) failed")
_TIMEOUT_S = 300
_OLDEST_NODE = 20


def validator() -> Path | None:
    """The validator's executable, installed once per user; None without Node.js, or if npm cannot install it."""
    npm = shutil.which("npm")
    if npm is None or _node_version() < _OLDEST_NODE:
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "carat" / "metabase"
    program = home / "node_modules" / ".bin" / "representations"
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / "lock"):
        done = home / "installed"
        if program.exists() and done.exists() and done.read_text() == PACKAGE:
            return program
        command = [npm, "install", "--prefix", str(home), "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
        installed = subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT_S)
        if installed.returncode or not program.exists():
            return None
        done.write_text(PACKAGE)
    return program


def _node_version() -> int:
    """The major version of Node.js on the PATH; 0 if there is none."""
    node = shutil.which("node")
    if node is None:
        return 0
    version = subprocess.run(
        [node, "--version"], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    ).stdout
    match = re.match(r"v(\d+)", version)
    return int(match[1]) if match else 0


def schema_findings(folder: Path, program: Path) -> list[Finding]:
    """The validator's findings in the files of the folder."""
    run = subprocess.run(
        [str(program), "validate-schema", "--folder", str(folder)],
        capture_output=True, text=True, check=False, timeout=_TIMEOUT_S,
    )  # fmt: skip
    lines = (run.stdout + "\n" + run.stderr).splitlines()
    total = next((match for line in lines if (match := _TOTAL.fullmatch(line.strip()))), None)
    if total is None:
        first_line = next((line for line in lines if line.strip()), "no output")
        raise DashboardError(f"Metabase's validator ({program}) failed: {first_line}")
    return list(_findings(lines, folder))


def _findings(lines: list[str], folder: Path) -> Iterator[Finding]:
    path = folder
    for line in lines:
        if match := _FAILED.fullmatch(line.strip()):
            path = Path(os.path.normpath(Path.cwd() / match[1]))
        elif line.startswith("      ") and line.strip():
            where, _, problem = line.strip().partition(" ")
            yield Finding("schema", path, where, problem)
