"""While the background thread writes records, whoever waits for the interpreter gets it soon."""

import json
import threading
import time

import pytest

from carat_client import ClientSettings
from carat_client.captured import Body, Captured
from carat_client.records import RecordMaker


@pytest.mark.slow
def test_a_thread_that_writes_records_does_not_hold_the_others_up():
    items = [{"id": n, "title": f"Ring {n}", "image": f"https://img.example/{n}.jpg"} for n in range(60)]
    response = Body(100_000)
    response.add(json.dumps({"items": items}).encode())
    call = Captured(bytes(16), 0, 0.0, "GET", "/api/v1/catalog", "", "", {}, None, 200, None, response)

    def median_wait_s(maker: RecordMaker) -> float:
        """What a thread that has just slept waits for the interpreter, beside one that writes records all the time."""
        ended = threading.Event()

        def write() -> None:
            while not ended.is_set():
                maker.line(call)

        writer = threading.Thread(target=write)
        writer.start()
        waits = []
        for _ in range(150):
            began = time.perf_counter()
            time.sleep(0.001)
            waits.append(time.perf_counter() - began - 0.001)
        ended.set()
        writer.join()
        return sorted(waits)[75]

    yielding, hogging = (RecordMaker(ClientSettings(url="http://c.example", write_key="k")) for _ in range(2))
    hogging._yield_gil = hogging._redactor._yield_gil = lambda: None
    assert median_wait_s(yielding) < 0.5 * median_wait_s(hogging)
