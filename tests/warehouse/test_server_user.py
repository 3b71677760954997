"""What an administrator gives the user of a server: a profile, rights, a quota. The engine's own, behind HTTP."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.contracts.grants import reader_grants, writer_grants
from app.core.errors import WarehouseError
from app.core.service_url import ServiceUrl
from app.ops.doctor import examine
from app.ops.server_checks import check_version
from app.settings import Settings
from app.shop.mysql import MySQLShop
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.advice import how_to_fix
from app.warehouse.engine_settings import CLOUD, DURABILITY, MEANING
from app.warehouse.shop_link import link_shop
from tests.jobs.test_load import call
from tests.support.clickhouse_http import RunningServer, running_server, users_config
from tests.support.mariadb import running_mariadb
from tests.test_main import carat

HOSTILE = {
    "join_use_nulls": "1", "aggregate_functions_null_for_empty": "1", "data_type_default_nullable": "1", "enable_positional_arguments": "0", "group_by_use_nulls": "1",
    "transform_null_in": "1", "async_insert": "1", "wait_for_async_insert": "0", "insert_deduplicate": "0", "deduplicate_insert": "disable", "session_timezone": "Asia/Tokyo",
    "limit": "1", "union_default_mode": "DISTINCT", "compatibility": "21.8", "result_overflow_mode": "break", "mutations_sync": "0",
    "date_time_output_format": "iso", "join_default_strictness": "ANY", "prefer_column_name_to_alias": "1", "output_format_arrow_string_as_string": "0",
    "empty_result_for_aggregation_by_empty_set": "1", "asterisk_include_virtual_columns": "1", "max_partitions_per_insert_block": "1",
}  # fmt: skip


def xml(settings: dict[str, str]) -> str:
    return "".join(f"<{name}>{value}</{name}>" for name, value in settings.items())


@contextmanager
def serving(folder: Path, **given) -> Iterator[RunningServer]:
    with running_server(folder / "engine", config=users_config(folder / "config", **given)) as server:
        yield server


def opened(server: RunningServer, *, writes: bool) -> Warehouse:
    return open_warehouse(Settings(_env_file=None, warehouse=server.url), purpose="a test", writes=writes)


@pytest.fixture
def calls(tmp_path) -> Path:
    path = tmp_path / "calls.ndjson"
    path.write_text("\n".join(json.dumps(call(number, user_id="u-1")) for number in range(5)))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder of a server with one day that was built."""
    folder = tmp_path_factory.mktemp("built")
    path = folder / "calls.ndjson"
    path.write_text("\n".join(json.dumps(call(number)) for number in range(5)))
    with serving(folder) as server:
        for command in (["ingest", str(path)], ["etl"]):
            assert carat(*command, folder=folder, CARAT_WAREHOUSE=server.url).returncode == 0
    return folder


@pytest.mark.slow
def test_a_hostile_profile_changes_nothing(tmp_path, calls):
    with serving(tmp_path, profile=xml(HOSTILE)) as server:
        for command in (["migrate"], ["ingest", str(calls)], ["ingest", str(calls)], ["etl"], ["verify"], ["status"]):
            done = carat(*command, folder=tmp_path, CARAT_WAREHOUSE=server.url)
            assert done.returncode == 0, (command, done.stderr)
        with opened(server, writes=False) as warehouse:
            assert warehouse.query("SELECT count(), sum(calls) FROM dwh.sessions").rows() == [(1, 5)]
            assert warehouse.query("SELECT number AS n FROM numbers(3) GROUP BY 1 ORDER BY 1").rows() == [
                (0,),
                (1,),
                (2,),
            ]
            names = ", ".join(f"'{name}'" for name in MEANING | DURABILITY)
            found = warehouse.query(f"SELECT name, value FROM system.settings WHERE name IN ({names})").rows()
            assert {name: value for name, value in found} == {n: str(v) for n, v in (MEANING | DURABILITY).items()}  # noqa: C416


@pytest.mark.slow
def test_on_clickhouse_cloud_each_statement_sees_the_one_before(tmp_path):
    with serving(tmp_path, profile="<cloud_mode>1</cloud_mode>") as server, opened(server, writes=False) as warehouse:
        names = ", ".join(f"'{name}'" for name in CLOUD)
        found = warehouse.query(f"SELECT name, value FROM system.settings WHERE name IN ({names})")
        assert dict(found.iter_rows()) == {name: str(value) for name, value in CLOUD.items()}


@pytest.mark.slow
def test_a_user_that_may_not_change_settings_can_read(built):
    grants = [grant.statement("").removesuffix(" TO ") for grant in reader_grants()]
    with serving(built, profile="<readonly>1</readonly>", grants=grants) as server:
        where = {"folder": built, "CARAT_WAREHOUSE": server.url}
        asked = carat("query", "SELECT sum(calls) FROM dwh.sessions", "--format", "csv", **where)
        assert (asked.returncode, asked.stdout) == (0, b'"sum(calls)"\n5\n'), asked.stderr
        for command in (["status"], ["plan"], ["dashboards", "preview", "--out", str(built / "page.html")]):
            done = carat(*command, **where)
            assert done.returncode == 0, (command, done.stderr)
        refused = carat("ingest", str(built / "calls.ndjson"), **where)
        assert refused.returncode == 1
        assert b"ALTER USER default MODIFY SETTINGS async_insert = 0" in refused.stderr
        lifted = carat("query", "SELECT 1 SETTINGS max_threads = 1", **where)
        assert (lifted.returncode, b"readonly = 2" in lifted.stderr) == (1, True)
        found = {finding["check"]: finding for finding in json.loads(carat("doctor", "--json", **where).stdout)}
        assert "may only read (readonly = 1)" in found["profile"]["detail"]
        assert found["rights"]["detail"] == "user default has every right to read"


@pytest.mark.slow
def test_a_reader_whose_profile_changes_results_is_refused_with_the_fix(built):
    hostile = {"join_use_nulls": "1", "session_timezone": "Asia/Tokyo", "readonly": "1"}
    with serving(built, profile=xml(hostile)) as server:
        fix = r"ALTER USER default MODIFY SETTINGS session_timezone = 'UTC', join_use_nulls = 0$"
        with pytest.raises(WarehouseError, match=fix), opened(server, writes=False):
            pass


@pytest.mark.slow
def test_a_constraint_that_makes_inserts_asynchronous_stops_writers_and_no_readers(tmp_path):
    profile = "<async_insert>1</async_insert><constraints><async_insert><const/></async_insert></constraints>"
    with serving(tmp_path, profile=profile) as server:
        where = {"folder": tmp_path, "CARAT_WAREHOUSE": server.url}
        fix = b"ALTER USER default MODIFY SETTINGS async_insert = 0"
        refused = carat("migrate", **where)
        assert (refused.returncode, fix in refused.stderr) == (1, True)
        assert carat("query", "SELECT 1", **where).returncode == 0
        found = {finding["check"]: finding for finding in json.loads(carat("doctor", "--json", **where).stdout)}
        assert not found["profile"]["is_ok"]
        assert fix.decode() in found["profile"]["detail"]


@pytest.mark.slow
def test_the_declared_grants_suffice_for_every_command(tmp_path, calls):
    grants = [grant.statement("").removesuffix(" TO ") for grant in writer_grants(has_shop_link=False)]
    with serving(tmp_path, grants=grants) as server:
        where = {"folder": tmp_path, "CARAT_WAREHOUSE": server.url}
        for command in (
            ["migrate"], ["ingest", str(calls)], ["etl"], ["etl", "--force"], ["verify"], ["status"], ["forget", "--user", "u-1", "--yes"],
        ):  # fmt: skip
            done = carat(*command, **where)
            assert done.returncode == 0, (command, done.stderr)
        found = json.loads(carat("doctor", "--json", **where).stdout)
        assert [finding["detail"] for finding in found if finding["check"].startswith("rights")] == [
            "user default has every right to write"
        ]


@pytest.mark.slow
def test_the_declared_grants_suffice_for_the_link_to_the_shop(tmp_path):
    own = list(writer_grants(has_shop_link=True))
    with running_mariadb(tmp_path / "mariadb") as shop_server:
        shop_server.execute("CREATE TABLE shop.items (id INT PRIMARY KEY)", "INSERT INTO shop.items VALUES (1), (2)")
        shop = MySQLShop(ServiceUrl.parse(shop_server.url(), "mysql"), max_replica_lag_s=300)
        for number, given in enumerate((own, [grant for grant in own if grant.is_required])):
            grants = [grant.statement("").removesuffix(" TO ") for grant in given]
            with serving(tmp_path / str(number), grants=grants) as server, opened(server, writes=False) as warehouse:
                place = "its definition" if number else "named collection carat_shop"
                assert place in link_shop(warehouse, shop)[0]
                assert warehouse.scalar("SELECT count() FROM mysql.items") == 2
                assert place in link_shop(warehouse, shop)[0]
        shop.close()


@pytest.mark.slow
def test_doctor_prints_the_grants_that_are_missing_and_no_others(tmp_path, monkeypatch):
    wanted = writer_grants(has_shop_link=False)
    kept = [grant for grant in wanted if grant.on not in {"dwh.*", "history.*"}]
    grants = [
        *(grant.statement("").removesuffix(" TO ") for grant in kept),
        "GRANT SELECT, INSERT, ALTER TABLE ON dwh.*",
        "GRANT SHOW QUOTAS ON *.*",
    ]
    limits = "<max_execution_time>7</max_execution_time><max_rows_to_read>1000000</max_rows_to_read>"
    with serving(tmp_path, grants=grants, profile=limits, interval="<queries>900</queries>") as server:
        monkeypatch.setenv("CARAT_WAREHOUSE", server.url)
        monkeypatch.setenv("CARAT_SHOP_DB", "mysql://reader:a@127.0.0.1:1/shop")
        found = {finding.check: finding for finding in examine()}
        missing = {name: own.detail.partition(";")[0] for name, own in found.items() if name.startswith("rights")}
        every = "SELECT, INSERT, ALTER TABLE, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, TRUNCATE, OPTIMIZE"
        assert missing == {
            "rights on dwh.*": f"missing: GRANT {every.removeprefix('SELECT, INSERT, ALTER TABLE, ')} ON dwh.* TO default",
            "rights on history.*": f"missing: GRANT {every} ON history.* TO default",
            "rights on mysql.*": "missing: GRANT CREATE DATABASE, DROP DATABASE, SHOW, SELECT ON mysql.* TO default",
            "rights on *.*": "missing: GRANT MYSQL ON *.* TO default",
            "rights on carat_shop": "recommended: GRANT CREATE NAMED COLLECTION, ALTER NAMED COLLECTION, NAMED COLLECTION ON carat_shop TO default",
        }
        assert found["rights on carat_shop"].is_ok
        assert "max_execution_time = 7, max_rows_to_read = 1000000" in found["limits"].detail
        assert "of 900 queries" in found["quota"].detail
        with opened(server, writes=False) as warehouse:
            with pytest.raises(WarehouseError, match=r"run: GRANT CREATE TABLE ON dwh\.t TO default; `carat doctor`"):
                warehouse.command("CREATE TABLE dwh.t (a Int8) ENGINE = Memory")
            with pytest.raises(WarehouseError, match=r"raise max_rows_to_read.*ALTER USER default MODIFY SETTINGS"):
                warehouse.scalar("SELECT max(number) FROM numbers(2000000)")


@pytest.mark.slow
def test_a_quota_that_is_used_up_is_named(tmp_path):
    with serving(tmp_path, interval="<queries>30</queries>") as server:
        asked = [carat("query", "SELECT 1", folder=tmp_path, CARAT_WAREHOUSE=server.url) for _ in range(9)]
        assert asked[0].returncode == 0
        assert b"quota of user default is used up" in asked[-1].stderr


@pytest.mark.parametrize(("version", "is_ok", "is_warning"), [
    ("26.6.2.98", True, False), ("26.6.2.97", False, False), ("26.6.10.1", True, False), ("26.3.17.65", True, True), ("26.3.17.64", False, False), ("26.3.18.1-lts", True, True),
    ("26.4.5.151", True, True), ("26.4.5.150", False, False), ("26.5.6.63", True, True), ("26.5.5.999", False, False), ("26.7.1.1", True, False), ("26.9.2.1", True, False),
    ("27.1.1.1", True, False), ("26.2.99.99", False, False), ("25.12.1.1", False, False), ("26.6.2.98.altinitystable", True, False), ("head", True, True),
])  # fmt: skip
def test_releases_that_lose_data_are_refused_to_the_patch(version, is_ok, is_warning):
    found = check_version(version)
    assert (found.is_ok, found.is_warning) == (is_ok, is_warning), found.detail
    assert is_ok or "#111031" in found.detail


@pytest.mark.parametrize(("message", "hint"), [
    ("Code: 497. DB::Exception: carat: Not enough privileges. To execute this query, it's necessary to have the grant SELECT(a, b) ON dwh.sessions. (ACCESS_DENIED)", "GRANT SELECT(a, b) ON dwh.sessions TO `my-user`"),
    ("Code: 497. DB::Exception: x: Not enough privileges. To execute this query, it's necessary to have the grant CREATE DATABASE ON pd.*. (ACCESS_DENIED) (version 26.9.2.1)", "GRANT CREATE DATABASE ON pd.* TO `my-user`"),
    ("Code: 201. DB::Exception: Quota for user `x` for 3600s has been exceeded: queries = 13/12. (QUOTA_EXCEEDED)", "ALTER QUOTA"),
    ("Code: 452. DB::Exception: Setting max_query_size shouldn't be greater than 300000. (SETTING_CONSTRAINT_VIOLATION)", "constraint on max_query_size"),
    ("Code: 159. DB::Exception: Timeout exceeded: elapsed 7.1 s, maximum: 7. (TIMEOUT_EXCEEDED)", "max_execution_time"),
    ("Code: 241. DB::Exception: Query memory limit exceeded: would use 96 MiB. (MEMORY_LIMIT_EXCEEDED)", "max_memory_usage"),
    ("Code: 202. DB::Exception: Too many simultaneous queries for user x. (TOO_MANY_SIMULTANEOUS_QUERIES)", "max_concurrent_queries_for_user"),
])  # fmt: skip
def test_what_an_administrator_withholds_is_named_with_the_statement_that_grants_it(message, hint):
    assert hint in how_to_fix(message, "my-user")
    assert how_to_fix(message) == ""  # the embedded engine has nobody who could grant it
