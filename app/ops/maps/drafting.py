"""`carat map draft`: an endpoint map proposed from the calls of files."""

from functools import partial

from app.frames.json_fields import decode_document
from app.ops.maps.reading import Reading, read_calls
from app.rules.drafting.draft import draft_lines
from app.rules.drafting.groups import CallGroups
from app.settings import Settings

_COLUMNS = ("method", "endpoint", "status", "request", "response")


def draft_map(names: list[str], settings: Settings) -> list[str]:
    """The lines of a proposed map; calls are grouped as they are read, and a bounded sample of each group is kept."""
    groups = CallGroups()
    reading = Reading()
    for calls in read_calls(names, settings, reading, label="draft"):
        for method, endpoint, status, *texts in calls.select(_COLUMNS).iter_rows():
            request, response = (partial(decode_document, text or None) for text in texts)
            groups.add(method, endpoint, status, request, response)
    return draft_lines(groups)
