"""Whatever breaks on the way: one clear line, the right exit code, and tables that are the old ones or the new ones."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

import app.jobs.build.day
import app.main
from app.contracts import DATABASES, DWH_TABLES, all_tables
from app.core.errors import CaratError, SettingsError
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS, build_day
from app.jobs.build.rules import BuildRules
from app.jobs.ingest import ingest_paths
from app.rules.endpoint_map import load_endpoint_map
from app.rules.snapshot_plan import SnapshotPlan
from app.settings import SHIPPED_TRACKING, Settings, load_settings
from app.warehouse import Staging, Warehouse, open_warehouse, publish, recover
from app.warehouse.dwh_views import dwh_views
from app.warehouse.opening import prepare_warehouse
from app.warehouse.shop_views import SHOP_VIEWS
from tests.support.clickhouse_http import running_server
from tests.support.effort import repeated
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.slow

SECRET = "geheim"
DAYS = (date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3))
LATE_DAY = DAYS[1]
KILLS = repeated(3, 20)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
# The command line, once a line on stdin says go: what is imported before costs no time between start and kill.
GATED = "import sys; from app.main import main; sys.stdin.readline(); main()"
Tables = dict[str, pl.DataFrame]


class Finished(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        """What a person reads: stderr without the JSON lines of the log."""
        return [line for line in self.err.splitlines() if not line.startswith("{")]


@dataclass
class Shop:
    """A folder with an embedded warehouse in it, used by commands in processes of their own and by this one."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def warehouse_folder(self) -> Path:
        return self.folder / "warehouse"

    @property
    def settings(self) -> Settings:
        return Settings(_env_file=None, warehouse=f"chdb://{self.warehouse_folder}")

    @contextmanager
    def opened(self) -> Iterator[Warehouse]:
        with open_warehouse(self.settings, purpose="a test", prepare=False) as warehouse:
            yield warehouse

    def start(self, *arguments: str, code: str | None = None, **settings: str) -> subprocess.Popen[str]:
        """The command line, or Python code in its place, in a process of its own."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CARAT_") or name == "CARAT_MAX_AGE_DAYS"
        }
        environment |= {
            "CARAT_WAREHOUSE": f"chdb://{self.warehouse_folder}",
            "CARAT_LOG": str(self.folder / "carat.log"),
            "PYTHONPATH": str(CHECKOUT),
        }
        command = [sys.executable, *(("-c", code) if code else ("-m", "app")), *arguments]
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            command, cwd=self.folder, env=environment | self.environment | settings, text=True, **streams
        )

    def carat(self, *arguments: str, **settings: str) -> Finished:
        return finish(self.start(*arguments, **settings))

    def copy(self, folder: Path) -> "Shop":
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.warehouse_folder, folder / "warehouse", symlinks=True)
        return Shop(folder)


def finish(process: subprocess.Popen[str], *, stdin: str = "", timeout: float = 60) -> Finished:
    """What became of a process; a bare traceback on stderr is never right."""
    out, err = process.communicate(stdin, timeout=timeout)
    assert "Traceback" not in err
    return Finished(process.returncode, out, err)


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path)


# ---- a warehouse with three days in it, and what late calls make of it --------------------------------------------


def shop_calls(count: int, *, days: tuple[date, ...], seed: int) -> list[dict[str, Any]]:
    """Believable enough calls; some share a call_id with an earlier or a later record."""
    chance = random.Random(seed)
    calls = []
    for number in range(count):
        product = chance.randrange(300)
        kinds: tuple[dict[str, Any], ...] = (
            {
                "method": "GET", "endpoint": "/api/v1/catalog", "request": {"query": {"q": chance.choice(["", "ring", "silver"])}},
                "response": {"total": 300, "items": [{"id": chance.randrange(300), "title": chance.randbytes(12).hex()} for _ in range(8)]},
            },
            {"method": "GET", "endpoint": f"/api/v1/products/{product}", "response": {"price": product + 0.9}},
            {"method": "POST", "endpoint": "/api/v1/cart/items", "request": {"body": {"product_id": product, "quantity": 1}}},
            {
                "method": "POST", "endpoint": "/api/v1/orders",
                "response": {"order_id": f"{seed}-{number}", "total": product, "currency": "EUR", "items": [{"product_id": product, "quantity": 1, "price": product}]},
            },
        )  # fmt: skip
        moment = f"{days[number % len(days)]}T{chance.randrange(24):02}:{chance.randrange(60):02}:{chance.randrange(60):02}.{chance.randrange(1000):03}Z"
        calls.append(
            {
                "ts": moment,
                "visitor_id": f"visitor-{chance.randrange(count // 12)}",
                "status": 200,
                **chance.choice(kinds),
            }
        )
        if number % 100 == 0:
            calls[-1]["call_id"] = str(uuid.UUID(int=number // 300))
    return calls


def write_lines(path: Path, calls: list[dict[str, Any]], *rest: bytes) -> Path:
    path.write_bytes(b"\n".join([*(json.dumps(call).encode() for call in calls), *rest]))
    return path


def build_all(shop: Shop, *, force: bool = False) -> None:
    with shop.opened() as warehouse:
        prepare_warehouse(warehouse, shop.settings)
        build_stale(warehouse, shop.settings, span=(None, None), jobs=JOBS, force=force)


def published(shop: Shop) -> Tables:
    """Every row of every table of dwh."""
    with shop.opened() as warehouse:
        return published_in(warehouse)


def published_in(warehouse: Warehouse) -> Tables:
    return {table.name: warehouse.query(f"SELECT * FROM {table.full_name} ORDER BY ALL") for table in DWH_TABLES}


def of_day(tables: Tables, day: date) -> Tables:
    return {
        name: frame.filter(pl.col(next(t.day for t in DWH_TABLES if t.name == name)) == day)
        for name, frame in tables.items()
    }


def are_equal(tables: Tables, others: Tables) -> bool:
    return tables.keys() == others.keys() and all(frame.equals(others[name]) for name, frame in tables.items())


def raw(warehouse: Warehouse) -> Tables:
    """What ingest stored and rejected, without the times at which it did; a lost call_id by the call it was of."""
    lost = "SELECT DISTINCT JSONExtractString(record, 'endpoint') AS endpoint, reason FROM etl.rejects WHERE reason = 'call_id taken' ORDER BY ALL"
    return {
        "api_calls": warehouse.query("SELECT * EXCEPT received_at FROM pd.api_calls ORDER BY ALL"),
        "rejects": warehouse.query(
            "SELECT position, reason, detail, hex(record) FROM etl.rejects WHERE reason != 'call_id taken' ORDER BY ALL"
        ),
        "lost ids": warehouse.query(lost),
    }


def unexpected_tables(warehouse: Warehouse) -> set[str]:
    """Tables that no contract knows: left over from staging, or from replacing a table or view."""
    shown = {view.full_name for view in dwh_views(Settings(_env_file=None))}
    known = {table.full_name for table in all_tables()} | shown | set(SHOP_VIEWS) | {"etl.incoming_ids"}
    sql = "SELECT database || '.' || name FROM system.tables WHERE database IN {databases:Array(String)}"
    return set(warehouse.query(sql, {"databases": list(DATABASES)}).to_series()) - known


@dataclass(frozen=True)
class History:
    """One shop in three states, and its tables before and after.

    `built`: all is published. `stale`: late calls of the middle day are not built. `staged`: that day is built, and
    what is staged waits to be published, which takes so many `statements`.
    """

    built: Shop
    stale: Shop
    staged: Shop
    old: Tables
    new: Tables
    statements: int


@pytest.fixture(scope="module")
def history(tmp_path_factory) -> History:
    folder = tmp_path_factory.mktemp("history")
    built = Shop(folder)
    with built.opened() as warehouse:
        prepare_warehouse(warehouse, built.settings)
        ingest_paths(
            warehouse, built.settings, [str(write_lines(folder / "calls.ndjson", shop_calls(2000, days=DAYS, seed=1)))]
        )
    build_all(built)
    stale = built.copy(folder / "stale")
    with stale.opened() as warehouse:
        ingest_paths(
            warehouse,
            stale.settings,
            [str(write_lines(folder / "late.ndjson", shop_calls(400, days=(LATE_DAY,), seed=2)))],
        )
    after = stale.copy(folder / "after")
    build_all(after)
    staged = stale.copy(folder / "staged")
    with staged.opened() as warehouse, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Staging, "publish", lambda *_, **__: None)
        build_day(warehouse, LATE_DAY, replace(BuildRules.load(staged.settings), plan=SnapshotPlan(())))
    history = History(
        built, stale, staged, published(built), published(after), count_statements(staged.copy(folder / "counted"))
    )
    assert not are_equal(of_day(history.old, LATE_DAY), of_day(history.new, LATE_DAY))
    return history


def count_statements(staged: Shop) -> int:
    """How many statements that write publishing takes."""
    counted = [0]

    def counting(statement: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any, **options: Any) -> None:
            counted[0] += 1
            statement(*arguments, **options)

        return run

    with staged.opened() as warehouse, pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("command", "insert"):
            monkeypatch.setattr(Warehouse, name, counting(getattr(Warehouse, name)))
        publish(warehouse, LATE_DAY, JOBS, build_id=staged_build(warehouse), now=NOW)
    return counted[0]


def staged_build(warehouse: Warehouse) -> str:
    """The build whose staged tables there are."""
    return warehouse.scalar("SELECT DISTINCT splitByChar('_', name)[-1] FROM system.tables WHERE name LIKE 'staged%'")


# ---- somebody else holds the warehouse ---------------------------------------------------------------------------


def test_a_second_process_is_told_who_holds_the_warehouse_and_the_first_goes_on(shop):
    first = shop.start("ingest", "-", "--json")
    wait_for_lock(shop, first)
    second = shop.carat("etl")
    assert second.code == 75
    (told,) = second.error_lines
    assert re.search(
        rf"`carat ingest` \(process {first.pid}\) since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00; try again later$", told
    )
    assert str(shop.warehouse_folder) in told
    finished = finish(first, stdin=json.dumps(shop_calls(12, days=DAYS, seed=1)[1]))
    assert (finished.code, json.loads(finished.out)["stored"]) == (0, 1)


def wait_for_lock(shop: Shop, process: subprocess.Popen[str]) -> None:
    """Return when the process holds the warehouse, or has ended."""
    lock = shop.warehouse_folder / "carat.lock"
    while process.poll() is None:
        if lock.exists() and f'"pid": {process.pid},' in lock.read_text():
            return
        time.sleep(0.002)


# ---- wrong endpoint maps -----------------------------------------------------------------------------------------

SHIPPED_MAP = SHIPPED_TRACKING.read_text(encoding="utf-8")
A_CALL = '[[call]]\nevent = "cart_add"\nmethod = "POST"\npath = "/items"\n'
WRONG_MAPS = {
    "unknown event": (SHIPPED_MAP, 'event = "checkout"', 'event = "chekout"', "event: 'chekout' is not valid. Did you mean checkout?"),
    "event not quoted": (SHIPPED_MAP, 'event = "checkout"', "event = 17", "event: 17 is not valid. "),
    "unknown field": (SHIPPED_MAP, "fields.quantity", "fields.quantty", "fields.quantty: unknown field. Did you mean quantity?"),
    "unknown key of a call": (A_CALL + 'fields.price = "response.price"', "method", "methd", "methd: unknown key. Did you mean method?"),
    "path of a call": (SHIPPED_MAP, 'path = "/api/v1/checkout"', 'path = "api/v1/checkout"', "path: must be text that begins with /"),
    "query in a path": (SHIPPED_MAP, 'path = "/api/v1/checkout"', 'path = "/api/v1/checkout?step=1"', "path: must not hold a query string"),
    "open placeholder": (SHIPPED_MAP, '"/api/v1/favorites/{product_id}"', '"/api/v1/favorites/{product_id"', "path: stray '{'"),
    "path of a field": (SHIPPED_MAP, '"request.body.quantity"', '"body.quantity"', "fields.quantity: 'body.quantity': 'body' is not part of a call"),
    "path with an empty key": (SHIPPED_MAP, '"request.body.quantity"', '"request.body..quantity"', "fields.quantity: 'request.body..quantity' is not a valid JMESPath expression"),
    "empty path of a field": (SHIPPED_MAP, '"request.body.quantity"', '""', "fields.quantity: must be an expression"),
    "open bracket": (SHIPPED_MAP, '"response.items[].id"', '"response.items[.id"', "fields.shown_products: 'response.items[.id' is not a valid JMESPath expression"),
    "unknown function": (SHIPPED_MAP, '"response.total"\n', '"sume(response.totals[].n)"\n', "fields.results_total: 'sume(response.totals[].n)' names no function of JMESPath: sume. Did you mean sum?"),
    "cents of a text": (SHIPPED_MAP, '"request.query.sort"', '{ path = "request.query.sort", minor_units = 2 }', "fields.sort.minor_units: minor_units is for money"),
    "two values": (SHIPPED_MAP, '"request.query.sort"', '{ path = "request.query.sort", const = "x" }', "fields.sort.const: path and const are two values"),
    "fields no table": (A_CALL + 'fields = "response.price"', "", "", "fields: must be a table"),
    "TOML syntax": (SHIPPED_MAP, 'event = "checkout"', "event = checkout", "not valid TOML: Invalid value"),
    "a call twice": (SHIPPED_MAP + A_CALL.replace("/items", "/api/v1/cart/items"), "", "", "path: call number "),
}  # fmt: skip


@pytest.mark.parametrize(("text", "right", "wrong", "problem"), WRONG_MAPS.values(), ids=WRONG_MAPS)
def test_a_mistake_in_the_endpoint_map_is_named_with_file_line_and_key(tmp_path, text, right, wrong, problem):
    assert right in text
    path = tmp_path / "tracking.toml"
    path.write_text(text.replace(right, wrong, 1) if right else text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_endpoint_map(path)
    said = str(caught.value)
    assert problem in said
    assert "\n" not in said
    line = re.match(rf"{re.escape(str(path))}:(\d+): ", said)
    assert line
    key = "event" if "TOML" in problem else re.match(r"fields(?:\.[a-z_]+)?|[a-z_]+", problem)[0]
    assert path.read_text(encoding="utf-8").splitlines()[int(line[1]) - 1].startswith(key)


@pytest.mark.parametrize(
    "text",
    ["", "call = 3", 'call = ["checkout"]', '[[calls]]\nevent = "checkout"', "[call]\n"],
    ids=["empty", "number", "list of text", "other name", "table"],
)
def test_an_endpoint_map_of_another_shape_is_refused_by_name(tmp_path, text):
    path = tmp_path / "tracking.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=re.escape(str(path))):
        load_endpoint_map(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "no text"])
def test_an_endpoint_map_that_cannot_be_read_is_named_with_its_setting(tmp_path, content):
    path = tmp_path / "tracking.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"CARAT_TRACKING: cannot read {re.escape(str(path))}"):
        load_endpoint_map(path)


def test_the_command_with_a_wrong_endpoint_map_exits_2_with_one_line(shop):
    path = shop.folder / "tracking.toml"
    path.write_text(SHIPPED_MAP.replace('event = "checkout"', 'event = "chekout"'))
    finished = shop.carat("etl", CARAT_TRACKING=str(path))
    assert finished.code == 2
    (told,) = finished.error_lines
    assert re.match(
        rf"carat: {re.escape(str(path))}:\d+: call\.event: 'chekout' is not valid\. Did you mean checkout\?", told
    )


# ---- wrong settings ----------------------------------------------------------------------------------------------

WRONG_SETTINGS = [
    *(("CARAT_TIMEZONE", value) for value in ("Europe/Berln", "", "UTC+1", "../UTC", "Europe")),
    *(("CARAT_SESSION_TIMEOUT", value) for value in ("half an hour", "0", "-30", "13h", "30 days", "9" * 400)),
    *(("CARAT_WAREHOUSE", value) for value in ("", "warehouse", f"postgres://carat:{SECRET}@db/", "chdb://", "chdb:///dev/null/x")),
    ("CARAT_WAREHOUSE", f"clickhouse://carat:{SECRET}@db:http/"),
    ("CARAT_WAREHOUSE", f"clickhouse://carat:{SECRET}@db:99999/"),
    ("CARAT_WAREHOUSE", f"clickhouse://carat:{SECRET}/2@db:8123/"),
    ("CARAT_WAREHOUSE", f"clickhouse://carat:{SECRET}\u2100@db:8123/"),
    ("CARAT_WAREHOUSE", f"clickhouse://carat:[{SECRET}@db:8123/"),
    ("CARAT_MAX_RECORD_BYTES", "1 MB"),
    ("CARAT_WAREHOUSE_FILE", "/does/not/exist"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG_SETTINGS)
def test_a_wrong_setting_is_named_in_one_line_that_shows_no_secret(monkeypatch, tmp_path, name, value):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught, open_warehouse(load_settings(), purpose="a test"):
        pass
    told = str(caught.value)
    assert told.startswith(f"{name}: ")
    assert "\n" not in told
    assert SECRET not in told


@pytest.mark.parametrize(("name", "value"), [("CARAT_TIMEZONE", "Europe/Berln"), ("CARAT_WAREHOUSE", "warehouse")])
def test_a_wrong_setting_is_told_in_words_of_carat_not_of_a_library(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(_env_file=None)
    assert "Value error" not in str(caught.value)


def test_the_command_with_wrong_settings_exits_2_and_names_each_of_them(shop):
    finished = shop.carat(
        "etl",
        CARAT_TIMEZONE="Europe/Berln",
        CARAT_SESSION_TIMEOUT="0",
        CARAT_WAREHOUSE=f"clickhous://carat:{SECRET}@db",
    )
    assert finished.code == 2
    (told,) = finished.error_lines
    assert all(name in told for name in ("CARAT_TIMEZONE", "CARAT_SESSION_TIMEOUT", "CARAT_WAREHOUSE"))
    assert SECRET not in finished.out + finished.err + (shop.folder / "carat.log").read_text()


# ---- a server that is not there, or does not let us in -----------------------------------------------------------


def test_an_unreachable_server_ends_the_command_with_one_line_without_the_password(shop):
    finished = shop.carat("etl", CARAT_WAREHOUSE=f"clickhouse://carat:{SECRET}@127.0.0.1:9/")
    assert finished.code == 1
    (told,) = finished.error_lines
    assert "127.0.0.1:9" in told
    assert told.endswith("Check the address in CARAT_WAREHOUSE, and that the server runs")
    assert SECRET not in finished.out + finished.err + (shop.folder / "carat.log").read_text()


@pytest.mark.parametrize(
    "password", [SECRET, f"a@{SECRET}", f"a:{SECRET}", f"a%40{SECRET}", f"a?{SECRET}", f"a#{SECRET}", f"a b{SECRET}"]
)
def test_a_password_of_any_characters_is_never_part_of_an_error(password):
    url = f"clickhouse://carat:{password}@127.0.0.1:9/"
    with (
        pytest.raises(CaratError) as caught,
        open_warehouse(load_settings(_env_file=None, warehouse=url), purpose="a test"),
    ):
        pass
    assert SECRET not in str(caught.value)


def test_a_wrong_password_ends_with_exit_1_and_how_to_mend_it(shop, tmp_path):
    with running_server(tmp_path / "engine", password="right") as server:
        finished = shop.carat("etl", CARAT_WAREHOUSE=server.url.replace("right", SECRET))
    assert finished.code == 1
    (told,) = finished.error_lines
    assert told.endswith("Check the user and password in CARAT_WAREHOUSE")
    assert SECRET not in finished.out + finished.err + (shop.folder / "carat.log").read_text()


# ---- what nobody foresaw -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("first line\nsecond line"),
        OSError("no errno"),
        KeyError("x"),
        MemoryError(),
        RecursionError("deep"),
    ],
    ids=repr,
)
def test_an_unexpected_error_is_one_line_on_stderr_and_a_whole_story_in_the_log(monkeypatch, tmp_path, capsys, error):
    def fail() -> None:
        raise error

    monkeypatch.setattr(app.main, "load_settings", fail)
    monkeypatch.setattr(sys, "argv", ["carat", "migrate"])
    monkeypatch.setenv("CARAT_LOG", str(tmp_path / "carat.log"))
    with pytest.raises(SystemExit) as ended:
        app.main.main()
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert len(told) == 1
    assert told[0].startswith("carat: ")
    assert str(error).partition("\n")[0] in told[0]
    assert "None" not in told[0]
    assert "Traceback" in json.loads((tmp_path / "carat.log").read_text())["traceback"]


# ---- a full disk -------------------------------------------------------------------------------------------------


@dataclass
class SmallDisk:
    """A file system of a chosen size."""

    folder: Path

    def leave_free(self, free_bytes: int) -> None:
        stat = os.statvfs(self.folder)
        self.resize((stat.f_blocks - stat.f_bfree) * stat.f_frsize + free_bytes)

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True, capture_output=True)


@pytest.fixture
def small_disks(tmp_path) -> Iterator[Callable[[str], SmallDisk]]:
    mounted: list[Path] = []

    def mount(name: str) -> SmallDisk:
        folder = tmp_path / f"disk-{name}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=256m", "carat-test", str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, (
            f"{done.stderr.strip()}; without root, run `unshare --map-root-user --mount make test`"
        )
        mounted.append(folder)
        return SmallDisk(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def assert_tells_of_the_disk(finished: Finished) -> None:
    assert finished.code == 1
    assert [re.search(r"disk is full", told) is not None for told in finished.error_lines] == [True], finished.err


def shops_on_small_disks(
    small_disks: Callable[[str], SmallDisk], source: Shop, levels: dict[str, int]
) -> dict[str, tuple[SmallDisk, Shop]]:
    made = {}
    for name, free_bytes in levels.items():
        disk = small_disks(name)
        shop = source.copy(disk.folder)
        shop.environment["CARAT_LOG"] = os.devnull
        disk.leave_free(free_bytes)
        made[name] = (disk, shop)
    return made


# Nothing at all; not enough for the tables of staging; for their parts; for the days after the first.
LEVELS = {"0": 0, "24-KiB": 24 * 1024, "512-KiB": 512 * 1024, "1200-KiB": 1200 * 1024}


@pytest.mark.parametrize("level", LEVELS)
def test_etl_on_a_full_disk_leaves_each_day_old_or_new_and_goes_through_once_there_is_space(
    small_disks, history, level
):
    ((disk, shop),) = shops_on_small_disks(small_disks, history.stale, {level: LEVELS[level]}).values()
    failed = shop.carat("etl")
    assert_tells_of_the_disk(failed)
    during = published(shop)
    for day in DAYS:
        assert any(are_equal(of_day(during, day), of_day(tables, day)) for tables in (history.old, history.new))
    disk.resize(256 * 1024 * 1024)
    build_all(shop)
    assert are_equal(published(shop), history.new)
    with shop.opened() as warehouse:
        assert unexpected_tables(warehouse) == set()


def test_a_disk_that_fills_up_while_publishing_leaves_the_whole_day_old_or_new(small_disks, history):
    wholes = [of_day(tables, LATE_DAY) for tables in (history.old, history.new)]
    halves = []
    for free_kib in range(1020, 1160, 20):  # the engine asks for 1 MiB before it writes a part, however small
        ((disk, shop),) = shops_on_small_disks(small_disks, history.staged, {f"{free_kib}": free_kib * 1024}).values()
        with shop.opened() as warehouse, suppress(CaratError):
            publish(warehouse, LATE_DAY, JOBS, build_id=staged_build(warehouse), now=NOW)
        during = of_day(published(shop), LATE_DAY)  # by the next process: what is on the disk, not in memory
        if not any(are_equal(during, whole) for whole in wholes):
            heights = {
                name: (frame.height, *(whole[name].height for whole in wholes)) for name, frame in during.items()
            }
            halves.append((free_kib, heights))
        disk.resize(256 * 1024 * 1024)
        with shop.opened() as warehouse:
            recover(warehouse)
            after = of_day(published_in(warehouse), LATE_DAY)
            assert any(are_equal(after, whole) for whole in wholes)
    assert halves == []  # free KiB, and of each table the rows found, the old ones and the new ones


@pytest.mark.parametrize("level", ["0", "512-KiB"])
def test_ingest_on_a_full_disk_loses_nothing_and_goes_through_once_there_is_space(
    small_disks, history, tmp_path, level
):
    path = write_lines(tmp_path / "more.ndjson", shop_calls(1000, days=DAYS, seed=3), b"no record")
    reference = history.built.copy(tmp_path / "reference")
    with reference.opened() as warehouse:
        ingest_paths(warehouse, reference.settings, [str(path)])
        expected = raw(warehouse)
    ((disk, shop),) = shops_on_small_disks(small_disks, history.built, {level: LEVELS[level]}).values()
    failed = shop.carat("ingest", str(path))
    assert_tells_of_the_disk(failed)
    assert are_equal(published(shop), history.old)
    disk.resize(256 * 1024 * 1024)
    again = shop.carat("ingest", str(path))
    assert (again.code, again.error_lines) == (0, [])
    with shop.opened() as warehouse:
        assert are_equal(raw(warehouse), expected)


# ---- kill -9 -----------------------------------------------------------------------------------------------------


def kill_at(shop: Shop, process: subprocess.Popen[str], delay: float) -> int:
    """Let a gated command go and kill it that many seconds after it has taken the warehouse; its return code."""
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    wait_for_lock(shop, process)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode


def seconds_undisturbed(shop: Shop, process: subprocess.Popen[str]) -> float:
    """How long a gated command takes from taking the warehouse to its end."""
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    wait_for_lock(shop, process)
    started = time.monotonic()
    assert finish(process).code == 0
    return time.monotonic() - started


_SPAN = 0.85  # of an undisturbed run, which other load may have drawn out: a kill after the end hits nothing


def kill_all(shops: list[Shop], arguments: tuple[str, ...], code: str) -> list[str]:
    """Kill a command at a moment of its own in every shop but the last, which is left undisturbed; when that was."""
    commands = [shop.start(*arguments, code=code) for shop in shops]
    duration = seconds_undisturbed(shops[-1], commands[-1])
    chance = random.Random()
    kills = len(shops) - 1
    delays = [_SPAN * duration * (number + chance.random()) / kills for number in range(kills)]
    with ThreadPoolExecutor(2) as threads:
        codes = list(threads.map(kill_at, shops[:-1], commands[:-1], delays))
    assert codes.count(-signal.SIGKILL) >= kills / 2  # the others had ended before
    return [f"killed {delay:.3f} s into {duration:.3f} s" for delay in delays]


def test_etl_killed_at_any_moment_leaves_tables_that_the_next_run_brings_to_the_same_rows(history, tmp_path):
    shops = [history.built.copy(tmp_path / str(number)) for number in range(KILLS + 1)]
    for shop, moment in zip(shops[:-1], kill_all(shops, ("etl", "--force"), GATED), strict=True):
        with shop.opened() as warehouse:
            prepare_warehouse(warehouse, shop.settings)
            assert are_equal(published_in(warehouse), history.old), moment
            assert unexpected_tables(warehouse) == set()
            build_stale(warehouse, shop.settings, span=(None, None), jobs=JOBS, force=True)
            assert are_equal(published_in(warehouse), history.old), moment
            assert unexpected_tables(warehouse) == set()


SMALL_BATCHES = "import app.intake.files; app.intake.files._BATCH_RECORDS = 100; " + GATED


def test_ingest_killed_at_any_moment_stores_and_rejects_the_same_when_run_again(tmp_path):
    bad = [b"no record", b'{"ts": null}', b"\xff\xfe", b'{"ts": "2026-03-01T10:00:00"']
    path = write_lines(tmp_path / "calls.ndjson", shop_calls(2000, days=DAYS, seed=4), *bad)
    shops = [Shop(tmp_path / str(number)) for number in range(KILLS + 1)]
    for shop in shops:
        shop.folder.mkdir()
    moments = kill_all(shops, ("ingest", str(path)), SMALL_BATCHES)
    with shops[-1].opened() as warehouse:
        expected = raw(warehouse)
    assert [frame.height > 0 for frame in expected.values()] == [True, True, True]
    for shop, moment in zip(shops[:-1], moments, strict=True):
        with shop.opened() as warehouse:
            prepare_warehouse(warehouse, shop.settings)
            ingest_paths(warehouse, shop.settings, [str(path)])
            found = raw(warehouse)
            assert [name for name, frame in found.items() if not frame.equals(expected[name])] == [], moment
            assert unexpected_tables(warehouse) == set()


PUBLISH_UNTIL_KILLED = """
import os, signal, subprocess, sys
from datetime import UTC, date, datetime
from app.settings import Settings
from app.warehouse import Warehouse, open_warehouse, publish

statements, seconds, day, tables = int(sys.argv[1]), float(sys.argv[2]), date.fromisoformat(sys.argv[3]), sys.argv[4].split(",")


def until_the_kill(statement):
    def run(*arguments, **options):
        global statements
        if not statements:
            os.kill(os.getpid(), signal.SIGKILL)
        statements -= 1
        return statement(*arguments, **options)
    return run


with open_warehouse(Settings(_env_file=None), purpose="a test", prepare=False) as warehouse:
    build_id = warehouse.scalar("SELECT DISTINCT splitByChar('_', name)[-1] FROM system.tables WHERE name LIKE 'staged%'")
    Warehouse.command, Warehouse.insert = until_the_kill(Warehouse.command), until_the_kill(Warehouse.insert)
    if seconds:
        subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -9 {os.getpid()}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    publish(warehouse, day, tables, build_id=build_id, now=datetime.now(tz=UTC))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def publish_until_killed(shops: list[Shop], kills: list[tuple[int, float]]) -> None:
    """Publish what is staged, killed before so many statements more or after so many seconds."""
    commands = [
        shop.start(str(statements), str(seconds), str(LATE_DAY), ",".join(JOBS), code=PUBLISH_UNTIL_KILLED)
        for shop, (statements, seconds) in zip(shops, kills, strict=True)
    ]
    assert [finish(command).code for command in commands] == [-signal.SIGKILL] * len(shops)


def test_a_kill_after_any_statement_of_publishing_leaves_a_day_that_the_next_start_makes_wholly_old_or_new(
    history, tmp_path
):
    shops = [history.staged.copy(tmp_path / str(statements)) for statements in range(history.statements)]
    assert len(shops) >= len(DWH_TABLES) + 2  # the journal before and after
    publish_until_killed(shops, [(statements, 0) for statements in range(history.statements)])
    replayed = []
    for statements, shop in enumerate(shops):
        with shop.opened() as warehouse:
            if recover(warehouse):
                replayed.append(statements)
            expected = history.new if statements else history.old  # the first statement writes the journal
            assert_only_the_late_day_is(expected, warehouse, history)
            assert recover(warehouse) == []
    assert replayed == list(range(1, len(DWH_TABLES) + 2))


def test_a_kill_inside_a_statement_of_publishing_leaves_a_day_that_the_next_start_makes_wholly_old_or_new(
    history, tmp_path
):
    chance = random.Random()
    shops = [history.staged.copy(tmp_path / str(number)) for number in range(4)]
    publish_until_killed(shops, [(history.statements, 0.001 + chance.random() * 0.1) for _ in shops])
    for shop in shops:
        with shop.opened() as warehouse:
            recover(warehouse)
            is_old = are_equal(of_day(published_in(warehouse), LATE_DAY), of_day(history.old, LATE_DAY))
            assert_only_the_late_day_is(history.old if is_old else history.new, warehouse, history)


def assert_only_the_late_day_is(expected: Tables, warehouse: Warehouse, history: History) -> None:
    """The late day is as expected in all tables, the days around it are the old ones, and nothing staged is left."""
    found = published_in(warehouse)
    for day in DAYS:
        assert are_equal(of_day(found, day), of_day(expected if day == LATE_DAY else history.old, day))
    assert unexpected_tables(warehouse) == set()
