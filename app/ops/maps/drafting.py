"""`carat map draft`: an endpoint map proposed from the calls of files."""

from functools import partial

from app.frames.json_fields import decode_document
from app.ops.maps.reading import Reading, read_calls
from app.rules.drafting.draft import draft_lines
from app.rules.drafting.groups import CallGroups
from app.settings import Settings


def draft_map(names: list[str], settings: Settings) -> list[str]:
    """The lines of a proposed map. Memory is bounded: calls are grouped as they are read, and few of each group kept."""
    groups = CallGroups()
    reading = Reading()
    for calls in read_calls(names, settings, reading, label="draft"):
        columns = calls.select("method", "endpoint", "status", "request", "response")
        for method, endpoint, status, request, response in columns.iter_rows():
            groups.add(method, endpoint, status, partial(decode_document, request or None), partial(decode_document, response or None))
    return draft_lines(groups)
