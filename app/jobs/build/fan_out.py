"""Builds stale days on several machines: the workers of a Dask scheduler, which share a ClickHouse server.

One process holds the lease, compares, and hands out days, newest first; a worker builds and publishes a day as that
process would. Only days, digests of rules and fingerprints travel; calls and secrets stay where they are.
"""

import logging
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeGuard
from uuid import uuid4

import polars as pl

from app.core import console
from app.core.errors import CaratError, ClusterError, LockedError, SettingsError
from app.core.service_url import ServiceUrl
from app.frames.days import DayBounds, day_bounds
from app.jobs.build.backfill import DayRunner, Work, build_and_record
from app.jobs.build.built import DayBuilt
from app.jobs.build.days import DAY_ERRORS
from app.jobs.build.ledger import Inputs, StaleDay
from app.jobs.build.rules import BuildRules
from app.settings import Settings, load_settings
from app.warehouse import Warehouse, open_warehouse, recover
from app.warehouse.cluster import refuse_on_cluster
from app.warehouse.lease import lent_token, require_lent

_CONNECT_S = 5.0
_FIRST_WORKER_S = 10.0
_LOOK_S = 0.1
_COUNT_S = 1.0
_DIFFERENCES = {
    "endpoint_map": "another endpoint map (CARAT_TRACKING)",
    "transform_version": "another version of Carat",
    "timezone": "another time zone (CARAT_TIMEZONE)",
    "session_timeout_ms": "another session timeout (CARAT_SESSION_TIMEOUT)",
    "product_plan": "another snapshot plan of products (CARAT_SNAPSHOTS)",
}


@dataclass(frozen=True)
class DayTask:
    """A day to be built by a worker: all that goes over the wire.

    `inputs` are those of this day only. `raw_table` is the UUID of `pd.api_calls`, as a server may have several names.
    """

    day: StaleDay
    inputs: Inputs
    raw_table: str
    token: str
    max_row_factor: float
    skip_row_count_check: bool


@contextmanager
def open_runner(settings: Settings, address: str | None, *, dry_run: bool = False) -> Iterator[DayRunner | None]:
    """Yield what builds days on the workers of the scheduler at this address; None without an address."""
    if address is None:
        yield None
        return
    if not settings.has_server:
        raise SettingsError(
            "--on needs a ClickHouse server that every worker reaches: CARAT_WAREHOUSE=clickhouse://…; the embedded "
            "engine has room for one process"
        )
    refuse_on_cluster(settings, "`carat etl --on`", "Build without --on")
    distributed = _distributed()
    _require_address(distributed, address)
    if dry_run:
        yield None
        return
    with _connected(distributed, address) as client:
        yield partial(_build_there, _Cluster(distributed, client, address))


def build_on_worker(task: DayTask) -> DayBuilt | CaratError:
    """Build a day in a worker by its own settings and files; SettingsError if they differ from the sender's.

    A failure is returned with its text only, because its cause may hold what must not travel; this machine's log has
    the whole.
    """
    try:
        settings = load_settings().model_copy(update={"max_row_factor": task.max_row_factor})
        rules = BuildRules.load(settings)
        _require_same_rules(task.inputs.rules, rules.digests)
        if not settings.has_server:
            raise SettingsError("has no ClickHouse server in CARAT_WAREHOUSE")
        with open_warehouse(settings, purpose="carat etl", writes=False) as warehouse:
            _require_same_warehouse(warehouse, task.raw_table)
            warehouse.with_guard(partial(require_lent, token=task.token)).require_lease()
            # The worker writes the ledger, right after publishing and under the same lease. If it dies in between, the
            # day is built and still stale, so it is built once more. If the sender wrote the ledger instead, its death
            # would cost every day whose result it had not yet received.
            return build_and_record(
                warehouse, task.inputs, task.day, rules, skip_row_count_check=task.skip_row_count_check
            )
    except CaratError as error:
        console.record_failure(error)
        where = "" if isinstance(error, DAY_ERRORS) else f"worker {_worker_name()} "
        return type(error)(f"{where}{error}")


@dataclass(frozen=True)
class _Cluster:
    """A scheduler that has answered."""

    distributed: Any
    client: Any
    address: str

    def submit(self, task: DayTask) -> Any:
        key = f"carat-etl-{task.day.day}-{uuid4().hex}"  # unique, so that it never meets a task of an earlier run
        return self.client.submit(build_on_worker, task, key=key, pure=False)

    def count_threads(self) -> int:
        """The number of days that can be built at the same time."""
        try:
            return sum(self.client.nthreads().values())
        except (OSError, RuntimeError, self.distributed.client.ClosedClientError):
            raise self.gone() from None

    def require_worker(self) -> None:
        deadline = time.monotonic() + _FIRST_WORKER_S
        while not self.count_threads():
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the scheduler at {self.address} has no worker: start some with `dask worker {self.address}`, "
                    "and run the same command again"
                )
            time.sleep(_LOOK_S)

    def gone(self) -> ClusterError:
        return ClusterError(
            f"the scheduler at {self.address} is gone. What was built is kept; run the same command again for the rest"
        )

    def outcome(self, future: Any, day: StaleDay) -> DayBuilt | CaratError | None:
        """The outcome of a day; None if its result was lost with its worker, so that it is built once more."""
        if future.cancelled():
            raise self.gone()
        if future.status == "error":
            error = future.exception(timeout=_CONNECT_S)
            if isinstance(error, self.distributed.KilledWorker):
                return ClusterError(
                    f"{day.day}: every worker that began to build it died, {error.allowed_failures + 1} of them. Do "
                    "they have enough memory? CARAT_SHARD_CALLS and CARAT_WORKERS make a day smaller there"
                )
            raise error
        try:
            built: DayBuilt | CaratError = future.result(timeout=_CONNECT_S)
        except self.distributed.TimeoutError:
            return None
        return built


def _build_there(cluster: _Cluster, warehouse: Warehouse, work: Work) -> Iterator[DayBuilt | CaratError]:
    if not work.days:
        return
    cluster.require_worker()
    task_of = partial(
        DayTask,
        raw_table=_raw_table(warehouse),
        token=lent_token(warehouse),
        max_row_factor=work.rules.settings.max_row_factor,
        skip_row_count_check=work.skip_row_count_check,
    )

    def submit(day: StaleDay) -> Any:
        # Days are built whole: a patch would trust the published day, which may be a mixture after an attempt that died
        # while publishing.
        whole = replace(day, can_patch=False)
        return cluster.submit(task_of(whole, _inputs_of(work.inputs, whole)))

    failure: CaratError | None = None
    for day, outcome in _handed_out(cluster, work.days, submit, retry_timeout_s=work.rules.settings.patience_s):
        work.bar.label(f"etl {day.day}")
        work.bar.advance(work.inputs.of_day(day.day)["calls"])
        if _ends_the_run(outcome):
            failure = failure or outcome
        else:
            yield outcome
    if not isinstance(failure, LockedError):
        # Finish what a dead worker has left; one that was only thought dead finds its tables gone.
        warehouse.require_lease()
        for published in recover(warehouse):
            console.log.warning("published again after a worker died", day=str(published))
    if failure:
        raise failure


def _handed_out(
    cluster: _Cluster, days: Sequence[StaleDay], submit: Callable[[StaleDay], Any], *, retry_timeout_s: float
) -> Iterator[tuple[StaleDay, DayBuilt | CaratError]]:
    """The outcome of each day, as they end.

    As many days are handed out as there are threads, so they are begun in order. After an error that is not a single
    day's, none is begun, and those that run are awaited.
    """
    waiting, running = deque(days), dict[Any, StaleDay]()
    threads, counted_at, worked_at = 0, 0.0, time.monotonic()
    while waiting or running:
        now = time.monotonic()
        if now - counted_at >= _COUNT_S:  # workers come and go
            threads, counted_at = cluster.count_threads(), now
            worked_at = now if threads else worked_at
        if not threads and now - worked_at > retry_timeout_s:
            raise ClusterError(
                f"the scheduler at {cluster.address} has had no worker for {retry_timeout_s:g} s. What was built is "
                "kept; run the same command again for the rest"
            )
        while waiting and len(running) < threads:
            day = waiting.popleft()
            running[submit(day)] = day
        for future in [future for future in running if future.done()]:
            outcome = cluster.outcome(future, running[future])
            if outcome is None:
                continue
            if _ends_the_run(outcome):
                waiting.clear()
            yield running.pop(future), outcome
        if running:
            time.sleep(_LOOK_S)


def _ends_the_run(outcome: DayBuilt | CaratError) -> TypeGuard[CaratError]:
    """Whether it is an error that other days would meet as well."""
    return isinstance(outcome, CaratError) and not isinstance(outcome, (*DAY_ERRORS, ClusterError))


def _inputs_of(inputs: Inputs, stale: StaleDay) -> Inputs:
    """The part of the inputs that the build of one day uses."""
    bounds = day_bounds(stale.day, inputs.zone)
    around = (stale.day, stale.day + timedelta(days=1))
    at = pl.col("at").dt.epoch("ms")
    return replace(
        inputs,
        days=inputs.days.filter(pl.col("day") == stale.day),
        quarter_hours=inputs.quarter_hours.filter(at.is_between(bounds.previous_start, bounds.next_end)),
        versions=_versions_of(inputs.versions, bounds),
        lookup_versions=_versions_of(inputs.lookup_versions, bounds),
        orders_elsewhere={},
        built={key: row for key, row in inputs.built.items() if key[0] in around},
    )


def _versions_of(versions: pl.DataFrame, bounds: DayBounds) -> pl.DataFrame:
    """Those up to the next day, into which sessions may reach; one row before, as the sums are cumulative."""
    at = pl.col("at").dt.epoch("ms")
    before = versions.filter(at < bounds.start).tail(1)
    return pl.concat([before, versions.filter(at.is_between(bounds.start, bounds.next_end))])


def _require_same_rules(theirs: dict[str, Any], own: dict[str, Any]) -> None:
    differing = [name for name in theirs | own if theirs.get(name) != own.get(name)]
    if differing:
        found = ", ".join(_DIFFERENCES.get(name, f"another {name}") for name in differing)
        raise SettingsError(f"has {found} than the process that hands out the days")


def _require_same_warehouse(warehouse: Warehouse, raw_table: str) -> None:
    if _raw_table(warehouse) != raw_table:
        raise SettingsError("has another warehouse (CARAT_WAREHOUSE) than the process that hands out the days")


def _raw_table(warehouse: Warehouse) -> str:
    found = warehouse.query(
        "SELECT toString(uuid) AS id FROM system.tables WHERE database = 'pd' AND name = 'api_calls'"
    )
    return str(found.item()) if found.height else ""


def _worker_name() -> str:
    """The name and host of the worker that runs this."""
    host = socket.gethostname()
    try:
        return f"{_distributed().get_worker().name} on {host}"
    except ValueError:  # not called by a worker
        return f"on {host}"


def _distributed() -> Any:
    try:
        import distributed  # noqa: PLC0415  a second to load, and only --on needs it
    except ImportError:
        raise SettingsError(
            f"--on needs Dask's scheduler: {sys.executable} -m pip install distributed, on every machine"
        ) from None
    return distributed


def _require_address(distributed: Any, address: str) -> None:
    """Raise SettingsError unless the address is complete: Dask's own errors are hard to read."""
    try:
        url = ServiceUrl.parse(address, "tcp", "tls")
    except ValueError:
        url = None
    if url is None or not url.port:
        raise SettingsError(f"--on {address!r} is not the address of a scheduler, such as tcp://scheduler:8786")
    if url.scheme == "tls" and not distributed.Security().get_connection_args("client").get("ssl_context"):
        raise SettingsError(
            "--on tls://… needs a certificate: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE and …__CLIENT__CERT, …__KEY"
        )


@contextmanager
def _connected(distributed: Any, address: str) -> Iterator[Any]:
    for name in ("distributed", "distributed.client"):  # what they log also arrives as an error
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False, name="carat-etl")
    except OSError as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ClusterError(
            f"no scheduler answers at {address} ({reason}): start it with `dask scheduler`, or build here without --on"
        ) from None
    try:
        yield client
    finally:
        with suppress(OSError):  # a scheduler that no longer answers must not delay the end
            client.close(timeout=_CONNECT_S)
