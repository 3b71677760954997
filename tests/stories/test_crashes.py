"""Kill -9 at any moment of an ingest, an etl or an hourly run: the next run brings every table to the same rows.

The same sequence of commands is run undisturbed once, and then with kills at random moments. `CARAT_TEST_SEED`
says when, `pytest -s` shows what they hit, `make test-long` kills ten times as often.
"""

import json
import os
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import cycle, groupby, islice
from math import ceil
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import pytest

from app.contracts import DATABASES, DWH_TABLES, Table
from app.core.errors import WarehouseGoneError
from app.core.service_url import ServiceUrl
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.warehouse import Warehouse
from app.warehouse.client import connect_server
from tests.support.effort import repeated
from tests.support.killing import (
    COMMAND_LIMIT_S,
    STAGED_STATES,
    DayState,
    Finished,
    Server,
    Worker,
    day_states,
    day_states_query,
    serving,
)

pytestmark = pytest.mark.slow

KILLS = repeated(4, 100)  # a fifth of them on a server, but at least two
SEED = int(os.environ.get("CARAT_TEST_SEED", random.randrange(10**6)))
SERVED_KILLS = max(KILLS // 5, 2)
EMBEDDED_KILLS = KILLS - SERVED_KILLS
SERVER_KILLS = SERVED_KILLS // 2
CLIENT_KILLS = SERVED_KILLS - SERVER_KILLS
KILLS_A_ROUND = 24  # then the sequence begins anew in another warehouse
SERVED_KILLS_A_ROUND = 8
LOCKED = 75
TOO_LATE = "the command had ended"
REBUILDS, READERS = 4, 2

DAYS = (date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3))
PRODUCTS = 60
PLAN = """
[items]
source = "items"
key = ["id"]
product = { product_id = "id", title = "title", section = "section", list_price = "price" }

[stock]
source = "stock"
key = ["product_id"]
product = { product_id = "product_id", stock_qty = "quantity" }
"""


# ---- a shop, its calls and the commands that bring them in --------------------------------------------------------


class Step(NamedTuple):
    """A command at an instant, and what happened in the shop's database before."""

    arguments: tuple[str, ...]
    now: datetime
    changes: tuple[str, ...] = ()
    weight: int = 1  # how many of a round's kills hit it


def moment(day: int, hour: int) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=UTC)


MAKE_SHOP = (
    "CREATE TABLE items (id INTEGER PRIMARY KEY, title TEXT, section TEXT, price TEXT)",
    "CREATE TABLE stock (product_id INTEGER PRIMARY KEY, quantity INTEGER)",
    (
        f"WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {PRODUCTS}) "
        "INSERT INTO items SELECT id, 'ring ' || id, 'section ' || id % 5, id || '.90' FROM n"
    ),
    "INSERT INTO stock SELECT id, id % 7 FROM items",
)
CHANGE_SHOP = (
    "UPDATE items SET price = id || '.50' WHERE id % 3 = 0",
    "UPDATE stock SET quantity = quantity + 1",
    "DELETE FROM items WHERE id % 10 = 0",
    "INSERT INTO items VALUES (100, 'a new ring', 'section 9', '10.00')",
)
# Each ingest after the first brings late calls of days that are built; the hour after the last one patches them all.
STEPS = (
    Step(("ingest", "first.ndjson"), moment(1, 12)),
    Step(("hourly",), moment(1, 12), MAKE_SHOP, weight=5),
    Step(("ingest", "second.ndjson"), moment(3, 0), weight=2),
    Step(("hourly",), moment(3, 0), CHANGE_SHOP, weight=6),
    Step(("ingest", "late.ndjson"), moment(4, 7)),
    Step(("hourly",), moment(4, 7), weight=6),
    Step(("etl", "--force"), moment(4, 8), weight=3),
)
LATE = 4  # where the steps begin that a server takes: the three days are built by then


def visits(seed: int, day: date, count: int, *, until_hour: int = 24) -> list[dict[str, Any]]:
    """The calls of so many visits that begin on a day, some shortly before its end; none at a full second."""
    chance = random.Random(f"{seed} {day}")
    calls = []
    for number in range(count):
        at = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=chance.random() * until_hour)
        at = at.replace(microsecond=500_000)
        if number % 10 == 0 and until_hour == 24:
            at = at.replace(hour=23, minute=chance.randrange(40, 60))
        visitor = f"visitor-{chance.randrange(80)}"
        for _ in range(chance.randrange(1, 12)):
            product = chance.randrange(1, PRODUCTS + 1)
            shown = [{"id": chance.randrange(1, PRODUCTS + 1)} for _ in range(6)]
            bought = {"product_id": product, "quantity": 2, "price": product}
            kinds: tuple[dict[str, Any], ...] = (
                {"endpoint": "/api/v1/catalog", "request": {"query": {"q": chance.choice(["", "ring"])}}, "response": {"total": 60, "items": shown}},
                {"endpoint": f"/api/v1/products/{product}", "response": {"price": product + 0.9}},
                {"method": "POST", "endpoint": "/api/v1/cart/items", "request": {"body": {"product_id": product, "quantity": 1}}},
                {"method": "POST", "endpoint": "/api/v1/orders", "response": {"order_id": f"{seed}-{number}", "total": product * 2, "currency": "EUR", "items": [bought]}},
            )  # fmt: skip
            calls.append(
                {"ts": at.isoformat(), "method": "GET", "visitor_id": visitor, "status": 200, **chance.choice(kinds)}
            )
            at += timedelta(seconds=chance.randrange(5, 900))
    return calls


def taken_id(number: int, *, minute: int) -> dict[str, Any]:
    """One of the records that share a call_id: the one of the earliest minute counts."""
    return {
        "call_id": f"00000000-0000-0000-0000-{number:012}",
        "ts": f"2026-03-01T10:{minute:02}:00.500Z",
        "method": "GET",
        "endpoint": f"/api/v1/other/{number}/{minute}",
        "visitor_id": f"visitor-{number}",
    }


def write_files(folder: Path) -> None:
    first = [*visits(1, DAYS[0], 120), *visits(1, DAYS[1], 20, until_hour=8)]
    second = [*visits(2, DAYS[1], 120), *visits(2, DAYS[2], 120, until_hour=21)]
    late = [*visits(3, DAYS[0], 8), *visits(3, DAYS[1], 8), *visits(3, DAYS[2], 8, until_hour=21)]
    files = {
        "first.ndjson": [*first, taken_id(1, minute=20), taken_id(2, minute=20)],
        "second.ndjson": [*second, *visits(4, DAYS[0], 8), *first[:50], taken_id(1, minute=10), taken_id(2, minute=30)],
        "late.ndjson": [*late, *second[:50], taken_id(2, minute=10)],
    }
    for name, calls in files.items():
        lines = [json.dumps(call) for call in calls]
        (folder / name).write_text("\n".join([*lines, "no record", '{"ts": null}', f'{{"ts": "{name}"}}']))


# ---- what is in the warehouse -------------------------------------------------------------------------------------

COMPARED = {
    **{table.full_name: f"SELECT * FROM {table.full_name}" for table in DWH_TABLES},
    "pd.api_calls": "SELECT * EXCEPT received_at FROM pd.api_calls",
    "history.items": "SELECT * EXCEPT snapshot_id REPLACE (toStartOfSecond(valid_from) AS valid_from) FROM history.items",
    "history.stock": "SELECT * EXCEPT snapshot_id REPLACE (toStartOfSecond(valid_from) AS valid_from) FROM history.stock",
    "etl.rejects": "SELECT position, reason, detail, hex(record) FROM etl.rejects WHERE reason != 'call_id taken'",
    "lost call ids": "SELECT DISTINCT JSONExtractString(record, 'endpoint') FROM etl.rejects WHERE reason = 'call_id taken'",
}
EVERY_ROW = " UNION ALL ".join(
    f"SELECT '{name}' AS name, toString(tuple(*)) AS row FROM ({sql})" for name, sql in COMPARED.items()
)
DAY_STATES = [day_states_query(table, table.full_name) for table in DWH_TABLES]
PROGRESS = (
    "SELECT toUInt32(count()) AS begun, toUInt32(countIf(is_done)) AS done, (SELECT toUInt32(count()) FROM pd.api_calls) AS calls "
    "FROM (SELECT max(state = 'published') AS is_done FROM etl.publications GROUP BY publication_id)"
)
TABLE_NAMES = f"SELECT database || '.' || name AS name FROM system.tables WHERE database IN {tuple(DATABASES)}"
Answer = tuple[int, int]  # rows, hash


@dataclass
class Shop:
    """A folder with the shop's database and files of calls, and a warehouse that commands are run on."""

    folder: Path
    warehouse: str
    lease_s: float = 3
    attempts: int = 0
    worker: Worker = field(init=False)
    spare: Worker = field(init=False)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, warehouse: str, **options: Any) -> Iterator["Shop"]:
        (folder / "plan.toml").write_text(PLAN)
        write_files(folder)
        shop = cls(folder, warehouse, **options)
        shop.worker, shop.spare = shop.new_worker().wait_until_ready(), shop.new_worker()
        try:
            yield shop
        finally:
            shop.worker.kill()
            shop.spare.kill()

    def new_worker(self) -> Worker:
        settings = {
            "CARAT_WAREHOUSE": self.warehouse,
            "CARAT_SHOP_DB": f"sqlite://{self.folder}/shop.sqlite",
            "CARAT_SNAPSHOTS": str(self.folder / "plan.toml"),
            "CARAT_SCRATCH": str(self.folder / "scratch"),
            "CARAT_PATIENCE_S": "20",
            "TEST_LEASE_S": str(self.lease_s),
        }
        return Worker(self.folder, settings)

    def kill(self) -> None:
        """Kill the worker, whatever it is doing; another one, that was started before, takes its place."""
        self.worker.kill()
        self.worker, self.spare = self.spare.wait_until_ready(), self.new_worker()

    def keep(self) -> None:
        """Remember the warehouse as it is, where it is a folder of this process's own."""
        if self.warehouse.startswith("chdb://") and (self.folder / "warehouse").exists():
            shutil.rmtree(self.folder / "kept", ignore_errors=True)
            shutil.copytree(self.folder / "warehouse", self.folder / "kept", symlinks=True)

    def go_back(self) -> bool:
        """Make the warehouse what was kept, so that there is work again that can be killed; false where none was."""
        if (self.folder / "kept").exists():
            shutil.rmtree(self.folder / "warehouse")
            shutil.copytree(self.folder / "kept", self.folder / "warehouse", symlinks=True)
        return (self.folder / "kept").exists()

    def change(self, step: Step) -> None:
        """What happens in the shop's database before the step."""
        with closing(sqlite3.connect(self.folder / "shop.sqlite")) as database, database:
            for statement in step.changes:
                database.execute(statement)

    def send(self, step: Step) -> None:
        """Begin the step's command, a thousandth of a second later each time: calls come at half seconds."""
        self.attempts += 1
        assert self.attempts < 500
        self.worker.send(*step.arguments, now=step.now + timedelta(milliseconds=self.attempts))

    def run(self, step: Step) -> Finished:
        """The step's command, to its end."""
        self.send(step)
        finished = self.worker.finished()
        assert finished
        assert "Traceback" not in finished.err
        return finished

    def command(self, *arguments: str) -> Finished:
        return self.worker.run(*arguments, now=STEPS[-1].now)

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query, by a command that repairs nothing."""
        finished = self.command("query", sql, "--format", "ndjson")
        assert finished.code == 0, finished.err
        return [json.loads(line) for line in finished.out.splitlines()]

    def rows(self) -> dict[str, list[str]]:
        """Every row of every table that is compared, as text."""
        found: dict[str, list[str]] = {name: [] for name in COMPARED}
        for row in self.query(EVERY_ROW):
            found[row["name"]].append(row["row"])
        return {name: sorted(rows) for name, rows in found.items()}

    def tables(self) -> set[str]:
        """The tables there are, but for the one that says who writes."""
        return {row["name"] for row in self.query(TABLE_NAMES) if "writer_lease" not in row["name"]}

    def progress(self) -> dict[str, int]:
        """How many calls are stored, and how many publications are begun and done; nothing where nothing is made."""
        finished = self.command("query", PROGRESS, "--format", "ndjson")
        assert finished.code == 0 or "Run `carat migrate` first" in finished.err, finished.err
        return json.loads(finished.out) if finished.code == 0 else dict.fromkeys(("begun", "done", "calls"), 0)


# ---- the undisturbed run ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Undisturbed:
    """What a run without a kill makes: the rows in the end, the states that its days had, what became of each step.

    `late`: a folder with the warehouse and the shop's database as they are before the late calls come.
    """

    rows: dict[str, list[str]]
    tables: set[str]
    day_states: set[DayState]
    steps: list[Finished]
    late: Path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Undisturbed:
    folder, late = tmp_path_factory.mktemp("undisturbed"), tmp_path_factory.mktemp("late")
    states: set[DayState] = set()
    steps = []
    with Shop.opened(folder, f"chdb://{folder}/warehouse") as shop:
        for number, step in enumerate(STEPS):
            if number == LATE:
                shutil.copytree(folder / "warehouse", late / "warehouse", symlinks=True)
                shutil.copy(folder / "shop.sqlite", late)
            shop.change(step)
            finished = shop.run(step)
            assert finished.code == 0, finished.err
            steps.append(finished)
            if step.arguments[0] == "hourly":
                states |= day_states(shop.query(" UNION ALL ".join(DAY_STATES)))
        assert {state[1] for state in states} >= {str(day) for day in DAYS}
        assert len(states) > 2 * len(
            day_states(shop.query(" UNION ALL ".join(DAY_STATES)))
        )  # late calls changed every day
        return Undisturbed(shop.rows(), shop.tables(), states, steps, late)


# ---- kills --------------------------------------------------------------------------------------------------------


class Kill(NamedTuple):
    """So many seconds since a command began, or since it began to publish."""

    delay: float
    since: str


NEVER = Kill(COMMAND_LIMIT_S, "begun")


@dataclass
class Kills:
    """So many kills, spread over some steps and, within each, over the time that it takes undisturbed.

    Of a step that publishes, every other kill is spread over the time from where that begins, most of them soon after.
    """

    seed: str
    steps: Sequence[Step]
    undisturbed: Sequence[Finished]
    number: int
    log: list[str] = field(default_factory=list)
    hits: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        weighted = [number for number, step in enumerate(self.steps) for _ in range(step.weight)]
        chance.shuffle(weighted)
        of_steps = Counter(islice(cycle(weighted), self.number))
        self.of_steps = [
            # The later ones last: what was published before a kill is not published again.
            [
                Kill(finished.publishing_s * ((part + chance.random()) / kills) ** 2, "publishing")
                if part % 2 and finished.publishing_s
                else Kill(finished.seconds * (part + chance.random()) / kills, "begun")
                for part in range(kills)
            ]
            for finished, kills in ((finished, of_steps[number]) for number, finished in enumerate(self.undisturbed))
        ]

    def note(self, step: Step, kill: Kill, hit: str) -> None:
        self.hits[hit] += 1
        self.log.append(f"{' '.join(step.arguments)} {kill.delay:.2f} s since {kill.since}: {hit}")

    @property
    def told(self) -> str:
        """What is needed to see what happened, and to let it happen again."""
        return f"CARAT_TEST_SEED={SEED} ({self.seed}): " + "; ".join(self.log)


def hit_of(step: Step, before: dict[str, int], after: dict[str, int]) -> str:
    """What a kill hit, by what is stored and published after it."""
    if step.arguments[0] == "ingest":
        return "while calls were stored" if after["calls"] > before["calls"] else "before calls were stored"
    if after["begun"] > after["done"]:
        return "while a day was published"
    return "after a day was published" if after["done"] > before["done"] else "before a day was published"


def run_and_kill(shop: Shop, kills: Kills) -> None:
    """The steps, each killed some times and then run to its end."""
    before = shop.progress()
    for step, kills_of_step in zip(kills.steps, kills.of_steps, strict=True):
        shop.change(step)
        shop.keep()
        for planned in kills_of_step:
            kill = planned
            while (finished := run_when_free(shop, step, kill)) is not None:
                assert finished.code == 0, finished.err + kills.told
                kills.note(step, kill, TOO_LATE)
                if not shop.go_back():
                    break
                before, kill = shop.progress(), kill._replace(delay=kill.delay / 2)
            else:
                shop.kill()
                after = shop.progress()
                kills.note(step, kill, hit_of(step, before, after))
                before = after
        finished = run_when_free(shop, step)
        assert finished
        assert (finished.code, finished.error_lines) == (0, []), kills.told
        before = shop.progress()


def run_when_free(shop: Shop, step: Step, until: Kill = NEVER) -> Finished | None:
    """What became of the step's command once no dead process holds the server any more; None if it is running still."""
    while True:
        shop.send(step)
        finished = shop.worker.finished(until.delay, since=until.since)
        if finished is None or finished.code != LOCKED:
            return finished
        assert len(finished.error_lines) == 1
        time.sleep(0.2)


def assert_is_as_undisturbed(shop: Shop, undisturbed: Undisturbed, kills: Kills) -> None:
    print(kills.told, dict(kills.hits), sep="\n")  # noqa: T201  shown by pytest -s
    found = shop.rows()
    assert [name for name in COMPARED if found[name] != undisturbed.rows[name]] == [], kills.told
    assert shop.tables() == undisturbed.tables, kills.told
    progress = shop.progress()
    assert progress["begun"] == progress["done"] > 0, kills.told
    assert (finished := shop.command("verify")).code == 0, finished.err + kills.told
    assert json.loads(shop.command("plan", "--json").out) == [], kills.told


@pytest.mark.parametrize("number", range(ceil(EMBEDDED_KILLS / KILLS_A_ROUND)))
def test_commands_that_are_killed_and_run_again_make_the_tables_of_an_undisturbed_run(undisturbed, tmp_path, number):
    left = min(EMBEDDED_KILLS - number * KILLS_A_ROUND, KILLS_A_ROUND)
    kills = Kills(f"{SEED}, embedded {number}", STEPS, undisturbed.steps, left)
    with Shop.opened(tmp_path, f"chdb://{tmp_path}/warehouse") as shop:
        run_and_kill(shop, kills)
        assert_is_as_undisturbed(shop, undisturbed, kills)
    assert kills.hits.total() - kills.hits[TOO_LATE] >= left - 1, kills.told  # the first command's alone may miss


# ---- a server that outlives its clients, and one that does not -----------------------------------------------------


class Polls(Thread):
    """Somebody who reads all the time, with a connection of their own."""

    def __init__(self, url: str) -> None:
        super().__init__(name="reader", daemon=True)
        self._url = url
        self._ended = Event()
        self.number = 0
        self.seen: set[DayState] = set()
        self.error: BaseException | None = None

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                with connect_server(ServiceUrl.parse(self._url, "clickhouse")) as warehouse:
                    while not self._ended.wait(0.03):
                        sql = DAY_STATES[self.number % len(DAY_STATES)]
                        self.seen |= day_states(warehouse.query(sql).iter_rows(named=True))
                        self.number += 1
            except WarehouseGoneError:
                self._ended.wait(0.1)
            except BaseException as error:  # noqa: BLE001  told by the thread that waits for this one
                self.error = error
                return

    @contextmanager
    def polling(self) -> Iterator["Polls"]:
        self.start()
        try:
            yield self
        finally:
            self._ended.set()
            self.join()
        assert self.error is None


def staged_states(folder: Path) -> set[DayState]:
    """What was complete when a worker began to publish it.

    A kill can leave a day built while another that has the first call of one of its orders is not: whole, but not as
    in the undisturbed run, until the next run builds it again.
    """
    lines = (folder / STAGED_STATES).read_text().splitlines()
    return {tuple(state) for line in lines for state in json.loads(line)}


@contextmanager
def served_shop(undisturbed: Undisturbed, folder: Path, **options: Any) -> Iterator[tuple[Server, Shop]]:
    """A shop with days that are built, on a server, before late calls come."""
    shutil.copytree(undisturbed.late, folder, symlinks=True, dirs_exist_ok=True)
    with serving(folder / "warehouse") as server, Shop.opened(folder, server.url, **options) as shop:
        yield server, shop


@pytest.mark.parametrize("number", range(ceil(CLIENT_KILLS / SERVED_KILLS_A_ROUND)))
def test_a_server_shows_whole_days_while_its_clients_are_killed_and_the_next_ones_finish_their_work(
    undisturbed, tmp_path, number
):
    left = min(CLIENT_KILLS - number * SERVED_KILLS_A_ROUND, SERVED_KILLS_A_ROUND)
    kills = Kills(f"{SEED}, client {number}", STEPS[LATE:], undisturbed.steps[LATE:], left)
    with served_shop(undisturbed, tmp_path) as (server, shop), Polls(server.url).polling() as polls:
        run_and_kill(shop, kills)
        assert_is_as_undisturbed(shop, undisturbed, kills)
    assert polls.seen <= undisturbed.day_states | staged_states(tmp_path), kills.told
    assert polls.number >= 20


def run_and_kill_server(server: Server, shop: Shop, kills: Kills) -> None:
    """The steps; during each the server is killed some times, and started again at once."""
    before = shop.progress()
    for step, kills_of_step in zip(kills.steps, kills.of_steps, strict=True):
        shop.change(step)
        for kill in kills_of_step:
            finished = run_when_free(shop, step, kill)
            if finished is None:
                server.kill()
                server.start()
                finished = shop.worker.finished()
                assert finished, kills.told
                after = shop.progress()
                what = "the client gave up" if finished.code else "the client went on"
                kills.note(step, kill, f"{hit_of(step, before, after)}, {what}")
                before = after
            else:
                kills.note(step, kill, TOO_LATE)
            assert finished.code in {0, 1, LOCKED}, kills.told
            assert len(finished.error_lines) == (finished.code != 0), finished.err + kills.told
        finished = run_when_free(shop, step)
        assert finished
        assert (finished.code, finished.error_lines) == (0, []), kills.told
        before = shop.progress()


@pytest.mark.parametrize("number", range(ceil(SERVER_KILLS / SERVED_KILLS_A_ROUND)))
def test_a_server_that_is_killed_costs_a_retry_or_one_line_and_the_next_run_makes_the_same_tables(
    undisturbed, tmp_path, number
):
    left = min(SERVER_KILLS - number * SERVED_KILLS_A_ROUND, SERVED_KILLS_A_ROUND)
    kills = Kills(f"{SEED}, server {number}", STEPS[LATE:], undisturbed.steps[LATE:], left)
    with served_shop(undisturbed, tmp_path, lease_s=6) as (server, shop), Polls(server.url).polling() as polls:
        run_and_kill_server(server, shop, kills)
        assert_is_as_undisturbed(shop, undisturbed, kills)
    assert polls.seen <= undisturbed.day_states | staged_states(tmp_path), kills.told
    assert polls.number >= 20


# ---- readers while days are built ---------------------------------------------------------------------------------


class DayReader(Thread):
    """Somebody who asks one table after the other for a day, all the time, and remembers every answer."""

    def __init__(self, warehouse: Warehouse, day: date) -> None:
        super().__init__(name="reader", daemon=True)
        self._warehouse = warehouse
        self._day = day
        self._ended = Event()
        self.answers: dict[str, list[Answer]] = {table.name: [] for table in DWH_TABLES}
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with self._warehouse.new_connection() as own:
                while not self._ended.wait(0.001):
                    for table in DWH_TABLES:
                        self.answers[table.name].append(answer(own, table, self._day))
        except BaseException as error:  # noqa: BLE001  told by the thread that waits for this one
            self.error = error

    def end(self) -> None:
        self._ended.set()
        self.join()
        assert self.error is None


def answer(warehouse: Warehouse, table: Table, day: date) -> Answer:
    """How many rows a table has of a day, and a hash of them."""
    return warehouse.query(
        f"SELECT count(), sum(cityHash64(toString(tuple(*)))) FROM {table.full_name} WHERE {table.day} = {{day:Date}}",
        {"day": day},
    ).row(0)


def test_readers_see_a_day_as_it_was_or_as_it_is_while_it_is_built_in_full_or_in_part(
    warehouse, settings, ingest_records
):
    day = DAYS[1]
    for number, around in enumerate(DAYS):
        ingest_records(*visits(100 + number, around, 80 if around == day else 10))
    build_stale(warehouse, settings, jobs=JOBS, span=(day, day))
    polls = 0
    for number in range(REBUILDS):
        in_full = number % 2 == 1
        ingest_records(*visits(200 + number, day, 4))
        old = {table.name: answer(warehouse, table, day) for table in DWH_TABLES}
        readers = [DayReader(warehouse, day) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        try:
            (built,) = build_stale(warehouse, settings, jobs=JOBS, span=(day, day), force=in_full).require_done().built
        finally:
            time.sleep(0.05)
            for reader in readers:
                reader.end()
        new = {table.name: answer(warehouse, table, day) for table in DWH_TABLES}
        assert new["events"] != old["events"]
        assert in_full == (built.calls > new["events"][0] // 2)
        for reader in readers:
            for name, answers in reader.answers.items():
                polls += len(answers)
                assert [found for found, _ in groupby(answers)] in ([old[name], new[name]], [new[name]]), name
    assert polls >= REBUILDS * READERS * 20
    print(f"{polls} polls in {REBUILDS} rebuilds")  # noqa: T201  shown by pytest -s
