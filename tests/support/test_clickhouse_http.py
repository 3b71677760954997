"""The test server is believed by other tests, so what they lean on is proved here with the standard client."""

import gzip
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from http.client import HTTPConnection
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import clickhouse_connect
import lz4.frame
import numpy as np
import pyarrow as pa
import pytest
from clickhouse_connect.driver import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from tests.support.clickhouse_http import RunningServer, running_server

pytestmark = pytest.mark.slow

ORDER_TYPES = {
    "id": "UUID",
    "price": "Decimal(18, 2)",
    "ts": "DateTime64(3, 'UTC')",
    "tags": "Array(String)",
    "note": "Nullable(String)",
    "section": "LowCardinality(String)",
}
ORDERS = pa.table(
    {
        "id": pa.array([str(uuid.UUID(int=n)) for n in (1, 2)]),
        "price": pa.array([Decimal("19.90"), Decimal("-0.01")], pa.decimal128(18, 2)),
        "ts": pa.array(
            [datetime(2026, 3, 1, 12, 0, 0, 123000, UTC), datetime(1999, 12, 31, 23, 59, 59, 999000, UTC)],
            pa.timestamp("ms", "UTC"),
        ),
        "tags": pa.array([["gold", "ring"], []], pa.list_(pa.string())),
        "note": pa.array(["für dich", None], pa.string()),
        "section": pa.array(["rings", "rings"], pa.string()),
    }
)


def connect(server: RunningServer, **options: Any) -> Client:
    options = {"username": "default", "password": server.password} | options
    return clickhouse_connect.get_client(host="127.0.0.1", port=server.port, **options)


def ipc_bytes(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("warehouse"), password="s3cret:with/odd chars") as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with closing(connect(server)) as connected:
        yield connected


@pytest.fixture
def orders(client: Client) -> str:
    columns = ", ".join(f"{name} {kind}" for name, kind in ORDER_TYPES.items())
    client.command("DROP TABLE IF EXISTS orders")
    client.command(f"CREATE TABLE orders ({columns}) ENGINE = MergeTree ORDER BY id PARTITION BY toDate(ts)")
    return "orders"


def test_url_of_running_server_opens_client(server: RunningServer) -> None:
    with closing(clickhouse_connect.get_client(dsn=server.url)) as client:
        assert client.ping()
        assert client.server_version.startswith("26.")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("UInt8", 255),
        ("Int64", -(2**63)),
        ("UInt64", 2**64 - 1),
        ("Float64", 0.1),
        ("Bool", True),
        ("String", "tab\t, line\n, quote' and ünïcode"),
        ("FixedString(3)", b"abc"),
        ("LowCardinality(String)", "gold"),
        ("LowCardinality(Nullable(String))", None),
        ("Nullable(Int32)", None),
        ("Decimal(18, 2)", Decimal("-12345.67")),
        ("Date", date(2026, 3, 1)),
        ("DateTime('UTC')", datetime(2026, 3, 1, 1, 2, 3, tzinfo=UTC)),
        ("DateTime64(3, 'UTC')", datetime(2026, 3, 1, 1, 2, 3, 456000, tzinfo=UTC)),
        ("UUID", uuid.UUID(int=7)),
        ("Enum8('view' = 1, 'buy' = 2)", "buy"),
        ("Array(Nullable(String))", ["a", None]),
        ("Map(String, UInt32)", {"a": 1, "b": 2}),
        ("Tuple(String, UInt8)", ("x", 1)),
        ("IPv4", IPv4Address("10.0.0.1")),
    ],
)
def test_value_comes_back_as_it_was_inserted(client: Client, kind: str, value: object) -> None:
    client.command("DROP TABLE IF EXISTS one_value")
    client.command(f"CREATE TABLE one_value (v {kind}) ENGINE = Memory")
    client.insert("one_value", [[value]], column_names=["v"])
    assert client.query("SELECT v FROM one_value", tz_mode="aware").result_rows == [(value,)]


def test_query_without_rows_keeps_its_columns(client: Client) -> None:
    assert client.query("SELECT 1 AS a, 'x' AS b LIMIT 0").column_names == ("a", "b")
    assert client.query("SELECT 1 AS a WHERE 0").result_rows == []


def test_arrow_table_inserted_is_arrow_table_read(client: Client, orders: str) -> None:
    client.insert_arrow(orders, ORDERS)
    read = client.query_arrow(f"SELECT * FROM {orders} ORDER BY id", use_strings=True)
    assert read.num_rows == 2
    for name in ("price", "ts", "tags", "note"):
        assert read[name].cast(ORDERS.schema.field(name).type).equals(ORDERS[name])
    ids = client.query(f"SELECT id, section FROM {orders} ORDER BY id").result_rows
    assert ids == [(uuid.UUID(int=1), "rings"), (uuid.UUID(int=2), "rings")]


@pytest.mark.parametrize("buffers", [None, "lz4", "zstd"])
def test_arrow_stream_with_compressed_buffers_goes_in_and_out_raw(
    client: Client, orders: str, buffers: str | None
) -> None:
    summary = client.raw_insert(orders, insert_block=ipc_bytes(ORDERS, buffers), fmt="ArrowStream")
    assert summary.written_rows == 2
    settings = {"output_format_arrow_compression_method": "lz4_frame", "output_format_arrow_string_as_string": 1}
    raw = client.raw_query(f"SELECT price, tags FROM {orders} ORDER BY id", fmt="ArrowStream", settings=settings)
    assert pa.ipc.open_stream(raw).read_all().to_pydict() == ORDERS.select(["price", "tags"]).to_pydict()


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_insert_and_query_work_under_http_compression(server: RunningServer, compress: str | bool) -> None:
    rows = [[n, f"name {n % 7}"] for n in range(20_000)]
    with closing(connect(server, compress=compress)) as client:
        client.command("CREATE OR REPLACE TABLE named (n UInt32, name String) ENGINE = MergeTree ORDER BY n")
        client.insert("named", rows, column_names=["n", "name"])
        assert [list(row) for row in client.query("SELECT * FROM named ORDER BY n").result_rows] == rows


def test_compressed_rows_with_the_query_in_the_url_are_inserted(client: Client) -> None:
    client.command("CREATE OR REPLACE TABLE lines (n UInt32) ENGINE = Memory")
    client.raw_insert("lines", ["n"], gzip.compress(b"1\n2\n"), fmt="CSV", compression="gzip")
    two_frames = lz4.frame.compress(b"3\n") + lz4.frame.compress(b"4\n")
    client.raw_insert("lines", ["n"], two_frames, fmt="CSV", compression="lz4")
    client.raw_insert("lines", ["n"], (f"{n}\n".encode() for n in (5, 6)), fmt="CSV")  # chunked
    client.command("INSERT INTO lines FORMAT CSV", data="7\n8\n")
    client.command("INSERT INTO lines VALUES (9), (10)")
    client.command("INSERT INTO lines SELECT 11")
    assert client.query("SELECT n FROM lines ORDER BY n").result_columns == [list(range(1, 12))]


def test_settings_of_one_query_do_not_reach_the_next(client: Client) -> None:
    read = "SELECT getSetting('max_block_size'), getSetting('max_threads')"
    before = client.query(read).result_rows
    assert client.query(read, settings={"max_block_size": 7, "max_threads": 1}).result_rows == [(7, 1)]
    with pytest.raises(DatabaseError, match="Code: 395"):
        client.query("SELECT throwIf(1)", settings={"max_block_size": 7})
    with pytest.raises(DatabaseError, match="Code: 115"):
        client.query("SELECT 1 SETTINGS absent = 1", settings={"max_block_size": 7})
    assert client.query(read).result_rows == before


def test_set_and_temporary_table_last_as_long_as_the_session(server: RunningServer, client: Client) -> None:
    client.command("SET max_block_size = 11")
    client.command("CREATE TEMPORARY TABLE mine (n UInt8)")
    assert client.query("SELECT getSetting('max_block_size')", settings={"max_block_size": 7}).first_row == (7,)
    assert client.query("SELECT getSetting('max_block_size'), count() FROM mine").first_row == (11, 0)
    with closing(connect(server)) as other, pytest.raises(DatabaseError) as refused:
        other.query("SELECT * FROM mine")
    assert refused.value.code == 60


def test_database_of_the_client_is_the_default_for_its_tables(server: RunningServer, client: Client) -> None:
    client.command("CREATE DATABASE IF NOT EXISTS dwh")
    with closing(connect(server, database="dwh")) as dwh:
        dwh.command("CREATE TABLE IF NOT EXISTS here (n UInt8) ENGINE = Memory")
        dwh.insert("here", [[1]])
        assert dwh.command("SELECT currentDatabase()") == "dwh"
    assert client.command("SELECT count() FROM dwh.here") == 1
    assert client.command("SELECT currentDatabase()") == "default"


def test_parameters_are_bound_by_the_server(client: Client) -> None:
    parameters = {"s": "it's\ta \\ tab", "tags": ["a", "b'c"], "n": None, "day": date(2026, 3, 1)}
    query = "SELECT {s:String}, {tags:Array(String)}, {n:Nullable(Int32)}, {day:Date}"
    assert client.query(query, parameters=parameters).result_rows == [tuple(parameters.values())]


def test_parameters_too_long_for_a_url_are_sent_as_a_form(client: Client) -> None:
    assert client.query("SELECT length({s:String})", parameters={"s": "ä" * 100_000}).first_row == (200_000,)


@pytest.mark.parametrize("credentials", [{"password": "wrong"}, {"username": "nobody"}, {"password": ""}])
def test_wrong_credentials_are_refused(server: RunningServer, credentials: dict[str, str]) -> None:
    with pytest.raises(DatabaseError) as refused:
        connect(server, **credentials)
    assert refused.value.code == 516


def test_password_is_taken_from_clickhouse_headers_and_from_the_url(server: RunningServer) -> None:
    with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
        statuses = []
        for password in (server.password, "wrong"):
            headers = {"X-ClickHouse-User": "default", "X-ClickHouse-Key": password}
            connection.request("POST", "/", b"SELECT 1", headers)
            response = connection.getresponse()
            statuses.append((response.status, response.read()[:2]))
        connection.request("GET", "/?query=SELECT+2&password=s3cret%3Awith%2Fodd+chars")
        statuses.append((connection.getresponse().status, b""))
    assert statuses == [(200, b"1\n"), (403, b"Co"), (200, b"")]


@pytest.mark.parametrize(
    ("sql", "code", "status"),
    [
        ("SELEC 1", 62, 400),
        ("SELECT * FROM absent", 60, 404),
        ("SELECT absent", 47, 404),
        ("SELECT throwIf(1)", 395, 500),
    ],
)
def test_failing_query_raises_with_code_and_status(
    server: RunningServer, client: Client, sql: str, code: int, status: int
) -> None:
    with pytest.raises(DatabaseError, match=f"Code: {code}. DB::Exception: .*version 26") as failure:
        client.command(sql)
    assert failure.value.code == code
    with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
        connection.request("POST", "/", sql, {"X-ClickHouse-Key": server.password})
        assert connection.getresponse().status == status


def test_syntax_error_raises_database_error(client: Client) -> None:
    with pytest.raises(DatabaseError, match="Syntax error") as failure:
        client.query("SELECT (1")
    assert failure.value.code == 62


def test_connection_survives_a_refused_insert(client: Client) -> None:
    with pytest.raises(DatabaseError, match="Code: 60"):
        client.raw_insert("absent", insert_block=(b"1\n" * 500_000 for _ in range(10)), fmt="CSV")
    assert client.command("SELECT 1") == 1


def test_replace_partition_publishes_staging(client: Client) -> None:
    for table in ("live", "staging"):
        client.command(
            f"CREATE OR REPLACE TABLE {table} (day Date, n UInt32) ENGINE = MergeTree PARTITION BY day ORDER BY n"
        )
    client.insert("live", [[date(2026, 3, 1), 1], [date(2026, 3, 2), 2]])
    client.insert("staging", [[date(2026, 3, 1), 10], [date(2026, 3, 1), 11]])
    client.command("ALTER TABLE live REPLACE PARTITION '2026-03-01' FROM staging")
    assert client.query("SELECT n FROM live ORDER BY n").result_columns == [[2, 10, 11]]


def test_clients_in_threads_do_not_disturb_each_other(server: RunningServer, client: Client) -> None:
    client.command("CREATE OR REPLACE TABLE shared (worker UInt8, n UInt32) ENGINE = MergeTree ORDER BY n")

    def work(worker: int) -> int:
        with closing(connect(server)) as mine:
            for n in range(10):
                mine.insert("shared", [[worker, n]], column_names=["worker", "n"])
                size = mine.query("SELECT getSetting('max_block_size')", settings={"max_block_size": worker + 1})
                assert size.first_row == (worker + 1,)
            return int(mine.command(f"SELECT count() FROM shared WHERE worker = {worker}"))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [10] * 8


def test_hundred_megabytes_are_inserted_in_one_request(client: Client) -> None:
    client.command("CREATE OR REPLACE TABLE big (n UInt64, r Int64) ENGINE = MergeTree ORDER BY n")
    noise = np.random.default_rng(1).integers(-(2**62), 2**62, 6_500_000)
    table = pa.table({"n": pa.array(np.arange(len(noise), dtype=np.uint64)), "r": pa.array(noise)})
    body = ipc_bytes(table)
    assert len(body) > 100_000_000
    client.raw_insert("big", insert_block=body, fmt="ArrowStream")
    assert client.query("SELECT count(), sum(r), uniqExact(n) FROM big").first_row == (
        len(noise),
        int(noise.sum()),
        len(noise),
    )
    client.command("DROP TABLE big")


def test_failed_query_was_not_run_and_the_next_one_is(server: RunningServer, client: Client) -> None:
    client.command("CREATE OR REPLACE TABLE once (n UInt8) ENGINE = Memory")
    server.fail_next(1)
    with pytest.raises(OperationalError, match="503"):
        client.insert("once", [[1]], column_names=["n"], column_type_names=["UInt8"])
    assert client.command("SELECT count() FROM once") == 0


def test_reads_are_repeated_by_the_client_when_the_server_is_busy(server: RunningServer, client: Client) -> None:
    server.fail_next(2)
    assert client.query("SELECT 1").first_row == (1,)
    server.fail_next(3)
    with pytest.raises(OperationalError, match="503"):
        client.query("SELECT 1")


def test_killed_server_leaves_its_rows_and_a_free_directory(tmp_path: Path) -> None:
    with running_server(tmp_path) as server, closing(connect(server)) as client:
        client.command("CREATE TABLE kept (n UInt8) ENGINE = MergeTree ORDER BY n")
        client.insert("kept", [[1]])
        server.kill()
        with pytest.raises(OperationalError):
            client.query("SELECT 1")
    with running_server(tmp_path) as server, closing(connect(server)) as client:
        assert client.command("SELECT count() FROM kept") == 1
    assert server.process.returncode == 0
    assert not list(tmp_path.glob("spool-*"))


def test_server_stops_on_termination_while_a_client_is_connected_and_a_query_runs(tmp_path: Path) -> None:
    with running_server(tmp_path) as server, closing(connect(server)) as client:
        slow = threading.Thread(target=client.command, args=("SELECT sleep(1)",))
        slow.start()
        time.sleep(0.3)
        server.process.terminate()
        assert server.process.wait(10) == 0
        slow.join()


def test_second_server_on_a_directory_fails_with_the_reason(server: RunningServer, tmp_path: Path) -> None:
    with (
        running_server(tmp_path),
        pytest.raises(RuntimeError, match=r"did not start(?s:.*)lock"),
        running_server(tmp_path),
    ):
        pass
