"""Measures what a command costs when there is next to nothing to do: process start, imports, opening the warehouse.

python -m bench.fixed_costs [--calls 300000] [--rounds 5]

`carat demo` makes a month of that many calls once, in var/bench/fixed. Each round runs every command in turn, so that
a busy machine is as bad for one as for the other; the cheapest round counts. The measure is the CPU time of the
process, engine threads included, against the bare engine: chDB in a Python process opens the same warehouse for one
SELECT. Exits 1 if a command takes more than its limit allows.
"""

import argparse
import asyncio
import gzip
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from app.intake.spool import Spool, SpoolLimits
from app.settings import load_settings

_BARE = (
    "import sys, chdb; connection = chdb.connect(sys.argv[1]); "
    "connection.query('SELECT count() FROM pd.api_calls', 'CSV'); connection.close()"
)
_ENGINE = "bare engine"
_EMPTY_HOUR, _SMALL_HOUR = "carat hourly, no new calls", "carat hourly, 300 new calls"
_SMALL_HOUR_CALLS = 300
# At most so many times the CPU of the bare engine.
_LIMITS = {"carat status": 1.5, "carat plan": 1.5, _EMPTY_HOUR: 2.0}
_SMALL_HOUR_ADDS_S = 0.6  # at most, to an hour without calls

console = Console()


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    cpu_s: float
    wall_s: float


def main() -> None:
    options = _options()
    folder = options.folder.resolve() / "fixed"
    month = _month(folder, options.calls)
    warehouse, spool = folder / "warehouse", folder / "spool"
    for used in (warehouse, spool):
        shutil.rmtree(used, ignore_errors=True)
    shutil.copytree(month / "warehouse", warehouse, symlinks=True)
    environment = _environment(warehouse, spool)
    carat = (sys.executable, "-m", "app")
    commands = {
        _ENGINE: (sys.executable, "-c", _BARE, str(warehouse)),
        "carat --help": (*carat, "--help"),
        "carat status": (*carat, "status"),
        "carat plan": (*carat, "plan"),
        _EMPTY_HOUR: (*carat, "hourly"),
        _SMALL_HOUR: (*carat, "hourly"),
    }
    seed = random.Random(7)
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(options.rounds + 1):
        for name, command in commands.items():
            if name == _SMALL_HOUR:
                asyncio.run(_collect(list(_new_calls(month / "shop", seed)), spool))
            cost = _run(command, environment)
            if number:  # the first round fills caches
                costs[name].append(cost)
    _report({name: min(found, key=lambda cost: cost.cpu_s) for name, found in costs.items()})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300_000, help="calls of the month that is there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("var/bench"))
    return parser.parse_args()


def _month(folder: Path, calls: int) -> Path:
    """A month of the demo shop, made once."""
    month = folder / f"month-{calls}"
    if not (month / "done").exists():
        console.print(f"making a month of {calls:,} calls in {month}")
        shutil.rmtree(month, ignore_errors=True)
        command = (sys.executable, "-m", "app", "demo", "--calls", str(calls), "--folder", str(month / "shop"))
        subprocess.run(command, env=_environment(month / "warehouse", month / "spool"), check=True, capture_output=True)
        (month / "done").touch()
    return month


def _environment(warehouse: Path, spool: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CARAT_")}
    return kept | {"CARAT_WAREHOUSE": f"chdb://{warehouse}", "CARAT_SPOOL": str(spool), "CARAT_MAX_AGE_DAYS": "0"}


def _new_calls(shop: Path, seed: random.Random) -> Iterator[bytes]:
    """Calls of the month's last day once more, as if other visitors had made them and placed other orders."""
    last = max(shop.glob("calls-*.ndjson.gz"))
    day = last.name.removeprefix("calls-").partition(".")[0]
    with gzip.open(last) as lines:
        calls = [call for line in lines if (call := _call(line)) and str(call["ts"]).startswith(day)]
    first = seed.randrange(len(calls) - _SMALL_HOUR_CALLS)
    mark = f"{seed.getrandbits(32):08x}"
    for call in calls[first : first + _SMALL_HOUR_CALLS]:
        call["call_id"] = str(uuid.UUID(int=seed.getrandbits(128)))
        call |= {name: f"{call[name]}-{mark}" for name in ("visitor_id", "session_token") if call.get(name)}
        response = call.get("response")
        if isinstance(response, dict) and response.get("order_id"):
            response["order_id"] = f"{response['order_id']}-{mark}"
        yield json.dumps(call).encode()


def _call(line: bytes) -> dict[str, object] | None:
    try:
        call = json.loads(line)
    except ValueError:  # the demo has a few lines that are no calls
        return None
    return call if isinstance(call, dict) and {"ts", "endpoint", "method"} <= call.keys() else None


async def _collect(calls: list[bytes], folder: Path) -> None:
    spool = Spool(folder, SpoolLimits.of(load_settings()))
    await spool.open()
    await spool.append(calls, received_at_ms=int(time.time() * 1000))
    await spool.close()


def _run(command: tuple[str, ...], environment: Mapping[str, str]) -> Cost:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return Cost(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall_s)


def _report(costs: Mapping[str, Cost]) -> None:
    engine_s = costs[_ENGINE].cpu_s
    added_s = costs[_SMALL_HOUR].cpu_s - costs[_EMPTY_HOUR].cpu_s
    table = Table(title="What a command costs", title_justify="left")
    for column in ("command", "CPU s", "wall s", "against engine", "at most"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for name, cost in costs.items():
        limit = f"{_LIMITS[name]:g}" if name in _LIMITS else ""
        table.add_row(name, f"{cost.cpu_s:.2f}", f"{cost.wall_s:.2f}", f"{cost.cpu_s / engine_s:.2f}", limit)
    console.print(table)
    console.print(f"300 calls add {added_s:.2f} CPU s to an hour (at most {_SMALL_HOUR_ADDS_S:g} wanted)")


if __name__ == "__main__":
    main()
