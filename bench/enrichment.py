"""What telling devices, bots and channels costs of a day's build, and how right it is on corpora that others maintain.

python -m bench.enrichment [--calls 1000000] [--agents 5000] [--corpora ../shared/data/corpora]

The day is built twice by one worker, so that the seconds of a step are its own: first with user agents that were never
seen, then with all of them remembered. Beside it what the contenders for reading user agents take, as far as they are
installed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

import app.frames.sessions
import app.jobs.user_agents
from app.contracts import DWH_TABLES, USER_AGENTS
from app.demo import user_agents as demo_agents
from app.jobs.build import build_day
from app.jobs.user_agents import UserAgents
from app.session_rules import SessionRules, load_session_rules
from app.settings import Settings
from app.snapshot_plan import load_snapshot_plan
from app.tracking import load_endpoint_map
from app.warehouse import Warehouse, migrate, open_warehouse, recover
from bench.data import build
from bench.day import DAY, Dataset
from bench.engine_sql import bench_settings
from tests.support.corpora import crawlers, read_browsers, read_crawlers, read_devices, uap_cases

_TARGET = 0.05
console = Console()


def main() -> int:
    options = _options()
    agents = _user_agents(options.corpora, options.agents)
    day = Dataset.under(options.folder / f"enrichment-{len(agents)}", options.calls)
    if not day.is_built:
        with console.status(f"making a day of {options.calls:,} calls by {len(agents):,} user agents"):
            build(day, user_agents=agents)
    settings = bench_settings(day).model_copy(update={"workers": 1})
    rules = load_session_rules(settings)
    with open_warehouse(settings, purpose="bench") as warehouse:
        migrate(warehouse, settings)
        recover(warehouse)
        warehouse.command(f"TRUNCATE TABLE {USER_AGENTS.full_name}")
        runs = {name: _measured(warehouse, settings, rules) for name in ("first run", "remembered")}
        distinct = warehouse.scalar("SELECT uniqExact(user_agent) FROM pd.api_calls")
    console.print(_table(runs, calls=options.calls, agents=distinct))
    _print_accuracy(options.corpora, rules)
    shares = {name: run.enriching_s / run.seconds for name, run in runs.items()}
    for name, share in shares.items():
        verdict = "within" if share < _TARGET else "[red]beyond[/red]"
        console.print(f"{name}: {share:.1%} of the build, {verdict} the {_TARGET:.0%} that is aimed at")
    return 0 if max(shares.values()) < _TARGET else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.enrichment", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000_000, help="calls of the day")
    parser.add_argument("--agents", type=int, default=5_000, help="distinct user agents among them")
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="where the generated day is kept")
    parser.add_argument(
        "--corpora", type=Path, default=Path("../shared/data/corpora"), help="uap-core and crawler-user-agents"
    )
    return parser.parse_args()


def _user_agents(corpora: Path, number: int) -> list[str]:
    """So many distinct user agents: of browsers, devices and crawlers as others collected them, where they are there.

    Else those of the demo shop, each in as many versions as it takes.
    """
    agents = [agent for agent, *_ in (*demo_agents.PHONE_BROWSERS, *demo_agents.DESKTOPS, *demo_agents.TABLETS)]
    if (corpora / "uap-core").exists():
        cases = [case["user_agent_string"] for name in ("ua", "device") for case in uap_cases(corpora, name)]
        agents += [*cases[::3], *crawlers(corpora)[::10], *cases]
    versions = (f"{agent} Build/{version}" for version in range(number) for agent in agents)
    return list(dict.fromkeys([*agents, *versions]))[:number]


# ---- what it costs -------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """Seconds of a build, and those of them that went into each step of telling devices, bots and channels."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)

    @property
    def enriching_s(self) -> float:
        return sum(self.steps.values())


def _measured(warehouse: Warehouse, settings: Settings, rules: SessionRules) -> Run:
    for table in DWH_TABLES:
        warehouse.command(f"TRUNCATE TABLE {table.full_name} SYNC")
    run = Run()
    work = {
        "endpoint_map": load_endpoint_map(settings.tracking),
        "plan": load_snapshot_plan(settings.snapshots),
        "session_rules": rules,
        "user_agents": UserAgents(rules.devices),
    }
    with (
        _timed(run, "user agents", UserAgents, "of_scope"),
        _timed(run, "where they came from", app.frames.sessions, "arrivals"),
        _timed(run, "landing pages", app.frames.sessions, "with_landing_page"),
        _timed(run, "pace", app.frames.sessions, "with_pace"),
    ):
        started, cpu_started = time.perf_counter(), time.process_time()
        build_day(warehouse, DAY, settings=settings, **work)
        run.seconds, run.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return run


@contextmanager
def _timed(run: Run, step: str, owner: Any, name: str) -> Iterator[None]:
    """Meanwhile the seconds of a function are counted as the step's."""
    function: Callable[..., Any] = getattr(owner, name)
    run.steps[step] = 0.0

    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            run.steps[step] += time.perf_counter() - started

    with patch.object(owner, name, timed):
        yield


def _table(runs: dict[str, Run], *, calls: int, agents: int) -> Table:
    table = Table(title=f"One day of {calls:,} calls by {agents:,} user agents, one worker: seconds")
    for heading in ("", *runs):
        table.add_column(heading, justify="right" if heading else "left")
    first = next(iter(runs.values()))
    for step in first.steps:
        table.add_row(step, *(f"{run.steps[step]:.2f}" for run in runs.values()))
    table.add_row("together", *(f"{run.enriching_s:.2f}" for run in runs.values()))
    table.add_row("the whole build", *(f"{run.seconds:.1f}" for run in runs.values()))
    table.add_row("CPU of the whole build", *(f"{run.cpu_seconds:.1f}" for run in runs.values()))
    return table


# ---- how right it is -----------------------------------------------------------------------------------------------


def _print_accuracy(corpora: Path, rules: SessionRules) -> None:
    if not (corpora / "uap-core").exists():
        console.print(f"no corpora in {corpora}: accuracy is not measured")
        return
    devices = read_devices(corpora, rules.devices)
    console.print(f"device class right: {devices}; of uap-core's devices those whose maker and model tell the class")
    console.print(f"crawlers found: {read_crawlers(corpora, rules.devices)}; of crawler-user-agents")
    browsers = read_browsers(corpora, rules.devices)
    console.print(f"browsers called bots: {1 - browsers.share:.2%} of {browsers.cases:,}; of uap-core's browsers")


if __name__ == "__main__":
    sys.exit(main())
