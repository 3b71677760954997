"""Parses user agents: each distinct one once per run, and none that an earlier run parsed by the same rules."""

from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING

import polars as pl

from app.contracts import USER_AGENTS
from app.frames.devices import DEVICE_SCHEMA, read_user_agents
from app.jobs.build.call_sql import instant
from app.rules.devices import DeviceRules
from app.warehouse import Warehouse

if TYPE_CHECKING:
    from app.jobs.build.shards import BuildScope

# A limit, so that a client which sends a new user agent with every call fills neither memory nor disk.
_MOST_KEPT = 200_000


class UserAgents:
    """The parsed user agents of a run's days, by one set of rules; safe for threads.

    With `remember` they are stored in `etl.user_agents` for later runs and read from there. The result is the same
    without it, so that a verification does not rely on what is stored.
    """

    def __init__(self, rules: DeviceRules, *, remember: bool = True) -> None:
        self._rules = rules
        self._digest = rules.digest
        self._remember = remember
        self._reading = Lock()
        self._known = pl.DataFrame(schema=DEVICE_SCHEMA)

    def of_scope(self, warehouse: Warehouse, scope: "BuildScope") -> pl.DataFrame:
        """A row per distinct user agent of the calls that the scope may read, in the shape of `read_user_agents`."""
        of_nodes = [self._of_node(node, scope) for node in warehouse.nodes]
        return of_nodes[0] if len(of_nodes) == 1 else pl.concat(of_nodes).unique("user_agent")

    def _of_node(self, warehouse: Warehouse, scope: "BuildScope") -> pl.DataFrame:
        wanted = _distinct_user_agents(scope)
        parameters = {"start": scope.bounds.start, "end": scope.bounds.next_end, "rules": self._digest}
        with self._reading:
            found = warehouse.query(wanted, parameters, schema={"user_agent": pl.String()})
            known = self._known.join(found, on="user_agent", how="semi")
            missing = found.join(known, on="user_agent", how="anti")
            kept = _read_kept(warehouse, wanted, parameters) if self._remember and missing.height else known.clear()
            kept = kept.join(missing, on="user_agent", how="semi")
            read = read_user_agents(missing.join(kept, on="user_agent", how="anti")["user_agent"], self._rules)
            if self._remember and read.height:
                _keep(warehouse, read, rules=self._digest)
            new = pl.concat([kept, read])
            if self._known.height + new.height <= _MOST_KEPT:
                self._known = pl.concat([self._known, new])
        return pl.concat([known, new])


def _distinct_user_agents(scope: "BuildScope") -> str:
    within = f"ts >= {instant('start')} AND ts < {instant('end')}{scope.selected}"
    of_linked = f" UNION DISTINCT SELECT user_agent FROM {scope.linked_calls}" if scope.linked_calls else ""
    return f"SELECT DISTINCT user_agent FROM pd.api_calls WHERE {within}{of_linked}"


def _read_kept(warehouse: Warehouse, wanted: str, parameters: dict[str, object]) -> pl.DataFrame:
    return warehouse.query(
        f"SELECT {', '.join(DEVICE_SCHEMA)} FROM etl.user_agents "
        f"WHERE rules = {{rules:String}} AND user_agent IN ({wanted}) LIMIT 1 BY user_agent",
        parameters,
        schema=DEVICE_SCHEMA,
    )


def _keep(warehouse: Warehouse, read: pl.DataFrame, *, rules: str) -> None:
    """Store what was parsed by these rules; drop what others parsed, and everything where it becomes too much."""
    counts = warehouse.counts({"all": ("etl.user_agents", "1"), "others": ("etl.user_agents", f"rules != '{rules}'")})
    if counts["others"] or counts["all"] + read.height > _MOST_KEPT:
        warehouse.command("TRUNCATE TABLE etl.user_agents")
    read_at = pl.lit(datetime.now(tz=UTC)).cast(USER_AGENTS.schema["read_at"])
    warehouse.insert(USER_AGENTS, read.head(_MOST_KEPT).with_columns(rules=pl.lit(rules), read_at=read_at))
