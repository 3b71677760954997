"""The Compose file as Compose reads it: variables filled in; and its services run outside of containers."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.paths import CHECKOUT

COMPOSE = CHECKOUT / "deploy/compose"
FILE = COMPOSE / "compose.yaml"
_VARIABLE = re.compile(r"(?<!\$)\$\{(\w+):-([^}]*)\}")


def interpolated_variables() -> dict[str, str]:
    """The variables of `.env` that the file reads, with their defaults."""
    return dict(_VARIABLE.findall(FILE.read_text(encoding="utf-8")))


def load_compose(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The file with its variables filled in, after it is parsed: from those given, else by their defaults."""

    def filled(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: filled(value) for name, value in part.items()}
        if isinstance(part, list):
            return [filled(value) for value in part]
        if isinstance(part, str):
            return _VARIABLE.sub(lambda found: (variables or {}).get(found[1], found[2]), part)
        return part

    loaded: dict[str, Any] = filled(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    return loaded


@dataclass(frozen=True)
class Outside:
    """Runs what a service runs, with its arguments, environment and secrets, on a read-only file system.

    The containers' paths are moved below `folder`, the only place that can be written to. `ports` says which port a
    service listens on instead of its own. Needs the right to mount.
    """

    folder: Path
    ports: Mapping[str, str]

    def start(self, service: Mapping[str, Any], **environment: str) -> subprocess.Popen[bytes]:
        for name in ("state", "tmp", "backups", "config"):
            (self.folder / name).mkdir(exist_ok=True)
        command = [*service.get("entrypoint", ["carat"]), *service["command"]]
        programs = {"carat": f"{sys.executable} -m app"}
        bin_folder = self.folder / "bin"
        bin_folder.mkdir(exist_ok=True)
        for name, runs in programs.items():
            (bin_folder / name).write_text(f'#!/bin/sh\nexec {runs} "$@"\n')
            (bin_folder / name).chmod(0o755)
        if not (bin_folder / "every-hour").exists():
            (bin_folder / "every-hour").symlink_to(COMPOSE / "every-hour.sh")
        own = {name: self.moved(str(value)) for name, value in service["environment"].items()}
        read_only = f"mount --bind {self.folder} {self.folder} && mount -o remount,bind,ro / && "
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", f'{read_only} exec "$@"', "sh", *map(self.moved, command)],
            cwd=CHECKOUT / "deploy",
            env={
                "PATH": f"{bin_folder}:{os.environ['PATH']}",
                "PYTHONPATH": str(CHECKOUT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "TMPDIR": str(self.folder / "tmp"),
                "HOME": str(self.folder / "tmp"),
                **own,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def moved(self, text: str) -> str:
        """A path or a port of a container as it is here."""
        for there, here in {
            "/var/lib/carat": "state",
            "/run/secrets": "secrets",
            "/tmp": "tmp",
            "/backups": "backups",
            "/config": "config",
        }.items():
            if text == there or text.startswith(f"{there}/"):
                return f"{self.folder / here}{text.removeprefix(there)}"
        return self.ports.get(text, text)
