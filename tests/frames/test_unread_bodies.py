"""Calls whose body the middleware could not read are counted by the entry that would have read it."""

import pytest

from app.frames.coverage import count_coverage
from app.rules.endpoint_map import load_endpoint_map
from app.rules.fit import Coverage, EntryCount, FieldCount, find_misfits
from app.settings import SHIPPED_ENDPOINT_MAPS
from tests.support.typed_calls import typed

DEMO = (SHIPPED_ENDPOINT_MAPS / "demo.toml").read_text(encoding="utf-8")
ORDER = {"ts": "2026-03-02T10:00:00Z", "method": "POST", "endpoint": "/api/v1/orders", "visitor_id": "v", "status": 200}
UNREADABLE, TRUNCATED = {"_unreadable": 1234}, {"_truncated": 250_000}


@pytest.mark.parametrize("mark", [UNREADABLE, TRUNCATED])
def test_bodies_that_were_not_read_are_counted_by_entry(mark):
    whole = {"order_id": 5, "total": "149.00", "items": []}
    calls = [ORDER | {"response": mark, "request": {"query": {}, "body": mark}}, ORDER | {"response": whole}]
    calls += [ORDER | {"response": mark, "status": 500}, ORDER | {"endpoint": "/elsewhere", "response": mark}]
    unreadable = typed(*calls, endpoint_map=DEMO).unreadable
    assert {key: count for key, count in unreadable.items() if key[1].endswith("body")} == {
        ("9: POST /api/v1/orders", "request body"): 1, ("9: POST /api/v1/orders", "response body"): 1, ("", "response body"): 1,
    }  # fmt: skip


def test_a_document_that_only_looks_like_one_is_not_counted():
    response = {"text": '{"_unreadable": 5}', "nested": UNREADABLE}
    assert (
        typed(ORDER | {"response": response}, endpoint_map=DEMO).unreadable[("9: POST /api/v1/orders", "response body")]
        == 0
    )


def test_map_try_counts_them_as_well():
    endpoint_map = load_endpoint_map(SHIPPED_ENDPOINT_MAPS / "demo.toml")
    coverage = count_coverage(typed(ORDER | {"response": UNREADABLE}, endpoint_map=DEMO), endpoint_map)
    assert coverage.filter(field="response body").select("event", "calls", "filled", "unreadable").rows() == [
        ("purchase", 1, 0, 1)
    ]


def test_one_order_without_its_body_is_told_and_of_other_calls_a_share():
    def told(event: str, unread: int) -> list[str]:
        fields = {"response body": FieldCount(100 - unread, unread)}
        return [
            f.problem
            for f in find_misfits(Coverage(100, 0, (EntryCount("E", event, 100, fields),)))
            if f.field == "response body"
        ]

    assert told("purchase", 1) == ["not read by the middleware in 1 of 100 calls"]
    assert told("catalog", 10) == []
    assert told("catalog", 11) == ["not read by the middleware in 11 of 100 calls"]
