"""Every type of column, with every hostile value: what the server shows is what is kept, or it is said what differs."""

from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from app.contracts import PRECISE_TIME
from app.shop.columns import mysql_column, sqlite_column
from tests.shop.taking import opened, table, take
from tests.support import hostile_tables
from tests.support.hostile_tables import BYTES, FLOATS, HOSTILE_ROWS, IDS, SHAPES, TEXTS, session

IN_ORDER = sorted(HOSTILE_ROWS, key=IDS.__getitem__)


@pytest.fixture(scope="module")
def kept(server, tmp_path_factory):
    """The hostile table as it is kept, and how many of its dates were bounded."""
    hostile_tables.create(server)
    with opened(server) as shop:
        taken = take(shop, tmp_path_factory.mktemp("hostile"), table("every_type"))
    assert taken.errors == {}
    return taken.frames["every_type"], taken.bounded["every_type"]


@pytest.fixture(scope="module")
def shown(server, kept) -> dict[str, list[str | None]]:
    """Its values as the server shows them: bytes as hexadecimal, geometries as text."""
    shown = hostile_tables.expected_rows(server)
    shapes = ("geometry", *SHAPES)
    with session(server) as cursor:
        cursor.execute(f"SELECT {', '.join(f'ST_AsText(`{name}`)' for name in shapes)} FROM {hostile_tables.TABLE} ORDER BY id")  # fmt: skip
        rows = cursor.fetchall()
    return shown | {name: [row[n] for row in rows] for n, name in enumerate(shapes)}


def as_time(text: str, *, dtype: type[date]) -> tuple[date | None, bool]:
    """The date or time that a text of the server's is kept as, and whether it had to be bounded.

    Days that no calendar has are null. What lies outside 1900 to 2299, which the warehouse can hold, is the next that it can.
    """
    year = int(text[:4])
    try:
        # Python has no year 0.
        found = dtype.fromisoformat(f"{max(year, 1):04}{text[4:]}")
    except ValueError:
        return None, False
    if dtype is datetime:
        found = found.replace(tzinfo=UTC)
    if year < 1900:
        return (date(1900, 1, 1) if dtype is date else datetime(1900, 1, 1, tzinfo=UTC)), True
    if year > 2299:
        return (date(2299, 12, 31) if dtype is date else datetime(2299, 12, 31, 23, 59, 59, 999_999, UTC)), True
    return found, False


def as_shown(column: str, text: str) -> Any:  # noqa: PLR0911  one case each
    """What must be kept of what the server shows: equal to the digit and the byte."""
    if column == "date":
        return as_time(text, dtype=date)[0]
    if column.startswith(("datetime", "timestamp")):
        return as_time(text, dtype=datetime)[0]
    if column in SHAPES or column == "geometry" or column.startswith("time"):
        return text.encode()
    if column in BYTES:
        return bytes.fromhex(text)
    if column in TEXTS or column == "name_stored":
        return text.encode()
    if column.startswith("decimal_65"):
        return text.encode()  # more digits than a decimal of 38 has
    if column.startswith(("decimal", "price")):
        return Decimal(text)
    if column.startswith("double") or column in FLOATS:
        return float(text)
    return int(text)


def test_every_column_and_row_comes_back_in_the_order_of_the_key(kept):
    frame, _ = kept
    assert frame.columns == ["id", *hostile_tables.COLUMNS]
    assert frame["id"].to_list() == sorted(IDS.values())
    assert frame["id"][-1] == 2**64 - 1


@pytest.mark.parametrize("column", hostile_tables.COLUMNS)
def test_every_value_is_kept_as_the_server_shows_it(kept, shown, column):
    frame, _ = kept
    values = frame[column].cast(pl.Binary) if frame.schema[column] == pl.String else frame[column]
    expected = [None if text is None else as_shown(column, text) for text in shown[column]]
    wrong = {
        name: (value, was)
        for name, value, was in zip(IN_ORDER, values.to_list(), expected, strict=True)
        if value != was
    }
    assert wrong == {}
    assert sum(value is not None for value in expected) >= 1


def test_dates_beyond_the_warehouse_are_counted(kept, shown):
    times = [("date", date), *((name, datetime) for name in hostile_tables.TIMES if name.startswith(("datetime", "timestamp")))]  # fmt: skip
    bounded = [
        text for name, dtype in times for text in shown[name] if text is not None and as_time(text, dtype=dtype)[1]
    ]
    assert kept[1] == len(bounded) == 12


def test_times_are_utc_whatever_the_zone_of_the_server(server, tmp_path):
    with closing(server.connect("root")) as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute("CREATE OR REPLACE TABLE shop.moments (id INT PRIMARY KEY, at TIMESTAMP(6) NULL)")
        cursor.execute("INSERT INTO shop.moments VALUES (1, '2026-07-01 12:00:00.123456')")
    server.execute("SET GLOBAL time_zone = '+05:30'")
    try:
        with opened(server) as shop:
            # The condition means the same where rows are read and where they are counted.
            taken = take(shop, tmp_path, table("moments", where="at < '2026-07-01 12:00:01'"))
    finally:
        server.execute("SET GLOBAL time_zone = '+00:00'")
    assert taken.frames["moments"]["at"].to_list() == [datetime(2026, 7, 1, 12, 0, 0, 123_456, UTC)]


KEYS = {
    "INT": ["-2147483648", "-1", "0", "1", "2147483647"],
    "BIGINT UNSIGNED": ["0", "9223372036854775807", "9223372036854775808", "18446744073709551615"],
    "DECIMAL(10,2)": ["-99999999.99", "-0.01", "0", "0.01", "2", "10"],
    "DECIMAL(38,18)": ["-2", "-10", "0.000000000000000001", "9", "10"],
    "DECIMAL(65,30)": ["-2", "-10", "9", "10", f"{'9' * 35}.{'9' * 30}"],
    "DOUBLE": ["-1e300", "-1", "0", "1e-300", "10", "9"],
    "FLOAT": ["-1.5", "0.1", "16777215", "3e38"],
    "DATE": ["'2026-01-02'", "'1999-12-31'", "'1969-12-31'"],
    "DATETIME(6)": ["'2026-01-01 00:00:00.000001'", "'2026-01-01'", "'1950-01-01'"],
    "TIMESTAMP(3)": ["'2026-01-01 00:00:00.001'", "'2026-01-01'", "'1971-01-01'"],
    "TIME": ["'-838:59:59'", "'-00:00:01'", "'00:00:00'", "'09:00:00'", "'100:00:00'"],
    "YEAR": ["1901", "2026", "0"],
    "BIT(64)": ["0", "1", "0x80", "0xFFFFFFFFFFFFFFFF"],
    "BINARY(4)": ["X'00'", "X'61'", "X'6162'", "X'80'", "X'FFFFFFFF'"],
    "VARBINARY(20)": ["''", "X'00'", "X'0000'", "X'61'", "X'FF00'"],
    "UUID": ["'ffffffff-ffff-ffff-ffff-ffffffffffff'", "'0190163d-8694-739b-aea5-966c26f8ad91'", "UUID()"],
    "INET6": ["'::'", "'2001:db8::1'", "'::ffff:192.0.2.1'", "'1::'"],
    "ENUM('ring','größe','Armband','😀')": ["'ring'", "'größe'", "'Armband'", "'😀'"],
    "SET('gold','größe')": ["'gold'", "'größe'", "'gold,größe'", "''"],
    # Servers sort by the first 1024 bytes of a text unless they are told to look further.
    "VARCHAR(768) COLLATE utf8mb4_general_ci": [f"CONCAT(REPEAT('💍', 700), '{text}')" for text in ("c", "B", "", "a", "Ä2")],
    **{
        f"VARCHAR(50) CHARACTER SET {charset} COLLATE {charset}_{collation}": [
            "''", "'b'", "'B2'", "'a1'", "'A'", "'Z'", "'ä2'", "'Äpfel'", "'ß'", "'_'", "'10'", "'9'", "'a b'", "'a\\tb'",
            *(["'€'", "'中'"] if charset != "latin1" else []), *(["'💍'", "'\\uffff'", "'💍a'"] if charset not in ("latin1", "utf8mb3") else []),
        ]
        for charset, collation in [
            ("utf8mb4", "general_ci"), ("utf8mb4", "unicode_ci"), ("utf8mb4", "uca1400_as_cs"), ("utf8mb3", "german2_ci"), ("latin1", "german1_ci"), ("utf16", "general_ci"),
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KEYS)
def test_rows_come_in_the_order_of_their_key(server, in_process, tmp_path, kind):
    with closing(server.connect("root", database="shop")) as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(f"CREATE OR REPLACE TABLE keyed (k {kind} PRIMARY KEY, n INT) CHARACTER SET utf8mb4")
        cursor.execute(
            f"INSERT IGNORE INTO keyed (k) VALUES {', '.join(f'({value})' for value in reversed(KEYS[kind]))}"
        )
        cursor.execute("SELECT COUNT(*) FROM keyed")
        ((rows,),) = cursor.fetchall()
    assert rows >= len(KEYS[kind]) - 1
    with opened(server) as shop:
        taken = take(shop, tmp_path, table("keyed", "k"))  # which checks the order
    assert taken.errors == {}
    assert taken.frames["keyed"].height == rows


def test_keys_of_several_columns_come_in_their_order(server, tmp_path):
    server.execute(
        "CREATE OR REPLACE TABLE shop.cart (user_id INT, sku VARCHAR(20) COLLATE utf8mb4_general_ci, size BINARY(2), "
        "PRIMARY KEY (sku, size, user_id))",
        "INSERT INTO shop.cart VALUES (2, 'a', 'L'), (2, 'B', 'L'), (-1, 'b', 'S'), (2, 'B', 'M'), (10, 'ä', ''), (10, 'Z', '')",
    )
    with opened(server) as shop:
        taken = take(shop, tmp_path, table("cart", "user_id", "sku", "size"))
    assert taken.frames["cart"].rows() == [
        (-1, b"b", b"S\0"), (2, b"B", b"L\0"), (2, b"B", b"M\0"), (2, b"a", b"L\0"), (10, b"Z", b"\0\0"), (10, "ä".encode(), b"\0\0"),
    ]  # fmt: skip


def test_odd_names_of_tables_and_columns_are_quoted(server, tmp_path):
    server.execute(
        'CREATE OR REPLACE TABLE shop.`or``der %s -- ?` (`select` INT PRIMARY KEY, `größe "x"` INT, `%s %d` INT, version INT)',
        "INSERT INTO shop.`or``der %s -- ?` VALUES (1, 2, 3, 4)",
    )
    with opened(server) as shop:
        taken = take(shop, tmp_path, table("odd", "select", source="or`der %s -- ?"))
    assert taken.frames["odd"].to_dicts() == [{"select": 1, 'größe "x"': 2, "%s %d": 3, "source_version": 4}]


@pytest.mark.parametrize(("declared", "kept"), [
    (("int", "int(11)", 10, 0), "Int32"), (("int", "int(10) unsigned zerofill", 10, 0), "UInt32"), (("tinyint", "tinyint(1)", 3, 0), "Int8"),
    (("mediumint", "mediumint(8) unsigned", 7, 0), "UInt32"), (("bigint", "bigint(20) unsigned", 20, 0), "UInt64"), (("decimal", "decimal(10,2)", 10, 2), "Decimal(10, 2)"),
    (("decimal", "decimal(38,38)", 38, 38), "Decimal(38, 38)"), (("decimal", "decimal(39,0)", 39, 0), "String"), (("float", "float", 12, None), "Float32"),
    (("double", "double", 22, None), "Float64"), (("date", "date", None, None), "Date32"), (("timestamp", "timestamp(3)", None, None), PRECISE_TIME),
    (("year", "year(4)", None, None), "UInt16"), (("bit", "bit(1)", 1, None), "UInt64"), (("json", "json", None, None), "String"),
    (("something_new", "something_new(3)", None, None), "String"),
])  # fmt: skip
def test_a_declared_type_of_mysql_is_kept_as_one_of_the_warehouse(declared, kept):
    assert mysql_column("c", *declared).type == kept


@pytest.mark.parametrize(("declared", "kept"), [
    ("INTEGER", "Int64"), ("int", "Int64"), ("BIGINT UNSIGNED", "Int64"), ("BOOLEAN", "Int64"), ("VARCHAR(20)", "String"), ("CLOB", "String"), ("", "String"), ("JSON", "String"),
    ("BLOB", "String"), ("REAL", "Float64"), ("DOUBLE PRECISION", "Float64"), ("FLOAT", "Float64"), ("DATE", "Date32"), ("DATETIME", PRECISE_TIME), ("TIMESTAMP(3)", PRECISE_TIME),
    ("DECIMAL(10,2)", "Decimal(10, 2)"), ("NUMERIC( 12 , 4 )", "Decimal(12, 4)"), ("DECIMAL(5)", "Decimal(5, 0)"), ("NUMERIC", "Decimal(38, 10)"), ("DECIMAL(40,2)", "String"),
])  # fmt: skip
def test_a_declared_type_of_sqlite_is_kept_as_one_of_the_warehouse(declared, kept):
    column = sqlite_column("c", declared)
    assert column.type == kept
    assert column.holds_bytes == (declared == "BLOB")


def test_a_column_that_versions_need_for_themselves_gets_a_prefix():
    column = mysql_column("version", "int", "int(11)", 10, 0)
    assert column.kept_as == "source_version"
    assert column.in_history(is_key=True).type == "Int32"
    assert column.in_history(is_key=False).type == "Nullable(Int32)"
    assert column.in_history(is_key=False).comment == "version of the shop's table, int(11) there"
