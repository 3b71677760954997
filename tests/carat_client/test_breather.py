"""While the background thread writes records, it rests often enough for others to get the interpreter."""

import json
from unittest.mock import Mock

from carat_client import ClientSettings, breather
from carat_client.breather import Breather
from carat_client.captured import Body, Captured
from carat_client.records import RecordMaker


def test_it_rests_once_work_has_gone_on_for_too_long_and_not_before(monkeypatch):
    clock = Mock()
    clock.perf_counter.return_value = 0.0
    monkeypatch.setattr(breather, "time", clock)
    breathe = Breather()
    rested_after = []
    for step in range(1, 7):
        clock.perf_counter.return_value = step * 0.00025
        breathe()
        if clock.sleep.called:
            rested_after.append(step)
            clock.sleep.reset_mock()
    assert rested_after == [2, 4, 6]


def test_a_record_may_be_interrupted_at_each_value_that_is_read_for_the_first_time():
    items = [{"id": n, "title": f"Ring {n}", "image": f"https://img.example/{n}.jpg"} for n in range(60)]
    response = Body(100_000)
    response.add(json.dumps({"items": items}).encode())
    call = Captured(bytes(16), 0, 0.0, "GET", "/api/v1/catalog", "", "", {}, None, 200, None, response)
    maker = RecordMaker(ClientSettings(url="http://c.example", write_key="k"))
    maker._breathe = maker._redactor._breathe = Mock()
    assert maker.line(call)
    assert maker._breathe.call_count >= len(items) * 3  # an object, its title, its image
