"""While the background thread writes records, it sleeps often enough for others to get the interpreter."""

import json
from unittest.mock import Mock

from carat_client import ClientSettings, gil_yield
from carat_client.captured import Body, Captured
from carat_client.gil_yield import GilYield
from carat_client.records import RecordMaker


def test_it_sleeps_once_the_thread_has_run_for_too_long_and_not_before(monkeypatch):
    clock = Mock()
    clock.perf_counter.return_value = 0.0
    monkeypatch.setattr(gil_yield, "time", clock)
    yield_gil = GilYield()
    slept_after = []
    for step in range(1, 7):
        clock.perf_counter.return_value = step * 0.00025
        yield_gil()
        if clock.sleep.called:
            slept_after.append(step)
            clock.sleep.reset_mock()
    assert slept_after == [2, 4, 6]


def test_a_record_may_be_interrupted_at_each_value_that_is_read_for_the_first_time():
    items = [{"id": n, "title": f"Ring {n}", "image": f"https://img.example/{n}.jpg"} for n in range(60)]
    response = Body(100_000)
    response.add(json.dumps({"items": items}).encode())
    call = Captured(bytes(16), 0, 0.0, "GET", "/api/v1/catalog", "", "", {}, None, 200, None, response)
    maker = RecordMaker(ClientSettings(url="http://c.example", write_key="k"))
    maker._yield_gil = maker._redactor._yield_gil = Mock()
    assert maker.line(call)
    assert maker._yield_gil.call_count >= len(items) * 3  # an object, its title, its image
