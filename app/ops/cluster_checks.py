"""What `carat doctor` checks of a cluster: that each shard is there, is the right one, and can be written to."""

from collections.abc import Iterator

from app.contracts.grants import cluster_grants
from app.core.errors import CaratError
from app.ops.finding import Finding
from app.ops.server_checks import MAX_CLOCK_SKEW_S, check_rights, check_user, check_version, clock_skew_s
from app.warehouse import Warehouse
from app.warehouse.cluster import Cluster, Node

_MOST_DELAY_S = 300
_MACROS = ("shard", "replica")


def check_cluster(cluster: Cluster) -> Iterator[Finding]:
    """The cluster as a whole, then each shard."""
    layout = cluster.layout
    replicas = [1 + len(shard.others) for shard in layout.shards]
    kinds = "replicated" if layout.is_replicated else "without replicas: a lost disk is a lost shard"
    yield Finding(
        "cluster",
        is_ok=True,
        is_warning=not layout.is_replicated,
        detail=f"{layout.name}: {len(replicas)} shards, {kinds}; Carat works on "
        + ", ".join(f"{shard.url.host}:{shard.url.port}" for shard in layout.shards),
    )
    if layout.is_replicated:
        yield Finding(
            "history",
            is_ok=True,
            is_warning=True,
            detail=f"history is on {layout.shards[0].url.host} alone and not replicated yet: back it up; see "
            "docs/cluster.md",
        )
    yield Finding(
        "orders",
        is_ok=True,
        is_warning=True,
        detail="dwh.orders and dwh.refunds are not built on a cluster yet: they are empty; see docs/cluster.md",
    )
    yield from check_rights(cluster, cluster_grants(is_replicated=layout.is_replicated))
    for shard in layout.shards:
        check = f"shard {shard.number}"
        try:
            with Node(shard, cluster) as node:
                yield from _check_node(node, check, is_replicated=layout.is_replicated)
        except CaratError as error:
            yield Finding(check, is_ok=False, detail=str(error))


def _check_node(node: Node, check: str, *, is_replicated: bool) -> Iterator[Finding]:
    node.require_fitting(set(node.query("SELECT name FROM system.databases")["name"]))
    version = check_version(node.version)
    if not version.is_ok or version.is_warning:
        yield version
    skew_s = clock_skew_s(node)
    if skew_s > MAX_CLOCK_SKEW_S:
        yield Finding(
            check, is_ok=False, detail=f"{node.url}: its clock is {skew_s:.1f} s off: synchronize it with NTP"
        )
    if is_replicated:
        yield from _check_replica(node, check)
    yield from (finding for finding in check_user(node, has_shop_link=False) if not finding.is_ok)
    yield Finding(check, is_ok=True, detail=f"{node.url}, ClickHouse {node.version}: {node.label}")


def _check_replica(node: Warehouse, check: str) -> Iterator[Finding]:
    """Whether the server can have replicated tables, and how those that it has are doing."""
    macros = set(node.query("SELECT macro FROM system.macros")["macro"])
    if missing := [name for name in _MACROS if name not in macros]:
        names = " and ".join(f"<{name}>" for name in missing)
        yield Finding(check, is_ok=False, detail=f"{node.url}: add {names} to <macros> in its configuration")
    has_keeper = node.scalar("SELECT count() FROM system.tables WHERE database = 'system' AND name = 'zookeeper'")
    if not has_keeper:
        yield Finding(check, is_ok=False, detail=f"{node.url}: no Keeper in its configuration: add <zookeeper>")
    found = node.query(
        "SELECT countIf(is_readonly) AS readonly, max(absolute_delay) AS delay_s, any(table) AS table "
        "FROM system.replicas WHERE database IN ('pd_local', 'dwh_local', 'etl')"
    )
    readonly, delay_s, table = found.row(0)
    if readonly:
        detail = f"{node.url}: {readonly} replicas such as {table} are read-only: its session with Keeper is lost"
        yield Finding(check, is_ok=False, detail=detail)
    elif delay_s > _MOST_DELAY_S:
        yield Finding(check, is_ok=True, is_warning=True, detail=f"{node.url}: is {delay_s} s behind another replica")
