"""What Carat's user needs on a ClickHouse server, declared once: `carat doctor` checks it and says what to grant."""

from collections.abc import Iterator
from dataclasses import dataclass

from app.contracts import DATABASES

SHOP_DATABASE = "mysql"
SHOP_COLLECTION = "carat_shop"


@dataclass(frozen=True)
class Grant:
    """Rights on one object, and what needs them. Work goes on without those that are not `is_required`."""

    privileges: tuple[str, ...]
    on: str
    purpose: str
    is_required: bool = True

    def statement(self, user: str) -> str:
        """The statement that an administrator runs."""
        return f"GRANT {', '.join(self.privileges)} ON {self.on} TO {user}"


_PURPOSES = {
    "pd": "ingest, load and forget store and erase raw calls",
    "dwh": "etl, verify and forget build and publish days",
    "history": "snapshot and forget keep versions of the shop's rows",
    "etl": "staging, the lease of the writer, the ledger, runs and rejects",
}
_WRITES = (
    "SELECT", "INSERT", "ALTER TABLE", "CREATE DATABASE", "CREATE TABLE", "CREATE VIEW", "DROP TABLE", "DROP VIEW",
    "TRUNCATE", "OPTIMIZE",
)  # fmt: skip
_SYSTEM_TABLES = ("tables", "columns", "parts", "databases", "mutations", "settings", "table_functions")


def cluster_grants(*, is_replicated: bool) -> Iterator[Grant]:
    """What a cluster needs besides, on the server of its first shard; the others need the writer's rights."""
    yield Grant(("SELECT",), "system.clusters", "where the shards are")
    yield Grant(("TABLE ENGINE",), "Distributed", "migrate creates the public tables")
    yield Grant(("REMOTE",), "*.*", "the public tables read the other shards")
    if is_replicated:
        yield Grant(("TABLE ENGINE",), "ReplicatedMergeTree", "migrate creates the tables of the shards")
        yield Grant(("SYSTEM SYNC REPLICA",), "*.*", "etl waits for the other replicas before it publishes")


def reader_grants() -> Iterator[Grant]:
    """For query, status, plan, dashboards validate, and for Metabase."""
    for database in DATABASES:
        yield Grant(("SELECT",), f"{database}.*", "query, status, plan and dashboards read")


def writer_grants(*, has_shop_link: bool) -> Iterator[Grant]:
    """For every command; `has_shop_link`: with the database mysql, a link to the shop's."""
    for database in DATABASES:
        yield Grant(_WRITES, f"{database}.*", f"migrate creates it; {_PURPOSES[database]}")
    for table in _SYSTEM_TABLES:
        yield Grant(("SELECT",), f"system.{table}", "what there is, and where staging and recovery stand")
    for engine in ("MergeTree", "Memory"):
        yield Grant(("TABLE ENGINE",), engine, "migrate and etl create tables of this engine")
    if has_shop_link:
        yield Grant(
            ("CREATE DATABASE", "DROP DATABASE", "SHOW", "SELECT"), f"{SHOP_DATABASE}.*", "the link to the shop"
        )
        yield Grant(("MYSQL",), "*.*", "the link to the shop reads from MySQL")
        yield Grant(
            ("CREATE NAMED COLLECTION", "ALTER NAMED COLLECTION", "NAMED COLLECTION"),
            SHOP_COLLECTION,
            "the link keeps its password in a named collection instead of its definition",
            is_required=False,
        )
