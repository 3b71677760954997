"""Shops that send calls to a collector, again and again until each batch is acknowledged, and note what was."""

import http.client
import json
import random
import threading
import time
import uuid
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from tests.support.collecting import AUTHORIZATION

_HEADERS = {"authorization": AUTHORIZATION, "content-type": "application/x-ndjson"}


@dataclass
class Senders:
    """Threads that send batches to a port until they are stopped."""

    port: int
    threads: int = 4
    batch: int = 20
    pause_s: float = 0.0
    acknowledged: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    unanswered: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._running = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._running:
            thread.join(30)
            assert not thread.is_alive()

    def await_more(self, batches: int = 1, limit_s: float = 30) -> None:
        """Wait until so many more batches were acknowledged."""
        goal = len(self.acknowledged) + batches * self.batch
        until = time.monotonic() + limit_s
        while len(self.acknowledged) < goal:
            assert time.monotonic() < until, "the collector acknowledges nothing"
            time.sleep(0.002)

    def _send(self, sender: int) -> None:
        chance = random.Random(sender)
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            while not self._stopped.is_set():
                ids = [str(uuid.uuid4()) for _ in range(self.batch)]
                body = b"\n".join(_record(call_id, chance) for call_id in ids)
                self.sent.update(ids)
                while not self._acknowledges(connection, body):
                    if self._stopped.wait(0.02):
                        return
                self.acknowledged.update(ids)
                self._stopped.wait(self.pause_s)

    def _acknowledges(self, connection: http.client.HTTPConnection, body: bytes) -> bool:
        try:
            connection.request("POST", "/v1/calls", body, _HEADERS)
            answer = connection.getresponse()
            verdict = json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            connection.close()
            self.unanswered += 1
            return False
        if answer.status != 200:
            return False
        assert verdict["accepted"] == self.batch, verdict
        return True


def _record(call_id: str, chance: random.Random) -> bytes:
    record = {
        "ts": datetime.now(tz=UTC).isoformat(), "method": "GET", "endpoint": f"/api/v1/products/{chance.randrange(99)}",
        "visitor_id": f"v{chance.randrange(50)}", "status": 200, "call_id": call_id,
        "response": {"price": "12.00", "note": "x" * chance.randrange(400)},
    }  # fmt: skip
    return json.dumps(record).encode()
