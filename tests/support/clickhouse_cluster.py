"""A cluster of ClickHouse servers for tests: one chDB process behind one HTTP front for each shard.

Each server knows all shards by name, as `remote_servers` lists them, but none speaks the native protocol between
servers: a Distributed table can be created and not be read. Tests read shard by shard instead.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.settings import Settings
from tests.support.killing import Server

NAME = "shop"
_FIRST_NATIVE_PORT = 19_000  # where nothing listens


@dataclass
class ServedCluster:
    servers: list[Server] = field(default_factory=list)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"{self.servers[0].url}?cluster={NAME}&hosts={hosts}"


@contextmanager
def serving_cluster(folder: Path, shards: int) -> Iterator[ServedCluster]:
    """So many servers, each with its data in a folder of its own."""
    config = folder / "config.xml"
    config.write_text(cluster_config(shards))
    with ExitStack() as stack:
        cluster = ServedCluster()
        for number in range(shards):
            server = Server(folder / f"shard-{number + 1}", config=config)
            server.folder.mkdir(parents=True, exist_ok=True)
            server.start()
            stack.callback(lambda server=server: server.is_running and server.kill())
            cluster.servers.append(server)
        yield cluster


def cluster_config(shards: int, replicas: Sequence[str] = ("127.0.0.1",)) -> str:
    """What an administrator writes: the cluster, with these replicas in each shard."""
    listed = "".join(
        "<shard><internal_replication>true</internal_replication>"
        + "".join(
            f"<replica><host>{host}</host><port>{_FIRST_NATIVE_PORT + number}</port></replica>" for host in replicas
        )
        + "</shard>"
        for number in range(shards)
    )
    return f"<clickhouse><remote_servers><{NAME}>{listed}</{NAME}></remote_servers></clickhouse>"


def settings_of(cluster: ServedCluster, **overrides: object) -> Settings:
    return Settings(_env_file=None, warehouse=cluster.url, **overrides)  # type: ignore[arg-type]
