"""What telling devices, bots and channels costs of a day's build, and how right it is on corpora that others maintain.

python -m bench.enrichment [--calls 1000000] [--agents 5000]

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
from itertools import count, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

import app.frames.sessions
import app.jobs.build.user_agents
from app.contracts import DWH_TABLES, USER_AGENTS
from app.demo import user_agents as demo_agents
from app.jobs.build.day import build_day
from app.jobs.build.rules import BuildRules
from app.jobs.build.user_agents import UserAgents
from app.rules.session_rules import SessionRules, load_session_rules
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse
from bench.data import build
from bench.day import DAY, Dataset
from bench.engine_sql import bench_settings
from tests.support.corpora import crawlers, read_browsers, read_crawlers, read_devices, uap_cases

_TARGET = 0.05
console = Console()


def main() -> int:
    options = _options()
    agents = _user_agents(options.agents)
    day = Dataset.under(options.folder / f"enrichment-{len(agents)}", options.calls)
    if not day.is_built:
        with console.status(f"making a day of {options.calls:,} calls by {len(agents):,} user agents"):
            build(day, user_agents=agents)
    settings = bench_settings(day).model_copy(update={"workers": 1})
    rules = load_session_rules(settings)
    with open_warehouse(settings, purpose="bench") as warehouse:
        warehouse.command(f"TRUNCATE TABLE {USER_AGENTS.full_name}")
        runs = {name: _measured(warehouse, settings) for name in ("first run", "remembered")}
        distinct = warehouse.scalar("SELECT uniqExact(user_agent) FROM pd.api_calls")
    console.print(_table(runs, calls=options.calls, agents=distinct))
    _print_accuracy(rules)
    for name, run in runs.items():
        verdict = "within" if run.share < _TARGET else "[red]beyond[/red]"
        console.print(f"{name}: {run.share:.1%} of the build's CPU time, {verdict} the {_TARGET:.0%} that is aimed at")
    return 0 if max(run.share for run in runs.values()) < _TARGET else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.enrichment", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000_000, help="calls of the day")
    parser.add_argument("--agents", type=int, default=5_000, help="distinct user agents among them")
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="where the generated day is kept")
    return parser.parse_args()


def _user_agents(number: int) -> list[str]:
    """That many distinct user agents: of the demo shop, and of browsers, devices and crawlers as others collected them.

    If these are too few, each of them in as many versions as it takes.
    """
    agents = [agent for agent, *_ in (*demo_agents.PHONE_BROWSERS, *demo_agents.DESKTOPS, *demo_agents.TABLETS)]
    cases = [*uap_cases("browsers")["user_agent"], *uap_cases("devices")["user_agent"]]
    agents += [*cases[::3], *crawlers()[::10], *cases]
    distinct = list(dict.fromkeys(agents))
    versions = (f"{agent} Build/{version}" for version in count() for agent in distinct)
    return [*distinct, *islice(versions, max(0, number - len(distinct)))][:number]


# ---- what it costs -------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """Seconds of a build, and those of them that went into each step of telling devices, bots and channels.

    Each twice: as they passed, and of CPU, which a busy machine distorts least.
    """

    whole: tuple[float, float] = (0.0, 0.0)
    steps: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def enriching(self) -> tuple[float, float]:
        passed, of_cpu = zip(*self.steps.values(), strict=True)
        return sum(passed), sum(of_cpu)

    @property
    def share(self) -> float:
        """The part of the build's CPU time."""
        return self.enriching[1] / self.whole[1]


def _measured(warehouse: Warehouse, settings: Settings) -> Run:
    for table in DWH_TABLES:
        warehouse.command(f"TRUNCATE TABLE {table.full_name} SYNC")
    run = Run()
    rules = BuildRules.load(settings)
    with (
        _timed(run, "user agents", UserAgents, "of_scope"),
        _timed(run, "where they came from", app.frames.sessions, "arrivals"),
        _timed(run, "landing pages", app.frames.sessions, "with_landing_page"),
        _timed(run, "pace", app.frames.sessions, "with_pace"),
    ):
        started, cpu_started = time.perf_counter(), time.process_time()
        build_day(warehouse, DAY, rules)
        run.whole = (time.perf_counter() - started, time.process_time() - cpu_started)
    return run


@contextmanager
def _timed(run: Run, step: str, owner: Any, name: str) -> Iterator[None]:
    """Meanwhile the seconds of a function are counted as the step's."""
    function: Callable[..., Any] = getattr(owner, name)
    run.steps[step] = (0.0, 0.0)

    def timed(*arguments: Any, **named: Any) -> Any:
        started, cpu_started = time.perf_counter(), time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            passed, of_cpu = run.steps[step]
            run.steps[step] = (passed + time.perf_counter() - started, of_cpu + time.process_time() - cpu_started)

    with patch.object(owner, name, timed):
        yield


def _table(runs: dict[str, Run], *, calls: int, agents: int) -> Table:
    table = Table(title=f"One day of {calls:,} calls by {agents:,} user agents, one worker: seconds (CPU)")
    for heading in ("", *runs):
        table.add_column(heading, justify="right" if heading else "left")
    first = next(iter(runs.values()))
    for step in first.steps:
        table.add_row(step, *(_seconds(run.steps[step]) for run in runs.values()))
    table.add_row("together", *(_seconds(run.enriching) for run in runs.values()))
    table.add_row("the whole build", *(_seconds(run.whole) for run in runs.values()))
    return table


def _seconds(taken: tuple[float, float]) -> str:
    passed, of_cpu = taken
    return f"{passed:.2f} ({of_cpu:.2f})"


# ---- how right it is -----------------------------------------------------------------------------------------------


def _print_accuracy(rules: SessionRules) -> None:
    devices = read_devices(rules.devices)
    console.print(f"device class right: {devices}; of uap-core's devices those whose maker and model tell the class")
    console.print(f"crawlers found: {read_crawlers(rules.devices)}; of crawler-user-agents")
    browsers = read_browsers(rules.devices)
    console.print(f"browsers called bots: {1 - browsers.share:.2%} of {browsers.cases:,}; of uap-core's browsers")


if __name__ == "__main__":
    sys.exit(main())
