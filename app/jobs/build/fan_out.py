"""Builds stale days on many machines: the workers of a Dask scheduler, with the ClickHouse server as what they share.

One process holds the lease, compares, and hands out days, oldest first; a worker builds and publishes a day as that
process would. What travels are days, rules and sums: calls and secrets stay where they are.
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
from app.frames.days import day_spans
from app.jobs.build.backfill import OF_ONE_DAY, Builder, Rules, Work, build_one
from app.jobs.build.day import DayBuilt
from app.jobs.build.ledger import Inputs, StaleDay, read_rules
from app.settings import Settings, load_settings
from app.warehouse import Warehouse, open_warehouse, recover
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
    """A day to be built elsewhere: all that goes over the wire.

    `inputs` are those of this day alone. `raw_table` is the identity of `pd.api_calls`: a host may have many names.
    """

    day: StaleDay
    inputs: Inputs
    raw_table: str
    token: str
    max_row_factor: float
    believe_size: bool


@contextmanager
def open_builder(settings: Settings, address: str | None, *, dry_run: bool = False) -> Iterator[Builder | None]:
    """What builds days on the workers of the scheduler at this address; None where no other machine is needed."""
    if address is None:
        yield None
        return
    if not settings.has_server:
        raise SettingsError(
            "--on needs a ClickHouse server that every worker reaches: CARAT_WAREHOUSE=clickhouse://…; the embedded "
            "engine has room for one process"
        )
    distributed = _distributed()
    _require_address(distributed, address)
    if dry_run:
        yield None
        return
    with _connected(distributed, address) as client:
        yield partial(_build_there, _Cluster(distributed, client, address))


def build_on_worker(task: DayTask) -> DayBuilt | CaratError:
    """Build a day in this process, a worker's, by its own settings and files; refused where they mean something else.

    A failure is returned as its text alone: what caused it may hold what must not travel. This machine's log has it.
    """
    try:
        settings = load_settings().model_copy(update={"max_row_factor": task.max_row_factor})
        rules = Rules.load(settings)
        _require_same_rules(
            task.inputs.rules, read_rules(settings, rules.endpoint_map, rules.plan, rules.session_rules)
        )
        if not settings.has_server:
            raise SettingsError("has no ClickHouse server in CARAT_WAREHOUSE")
        with open_warehouse(settings, purpose="carat etl", writes=False) as warehouse:
            _require_same_warehouse(warehouse, task.raw_table)
            warehouse.guarded_by(partial(require_lent, token=task.token)).require_lease()
            # The worker writes the ledger, right after publishing and under the same lease. One that dies in between
            # leaves a day that is built and still stale: it is built once more. If the process that handed the day out
            # wrote instead, its death would cost every day of which it did not hear in time.
            return build_one(warehouse, task.inputs, task.day, rules=rules, believe_size=task.believe_size)
    except CaratError as error:
        console.record_failure(error)
        where = "" if isinstance(error, OF_ONE_DAY) else f"worker {_worker_name()} "
        return type(error)(f"{where}{error}")


@dataclass(frozen=True)
class _Cluster:
    """A scheduler that answered."""

    distributed: Any
    client: Any
    address: str

    def submit(self, task: DayTask) -> Any:
        key = f"carat-etl-{task.day.day}-{uuid4().hex}"  # one of its own: what an earlier run asked for is another day
        return self.client.submit(build_on_worker, task, key=key, pure=False)

    def count_threads(self) -> int:
        """How many days can be built at the same time."""
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
        """What became of a day; None where its result was lost with its worker, so that it is built once more."""
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
        believe_size=work.believe_size,
    )

    def submit(day: StaleDay) -> Any:
        # A day is built from its calls as a whole: a patch would trust the published day, which an attempt that died
        # while publishing left as a mixture.
        whole = replace(day, can_patch=False)
        return cluster.submit(task_of(whole, _inputs_of(work.inputs, whole)))

    failure: CaratError | None = None
    for day, outcome in _handed_out(cluster, work.days, submit, patience_s=work.rules.settings.patience_s):
        work.bar.label(f"etl {day.day}")
        work.bar.advance(work.inputs.of_day(day.day)["calls"])
        if _ends_the_run(outcome):
            failure = failure or outcome
        else:
            yield outcome
    if not isinstance(failure, LockedError):
        # What a worker that died left half-done is finished, and one that was only thought dead finds its tables gone.
        warehouse.require_lease()
        for published in recover(warehouse):
            console.log.warning("published again after a worker died", day=str(published))
    if failure:
        raise failure


def _handed_out(
    cluster: _Cluster, days: Sequence[StaleDay], submit: Callable[[StaleDay], Any], *, patience_s: float
) -> Iterator[tuple[StaleDay, DayBuilt | CaratError]]:
    """What became of each day, as they end.

    As many days are handed out as there are threads: so they are begun in order, and none after an error that is not
    a day's own, while those that were begun are awaited.
    """
    waiting, running = deque(days), dict[Any, StaleDay]()
    threads, counted_at, worked_at = 0, 0.0, time.monotonic()
    while waiting or running:
        now = time.monotonic()
        if now - counted_at >= _COUNT_S:  # workers come and go
            threads, counted_at = cluster.count_threads(), now
            worked_at = now if threads else worked_at
        if not threads and now - worked_at > patience_s:
            raise ClusterError(
                f"the scheduler at {cluster.address} has had no worker for {patience_s:g} s. What was built is kept; "
                "run the same command again for the rest"
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
    """Whether it is an error that other days would meet, too."""
    return isinstance(outcome, CaratError) and not isinstance(outcome, (*OF_ONE_DAY, ClusterError))


def _inputs_of(inputs: Inputs, stale: StaleDay) -> Inputs:
    """What of the inputs one day's build asks for."""
    spans = day_spans(stale.day, inputs.zone)
    around = (stale.day, stale.day + timedelta(days=1))
    # A session may reach into the next day: its products are as of its last call. The sums are cumulative.
    at = pl.col("at").dt.epoch("ms")
    before = inputs.versions.filter(at < spans.start).tail(1)
    within = inputs.versions.filter(at.is_between(spans.start, spans.next_end))
    return replace(
        inputs,
        days=inputs.days.filter(pl.col("day") == stale.day),
        quarters=inputs.quarters.clear(),
        versions=pl.concat([before, within]),
        built={key: row for key, row in inputs.built.items() if key[0] in around},
    )


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
    """The worker that runs this, as whoever started it knows it."""
    host = socket.gethostname()
    try:
        return f"{_distributed().get_worker().name} on {host}"
    except ValueError:  # called by no worker
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
    """A client that was given none of these does not end well."""
    try:
        url = ServiceUrl.parse(address, "tcp", "tls")
    except ValueError:
        url = None
    if url is None or not url.port:
        raise SettingsError(f"--on {address!r} is no address of a scheduler, such as tcp://scheduler:8786")
    if url.scheme == "tls" and not distributed.Security().get_connection_args("client").get("ssl_context"):
        raise SettingsError(
            "--on tls://… needs a certificate: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE and …__CLIENT__CERT, …__KEY"
        )


@contextmanager
def _connected(distributed: Any, address: str) -> Iterator[Any]:
    for name in ("distributed", "distributed.client"):  # what they say comes as an error, too
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
        with suppress(OSError):  # a scheduler that does not answer any more must not hold up the end
            client.close(timeout=_CONNECT_S)
