"""From a shop to the warehouse: middleware, collector as its unit starts it, loader; nothing lost, nothing twice."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.jobs.load.delivery import load_spool
from app.settings import Settings
from app.warehouse import open_warehouse
from carat_client import CallSender, CaratASGI, CaratWSGI, ClientSettings
from tests.carat_client.test_asgi import answering, body, call, http_scope, start
from tests.carat_client.test_servers import free_port
from tests.carat_client.test_wsgi import environ, whole
from tests.support.paths import CHECKOUT
from tests.support.receivers import await_that

pytestmark = pytest.mark.slow
KEY = "a-write-key-of-the-tests"
# What systemd does for MemoryDenyWriteExecute=true, where the kernel (6.3) lets a process do so for itself.
HARDENED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"


@contextmanager
def collecting(port: int, spool: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The unit's command behind a socket that is open already: started by the first connection, killed at the end."""
    unit = (CHECKOUT / "deploy/systemd/carat-collector.service").read_text()
    (verb,) = re.findall(r"^ExecStart=/opt/carat/current/bin/carat (.+)$", unit, flags=re.MULTILINE)
    keys = spool.parent / "write_keys"
    keys.write_text(f"another-write-key-of-the-tests\n{KEY}\n")
    settings = {"CARAT_SPOOL": str(spool), "CARAT_WRITE_KEYS_FILE": str(keys), "CARAT_LOG": str(spool.parent / "log")}
    process = subprocess.Popen(
        [
            "systemd-socket-activate", "-l", f"127.0.0.1:{port}", *(f"--setenv={k}={v}" for k, v in settings.items()),
            sys.executable, "-c", HARDENED, sys.executable, "-m", "app", *verb.split(),
        ],
        cwd=CHECKOUT,
        env=os.environ | settings,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_calls_of_a_shop_arrive_in_the_warehouse_once_though_the_collector_is_killed(tmp_path, monkeypatch):
    port, spool = free_port(), tmp_path / "spool"
    sender = CallSender(
        ClientSettings(
            url=f"http://127.0.0.1:{port}", write_key=KEY, flush_interval_s=0.05, first_backoff_s=0.05, batch_calls=20
        )
    )
    shop = CaratASGI(answering(start(201), body(b'{"order_id": "o-1", "total": 149.0}'), reads=True), sender)
    old_shop = CaratWSGI(whole, sender)
    headers = [(b"content-type", b"application/json"), (b"cookie", b"visitor_id=c-81; session_token=s3cr3t")]
    for round_number in range(3):
        with collecting(port, spool) as process:
            await_that(lambda: _listens(port))
            for number in range(100):
                scope = http_scope("POST", f"/api/v1/orders/{round_number}/{number}", b"a=1", headers)
                call(shop, scope, b'{"card": "4111-1111-1111-1111"}')
            old_shop(environ(REMOTE_ADDR="203.0.113.9"), lambda *_: None)
            await_that(lambda wanted=101 * round_number + 20: sender.stats.delivered >= wanted)
            if round_number == 2:
                assert sender.flush(20)
                process.terminate()
                process.wait(20)
    assert sender.stats.delivered == sender.stats.captured == 303
    sender.close()

    monkeypatch.setenv("CARAT_WAREHOUSE", f"chdb://{tmp_path / 'warehouse'}")
    monkeypatch.setenv("CARAT_SPOOL", str(spool))
    settings = Settings(_env_file=None)
    load_spool(settings).require_done()
    with open_warehouse(settings, purpose="a test", writes=False) as warehouse:
        calls = warehouse.query("SELECT * FROM pd.api_calls ORDER BY endpoint")
        assert warehouse.scalar("SELECT count() FROM etl.rejects") == 0
    assert calls.height == calls["call_id"].n_unique() == 303
    order = calls.row(calls["endpoint"].index_of("/api/v1/orders/2/99"), named=True)
    assert (order["status"], order["visitor_id"]) == (201, "c-81")
    assert json.loads(order["request"]) == {"query": {"a": "1"}, "body": {"card": "[card]"}}
    assert json.loads(order["response"]) == {"order_id": "o-1", "total": 149.0}
    assert "s3cr3t" not in str(calls.rows())


def _listens(port: int) -> bool:
    """Whether the port is taken; a connection would start the collector."""
    listening = Path("/proc/net/tcp").read_text()
    return f":{port:04X} 00000000:0000 0A" in listening
