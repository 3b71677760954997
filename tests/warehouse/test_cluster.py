"""What a cluster's shards are, what statements reach them, and which warehouses do not fit."""

import polars as pl
import pytest

from app.contracts import API_CALLS, LEDGER, SESSIONS
from app.core.errors import ContractError, SettingsError
from app.core.service_url import ServiceUrl
from app.settings import Settings
from app.warehouse.cluster import (
    Cluster,
    Layout,
    Shard,
    layout_of,
    local_sql,
    local_table,
    public_table_sql,
    refuse_on_cluster,
)

URL = "clickhouse://carat:secret@ch1:8123/?cluster=shop"


def url(more: str = "") -> ServiceUrl:
    return ServiceUrl.parse(URL + more, "clickhouse")


def listed(*rows: tuple[int, int, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["shard", "replica", "host_name"], orient="row")


TWO_SHARDS = listed((1, 1, "ch1"), (1, 2, "ch2"), (2, 1, "ch3"), (2, 2, "ch4"))


# ---- where the shards are ----------------------------------------------------------------------------------------


def test_carat_works_on_the_first_replica_of_each_shard_at_the_port_of_the_url():
    layout = layout_of(url(), TWO_SHARDS.reverse())
    assert [(shard.number, shard.url.host, shard.url.port) for shard in layout.shards] == [
        (1, "ch1", 8123),
        (2, "ch3", 8123),
    ]
    assert [[other.host for other in shard.others] for shard in layout.shards] == [["ch2"], ["ch4"]]
    assert layout.is_replicated


def test_a_cluster_with_one_replica_in_each_shard_replicates_nothing():
    assert not layout_of(url(), listed((1, 1, "ch1"), (2, 1, "ch2"))).is_replicated


def test_the_url_can_name_the_replica_of_each_shard():
    layout = layout_of(url("&hosts=ch2,ch4:8124"), TWO_SHARDS)
    assert [(shard.url.host, shard.url.port, shard.others) for shard in layout.shards] == [
        ("ch2", 8123, ()),
        ("ch4", 8124, ()),
    ]
    assert layout.is_replicated


def test_hosts_of_another_number_than_shards_are_refused():
    with pytest.raises(SettingsError, match=r"hosts= lists 1 servers, cluster shop has 2 shards"):
        layout_of(url("&hosts=ch2"), TWO_SHARDS)


def test_the_address_of_a_shard_does_not_show_the_password():
    (shard, _) = layout_of(url(), TWO_SHARDS).shards
    assert str(shard.url) == "clickhouse://carat:***@ch1:8123/"
    assert shard.url.password.get_secret_value() == "secret"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("?hosts=ch1", "hosts= has no effect without cluster="),
        ("?cluster=", "cluster= needs a value"),
        ("?cluster=a'b", "cluster= is not the name of a cluster"),
        ("?cluster=shop&hosts=ch1,,ch2", "hosts= needs a list such as"),
        ("?cluster=shop&hosts=ch1,ch2:0", "hosts= needs a list such as"),
        ("?cluster=shop&hosts=ch1,ch1", "hosts= lists a server twice"),
        ("?clustr=shop", "Did you mean cluster"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, problem):
    with pytest.raises(ValueError, match=problem):
        ServiceUrl.parse(f"clickhouse://carat:secret@ch1:8123/{options}", "clickhouse")


# ---- the statements ----------------------------------------------------------------------------------------------


def test_a_statement_on_public_tables_reaches_the_tables_of_the_shard():
    sql = "INSERT INTO pd.api_calls SELECT events.id FROM dwh.`events` AS events WHERE id IN (SELECT id FROM etl.x)"
    assert local_sql(sql) == (
        "INSERT INTO pd_local.api_calls SELECT events.id FROM dwh_local.`events` AS events "
        "WHERE id IN (SELECT id FROM etl.x)"
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'dwh.events', 'it''s pd.api_calls', 'a \\' dwh.x'",
        'SELECT `dwh.x`, "pd.y" FROM history.dwh',
        "SELECT x.dwh.a, mydwh.a, pd_local.b, dwh",
        "SELECT match(endpoint, '^/pd.api')",
    ],
)
def test_names_in_texts_and_names_of_other_things_stay(sql):
    assert local_sql(sql) == sql


def test_a_shard_with_one_replica_stores_the_contract_in_a_database_of_its_own():
    local = local_table(API_CALLS, is_replicated=False)
    assert local.create_statement() == API_CALLS.create_statement().replace("pd.api_calls", "pd_local.api_calls")


def test_replicas_remember_inserts_where_a_single_server_does():
    sql = local_table(API_CALLS, is_replicated=True).create_statement()
    assert "CREATE TABLE IF NOT EXISTS pd_local.api_calls" in sql
    assert "ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')" in sql
    assert "SETTINGS index_granularity = 1024, replicated_deduplication_window = 1000, fsync" in sql
    assert "non_replicated" not in sql


def test_replicas_do_not_drop_equal_rows_of_the_ledger():
    sql = local_table(LEDGER, is_replicated=True).create_statement()
    assert "CREATE TABLE IF NOT EXISTS etl.ledger" in sql
    assert "replicated_deduplication_window = 0" in sql


def test_the_public_table_reads_all_shards_and_takes_no_inserts():
    assert public_table_sql(SESSIONS, "shop").splitlines()[:2] == [
        "CREATE TABLE IF NOT EXISTS dwh.sessions AS dwh_local.sessions",
        "ENGINE = Distributed('shop', 'dwh_local', 'sessions')",
    ]
    assert public_table_sql(SESSIONS, "shop", replaces=True).startswith("CREATE OR REPLACE TABLE dwh.sessions AS")


def test_staging_tables_are_never_replicated():
    """They are on one replica and gone after the swap: Keeper need not know them."""
    assert "ENGINE = MergeTree" in SESSIONS.create_statement(name="etl.staged_sessions_20260301_abc")


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_what_does_not_work_on_a_cluster_says_so_with_the_code_of_wrong_usage():
    with pytest.raises(SettingsError, match="not on a cluster yet: `carat backup`") as refused:
        refuse_on_cluster(Settings(_env_file=None, warehouse=URL), "`carat backup`", "Use BACKUP")
    assert refused.value.exit_code == 2
    refuse_on_cluster(Settings(_env_file=None, warehouse="clickhouse://ch1/"), "`carat backup`", "")


def test_rows_of_a_visitor_cannot_be_inserted_without_saying_on_which_shard():
    with pytest.raises(ContractError, match=r"rows of pd\.api_calls belong to a shard each"):
        Cluster.insert(object.__new__(Cluster), API_CALLS, pl.DataFrame())


def test_the_label_of_a_shard_is_what_its_databases_say():
    layout = Layout("shop", (Shard(1, url()), Shard(2, url())), is_replicated=False)
    assert layout.label(layout.shards[1]) == "shard 2 of 2 of cluster shop"
