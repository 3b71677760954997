"""One MariaDB table with a column of every type, and rows with every value that has broken a reader before.

A row of `HOSTILE_ROWS` names what is hostile about it and gives SQL for some columns; the others are NULL.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from pymysql.cursors import Cursor  # type: ignore[import-untyped]

from tests.support.mariadb import MariaDB

TABLE = "shop.every_type"
MIB = 1 << 20

INTEGERS = {
    f"{name}{suffix}": f"{name.upper()}{attribute}"
    for name in ("tinyint", "smallint", "mediumint", "int", "bigint")
    for suffix, attribute in (("", ""), ("_u", " UNSIGNED"))
}
NUMBERS = INTEGERS | {
    "int_zerofill": "INT(10) UNSIGNED ZEROFILL",
    "tinyint_1": "TINYINT(1)",
    "flag": "BOOL",
    "decimal_10_2": "DECIMAL(10,2)",
    "decimal_10_2_u": "DECIMAL(10,2) UNSIGNED",
    "decimal_30_10": "DECIMAL(30,10)",
    "decimal_38_18": "DECIMAL(38,18)",
    "decimal_65_0": "DECIMAL(65,0)",
    "decimal_65_30": "DECIMAL(65,30)",
    "double": "DOUBLE",
    "double_u": "DOUBLE UNSIGNED",
    "double_15_4": "DOUBLE(15,4)",
}
FLOATS = {"float": "FLOAT", "float_7_2": "FLOAT(7,2)"}
TIMES = {
    "date": "DATE",
    "datetime": "DATETIME",
    "datetime_3": "DATETIME(3)",
    "datetime_6": "DATETIME(6)",
    "timestamp": "TIMESTAMP NULL",
    "timestamp_6": "TIMESTAMP(6) NULL",
    "time": "TIME",
    "time_6": "TIME(6)",
    "year": "YEAR",
}
TEXTS = {
    "char": "CHAR(20) CHARACTER SET utf8mb4",
    "varchar": "VARCHAR(255) CHARACTER SET utf8mb4",
    "varchar_bin": "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "varchar_utf8mb3": "VARCHAR(255) CHARACTER SET utf8mb3",
    "varchar_latin1": "VARCHAR(255) CHARACTER SET latin1",
    "varchar_utf16": "VARCHAR(255) CHARACTER SET utf16",
    "tinytext": "TINYTEXT CHARACTER SET utf8mb4",
    "text": "TEXT CHARACTER SET utf8mb4",
    "text_latin1": "TEXT CHARACTER SET latin1",
    "text_compressed": "TEXT CHARACTER SET utf8mb4 COMPRESSED",
    "mediumtext": "MEDIUMTEXT CHARACTER SET utf8mb4",
    "longtext": "LONGTEXT CHARACTER SET utf8mb4",
    "json": "JSON",
    "enum": "ENUM('ring', 'größe', 'it''s', 'a,b', '😀') CHARACTER SET utf8mb4",
    "set": "SET('gold', 'größe', 'it''s', '😀') CHARACTER SET utf8mb4",
    "uuid": "UUID",
    "inet6": "INET6",
    "inet4": "INET4",
}
BITS = {"bit_1": "BIT(1)", "bit_8": "BIT(8)", "bit_64": "BIT(64)"}
BYTES = {
    "binary_4": "BINARY(4)",
    "varbinary": "VARBINARY(255)",
    "tinyblob": "TINYBLOB",
    "blob": "BLOB",
    "blob_compressed": "BLOB COMPRESSED",
    "mediumblob": "MEDIUMBLOB",
    "longblob": "LONGBLOB",
    "geometry": "GEOMETRY",
    "point": "POINT",
    "linestring": "LINESTRING",
    "polygon": "POLYGON",
    "multipoint": "MULTIPOINT",
    "multilinestring": "MULTILINESTRING",
    "multipolygon": "MULTIPOLYGON",
    "geometrycollection": "GEOMETRYCOLLECTION",
}
GENERATED = {
    "price_virtual": "DECIMAL(12,2) AS (`decimal_10_2` * 2) VIRTUAL",
    "name_stored": "VARCHAR(300) CHARACTER SET utf8mb4 AS (concat('[', `varchar`, ']')) STORED",
}
COLUMNS = NUMBERS | FLOATS | TIMES | TEXTS | BITS | BYTES | GENERATED

EVERY_TYPE_DDL = (
    f"CREATE TABLE {TABLE} (\n  `id` BIGINT UNSIGNED PRIMARY KEY"
    + "".join(f",\n  `{name}` {kind}" for name, kind in COLUMNS.items())
    + "\n) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4"
)


def literal(value: str | bytes) -> str:
    """The value as SQL that no quoting rule can change."""
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    return f"_utf8mb4 X'{value.encode().hex()}'"


def all_of(kinds: dict[str, str], value: str, *, but: tuple[str, ...] = ()) -> dict[str, str]:
    return {name: value for name in kinds if name not in but}


ANY_UNICODE = (
    *("char", "varchar", "varchar_bin", "varchar_utf16"),
    *("tinytext", "text", "text_compressed", "mediumtext", "longtext"),
)
FREE_TEXTS = (*ANY_UNICODE, "varchar_latin1", "text_latin1", "varchar_utf8mb3")


def text(value: str, columns: tuple[str, ...] = ANY_UNICODE) -> dict[str, str]:
    """The text in each of the columns; `char` takes it only if it fits."""
    return {name: literal(value) for name in columns if name != "char" or len(value) <= 20}


def blobs(value: bytes) -> dict[str, str]:
    return dict.fromkeys(("varbinary", "tinyblob", "blob", "blob_compressed", "mediumblob", "longblob"), literal(value))


def json(value: str) -> dict[str, str]:
    return {"json": literal(value)}


def integers(*, lowest: bool) -> dict[str, str]:
    bits = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
    signed = {name: str(-(2 ** (n - 1)) if lowest else 2 ** (n - 1) - 1) for name, n in bits.items()}
    return signed | {f"{name}_u": str(0 if lowest else 2**n - 1) for name, n in bits.items()}


def widest_decimals(sign: str = "") -> dict[str, str]:
    return {
        "decimal_10_2": f"{sign}99999999.99",
        "decimal_30_10": f"{sign}{'9' * 20}.{'9' * 10}",
        "decimal_38_18": f"{sign}{'9' * 20}.{'9' * 18}",
        "decimal_65_0": f"{sign}{'9' * 65}",
        "decimal_65_30": f"{sign}{'9' * 35}.{'9' * 30}",
    }


SHAPES = {
    "point": "POINT(1 -2.5)",
    "linestring": "LINESTRING(0 0,1 1,2 0)",
    "polygon": "POLYGON((0 0,4 0,4 4,0 4,0 0),(1 1,2 1,2 2,1 2,1 1))",
    "multipoint": "MULTIPOINT(0 0,1 1)",
    "multilinestring": "MULTILINESTRING((0 0,1 1),(2 2,3 3))",
    "multipolygon": "MULTIPOLYGON(((0 0,1 0,1 1,0 0)))",
    "geometrycollection": "GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1))",
}

HOSTILE_ROWS: dict[str, dict[str, str]] = {
    "all NULL": {},
    "an ordinary row": {
        **all_of(NUMBERS, "1"),
        **all_of(FLOATS, "1.5"),
        **all_of(TIMES, "'2026-03-01 12:34:56'", but=("time", "time_6", "year", "date")),
        "date": "'2026-03-01'",
        "time": "'12:34:56'",
        "time_6": "'12:34:56.000007'",
        "year": "2026",
        **text("Goldring", FREE_TEXTS),
        **json('{"carat": 18}'),
        "enum": "'ring'",
        "set": "'gold,größe'",
        "inet6": "'2001:db8::1'",
        "inet4": "'192.0.2.1'",
        "uuid": "'123e4567-e89b-12d3-a456-426614174000'",
        **all_of(BITS, "b'1'"),
        **blobs(b"abc"),
        "binary_4": literal(b"abcd"),
        **{name: f"ST_GeomFromText('{shape}')" for name, shape in SHAPES.items()},
        "geometry": "ST_GeomFromText('POINT(1 2)', 4326)",
    },
    "integers: lowest": integers(lowest=True) | {"tinyint_1": "-128", "flag": "-128"},
    "integers: highest": integers(lowest=False)
    | {"int_zerofill": "4294967295", "tinyint_1": "127", "flag": "127", "bigint_u": "18446744073709551615"},
    "integers: one beyond the signed ones": {
        "tinyint_u": "128",
        "smallint_u": "32768",
        "mediumint_u": "8388608",
        "int_u": "2147483648",
        "bigint_u": "9223372036854775808",
    },
    "integers: not exact as doubles": {"bigint": "9007199254740993", "bigint_u": "9007199254740993"},
    "integers: padded with zeros": {"int_zerofill": "42"},
    "flags: neither true nor false": {"tinyint_1": "2", "flag": "2"},
    "flags: false": {"tinyint_1": "0", "flag": "FALSE", **all_of(BITS, "b'0'")},
    "decimals: widest": widest_decimals() | {"decimal_10_2_u": "99999999.99"},
    "decimals: widest below zero": widest_decimals("-"),
    "decimals: smallest": {
        "decimal_10_2": "0.01",
        "decimal_30_10": "0.0000000001",
        "decimal_38_18": "0.000000000000000001",
        "decimal_65_0": "1",
        "decimal_65_30": f"0.{'0' * 29}1",
    },
    "decimals: zeros": all_of(widest_decimals(), "-0.00"),
    "decimals: more digits than a double holds": {"decimal_38_18": "12345678901234567890.123456789012345678"},
    "floats: negative zero": {"float": "-0e0", "double": "-0e0"},  # kept as 0
    "floats: highest": {
        "float": "3.4028234e38",
        "double": "1.7976931348623157e308",
        "double_u": "1e308",
        "float_7_2": "99999.99",
        "double_15_4": "99999999999.9999",
    },
    "floats: lowest": {
        "float": "-3.4028234e38",
        "double": "-1.7976931348623157e308",
        "float_7_2": "-99999.99",
        "double_15_4": "-99999999999.9999",
    },
    "floats: closest to zero": {"float": "1.17549435e-38", "double": "2.2250738585072014e-308"},
    "floats: subnormal": {"float": "1e-45", "double": "5e-324"},
    "floats: no exact binary": {"float": "0.1", "double": "0.1", "float_7_2": "0.1", "double_15_4": "0.1"},
    "floats: more digits than the server shows": {"float": "16777215", "double": "0.30000000000000004"},
    "times: zero": {
        **all_of(TIMES, "'0000-00-00 00:00:00'", but=("date", "time", "time_6", "year")),
        "date": "'0000-00-00'",
        "time": "'00:00:00'",
        "time_6": "'00:00:00'",
        "year": "0",
    },
    "times: days that no month has": {
        "date": "'2024-02-31'",
        "datetime": "'2024-02-31 10:00:00'",
        "datetime_3": "'2023-02-29 10:00:00.123'",
        "datetime_6": "'2024-02-31 10:00:00.123456'",
    },
    "times: a month without day": {"date": "'2024-05-00'", "datetime": "'2024-05-00 00:00:00'"},
    "times: a year without month": {"date": "'2024-00-00'", "datetime": "'2024-00-00 10:00:00'"},
    "times: a day of year zero": {"date": "'0000-01-01'", "datetime_6": "'0000-01-01 00:00:00.000001'"},
    "times: year one": {"date": "'0001-01-01'", "datetime_6": "'0001-01-01 00:00:00'"},
    "times: earliest": {
        "date": "'1000-01-01'",
        **all_of(TIMES, "'1000-01-01 00:00:00'", but=("date", "timestamp", "timestamp_6", "time", "time_6", "year")),
        "timestamp": "'1970-01-01 00:00:01'",
        "timestamp_6": "'1970-01-01 00:00:00.000001'",
        "time": "'-838:59:59'",
        "time_6": "'-838:59:59.999999'",
        "year": "1901",
    },
    "times: latest": {
        "date": "'9999-12-31'",
        "datetime": "'9999-12-31 23:59:59'",
        "datetime_3": "'9999-12-31 23:59:59.999'",
        "datetime_6": "'9999-12-31 23:59:59.999999'",
        "timestamp": "'2038-01-19 03:14:07'",
        "timestamp_6": "'2038-01-19 03:14:07.999999'",
        "time": "'838:59:59'",
        "time_6": "'838:59:59.999999'",
        "year": "2155",
    },
    "times: a whole number of hours beyond a day": {"time": "'24:00:00'", "time_6": "'838:59:59.000000'"},
    "times: just below zero": {"time": "'-00:00:01'", "time_6": "'-00:00:00.000001'"},
    "times: beyond nanoseconds in 64 bits": {"date": "'2262-04-12'", "datetime_6": "'2262-04-11 23:47:16.854776'"},
    "times: before 1970": {"date": "'1969-12-31'", "datetime_6": "'1969-12-31 23:59:59.999999'"},
    "times: in the hour that clocks skip in Berlin": {"datetime": "'2026-03-29 02:30:00'"},
    "times: in the hour that clocks repeat in Berlin": {
        "datetime": "'2026-10-25 02:30:00'",
        "timestamp": "'2026-10-25 00:30:00'",
        "timestamp_6": "'2026-10-25 01:30:00'",
    },
    "texts: empty": text("", FREE_TEXTS) | {"set": "''"} | blobs(b"") | {"binary_4": literal(b"")},
    "texts: quotes": text("'\"`\"\"''", FREE_TEXTS) | {"enum": "'it''s'", "set": "'it''s'"},
    "texts: backslashes": text("\\ \\\\ \\n \\' C:\\tmp\\", FREE_TEXTS),
    "texts: a dump's NULL": text("\\N", FREE_TEXTS),
    "texts: the word NULL": text("NULL", FREE_TEXTS),
    "texts: a NUL byte": text("a\0b", FREE_TEXTS),
    "texts: only a NUL byte": text("\0", FREE_TEXTS),
    "texts: line ends": text("a\nb\r\nc\rd\te\x1af\x0b\x0c", FREE_TEXTS),
    "texts: unicode line ends": text("a\u2028b\u2029c\x85"),
    "texts: comma separated": text("a,\"b\";'c'\t|d", FREE_TEXTS) | {"enum": "'a,b'"},
    "texts: injection": text("'; DROP TABLE x; --", FREE_TEXTS),
    "texts: placeholders": text("%s %(a)s ? :a {a} $1", FREE_TEXTS),
    "texts: spaces at both ends": text("  a  ", FREE_TEXTS),
    "texts: umlauts": text("äöüß ÄÖÜ éÿ", FREE_TEXTS) | {"enum": literal("größe"), "set": literal("größe")},
    "texts: what latin1 has beyond ISO 8859-1": text("€ „“ – ™ \x81", FREE_TEXTS),
    "texts: emoji": text("💍😀") | {"enum": literal("😀"), "set": literal("größe,😀")},
    "texts: joined emoji": text("👩‍👩‍👧‍👦 🇩🇪 👍🏽"),
    "texts: combining characters": text("e\u0301 a\u0308 Z\u0351\u036b\u0343", (*ANY_UNICODE, "varchar_utf8mb3")),
    "texts: right to left": text("\u202eabc\u202c שלום", (*ANY_UNICODE, "varchar_utf8mb3")),
    "texts: invisible": text("\ufeff\u200b\u200d\u00ad", (*ANY_UNICODE, "varchar_utf8mb3")),
    "texts: noncharacters": text("\ufffe\uffff\U0010ffff\ue000"),
    "texts: as long as the column": {
        **dict.fromkeys(("varchar", "varchar_bin", "varchar_utf16"), f"REPEAT({literal('💍')}, 255)"),
        "char": f"REPEAT({literal('💍')}, 20)",
        "varchar_utf8mb3": f"REPEAT({literal('€')}, 255)",
        "varchar_latin1": f"REPEAT({literal('ä')}, 255)",
        "tinytext": "REPEAT('x', 255)",
        "text": "REPEAT('x', 65535)",
        "text_latin1": f"REPEAT({literal('ä')}, 65535)",
        "text_compressed": "REPEAT('x', 65535)",
        "set": literal("gold,größe,it's,😀"),
    },
    "texts: 1 MB": {
        "mediumtext": f"REPEAT({literal('ä💍')}, {MIB // 6})",
        "longtext": f"REPEAT({literal('0123456789abcde💍')}, {MIB // 19})",
        "json": f"CONCAT('\"', REPEAT('x', {MIB}), '\"')",
    },
    "json: NULL as JSON": json("null"),
    "json: true": json("true"),
    "json: a number": json("-0.0"),
    "json: a text": json('"a"'),
    "json: empty": json("{}"),
    "json: an empty list": json("[]"),
    "json: big integers": json(
        '{"a": 18446744073709551615, "b": -9223372036854775809, "c": 123456789012345678901234567890}'
    ),
    "json: decimals": json(
        '{"a": 0.1000000000000000055511151231257827, "b": 19.90, "c": 1e400, "d": 1E-400, "e": 1.0}'
    ),
    "json: nested": json('{"a": ' * 15 + '[[{"b": null}]]' + "}" * 15),
    "json: unicode": json('{"größe": "💍", "escaped": "\\ud83d\\udc8d \\u0000 \\u00e4 \\/", "e\u0301": "\u2028"}'),
    "json: a key twice": json('{"a": 1, "a": 2, "": 3}'),
    "json: spaces": json(' \n{ "a" :\t1 }\r\n'),
    "json: mixed types": json('[1, "1", 1.5, null, true, {"a": []}, []]'),
    "uuid: nil": {"uuid": "'00000000-0000-0000-0000-000000000000'", "inet6": "'::'", "inet4": "'0.0.0.0'"},
    "uuid: highest": {
        "uuid": "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
        "inet6": "'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'",
        "inet4": "'255.255.255.255'",
    },
    "uuid: version 7": {"uuid": "'0190163D-8694-739B-AEA5-966C26F8AD91'", "inet6": "'::ffff:192.0.2.1'"},
    "bits: all ones": {"bit_1": "b'1'", "bit_8": "0xFF", "bit_64": f"b'{'1' * 64}'"},
    "bits: the highest alone": {"bit_8": "0x80", "bit_64": f"b'1{'0' * 63}'"},
    "bytes: all zero": blobs(bytes(8)) | {"binary_4": literal(bytes(4))},
    "bytes: not UTF-8": blobs(b"\xff\xfe\x80\xc3(\xed\xa0\x80") | {"binary_4": literal(b"\xff\xfe\x80\xc3")},
    "bytes: padded": {"binary_4": literal(b"a")},
    "bytes: every one": {
        name: sql for name, sql in blobs(bytes(range(256))).items() if name not in ("varbinary", "tinyblob")
    },
    "bytes: as long as the column": {
        "varbinary": "REPEAT(X'FF', 255)",
        "tinyblob": "REPEAT(X'FF', 255)",
        "blob": "REPEAT(X'00FF', 32767)",
        "blob_compressed": "REPEAT(X'00FF', 32767)",
    },
    "bytes: 1 MB": {"mediumblob": f"REPEAT(X'00FF80C3', {MIB // 4})", "longblob": f"REPEAT(X'FF00275C', {MIB // 4})"},
}
# Ids that a signed 64-bit column cannot hold belong to the last two rows; the others count from 0.
HIGHEST_IDS = {"id: one beyond the signed ones": 2**63, "id: highest": 2**64 - 1}
HOSTILE_ROWS |= {name: {"varchar": literal(name)} for name in HIGHEST_IDS}
IDS = {name: number for number, name in enumerate(HOSTILE_ROWS)} | HIGHEST_IDS
# What strict mode refuses, but older data has: an ENUM of no member, which reads as the empty text.
LENIENT = (f"UPDATE {TABLE} SET `enum` = 'nope' WHERE id = {IDS['texts: empty']}",)


@contextmanager
def session(server: MariaDB) -> Iterator[Cursor]:
    with closing(server.connect("root")) as connection, connection.cursor() as cursor:
        # Strict but for dates: a literal that does not fit its column is an error in this file.
        cursor.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES,ALLOW_INVALID_DATES', time_zone = '+00:00'")
        yield cursor


def create(server: MariaDB) -> None:
    """Makes the table anew and fills it."""
    with session(server) as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {TABLE}")
        cursor.execute(EVERY_TYPE_DDL)
        for name, row in HOSTILE_ROWS.items():
            columns = ", ".join(f"`{column}`" for column in ("id", *row))
            cursor.execute(f"INSERT INTO {TABLE} ({columns}) VALUES ({', '.join((str(IDS[name]), *row.values()))})")
        cursor.execute("SET SESSION sql_mode = ''")
        for statement in LENIENT:
            cursor.execute(statement)


def shown(column: str) -> str:
    """SQL for the column's value as text."""
    if column in BYTES:
        return f"HEX(`{column}`)"
    if column in BITS:
        return f"CAST(`{column}` + 0 AS CHAR)"
    if column in FLOATS:  # as it is, a FLOAT shows six digits of its nine
        return f"CAST(CAST(`{column}` AS DOUBLE) AS CHAR)"
    return f"CAST(`{column}` AS CHAR CHARACTER SET utf8mb4)"


def expected_rows(server: MariaDB) -> dict[str, list[str | None]]:
    """Each column's values, ordered by id, as the server shows them.

    Bytes and geometries are hexadecimal, bits are decimal, times are in UTC.
    """
    names = ("id", *COLUMNS)
    with session(server) as cursor:
        cursor.execute(f"SELECT {', '.join(map(shown, names))} FROM {TABLE} ORDER BY id")
        rows = cursor.fetchall()
    return {name: [row[n] for row in rows] for n, name in enumerate(names)}
