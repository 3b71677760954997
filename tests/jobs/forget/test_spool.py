"""A person is written over in the collector's spool, and no other record moves by a byte."""

import asyncio
import json
import time

import pytest

from app.intake.spool import Received, RejectedRecord, Spool, SpoolLimits, acknowledge, read_segment, sealed_segments
from app.intake.spool.segments import delivered_segments
from app.jobs.forget.identifiers import Identifiers
from app.jobs.forget.spool import occurrences_in_spool, redact_spool
from app.settings import Settings

IDS = Identifiers(("17",), ("c-own-81aaaaaaaa",), ("token-of-17",))


def record(**more) -> bytes:
    return json.dumps({"ts": "2026-03-01T10:00:00Z", "method": "GET", "endpoint": "/17"} | more).encode()


THEIRS = [
    record(user_id="17"),
    record(user_id=17),
    record(visitor_id="c-own-81aaaaaaaa"),
    record(session_token="token-of-17"),
]
OF_OTHERS = [record(user_id="170", request={"n": 17}), record(visitor_id="17"), b"no JSON \xff at all"]
NAMING = record(user_id="1", request={"body": {"user_id": 17, "note": "é"}})
BROKEN = b'{"user_id": "17", broken'


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    monkeypatch.setenv("CARAT_SPOOL", str(tmp_path / "spool"))
    return Settings(_env_file=None)


def write(settings: Settings) -> None:
    async def fill() -> None:
        spool = Spool(settings.spool, SpoolLimits(min_free_bytes=0))
        await spool.open()
        await spool.append(
            [*THEIRS, *OF_OTHERS, NAMING], received_at_ms=5, rejected=[RejectedRecord("not JSON", "no", BROKEN)]
        )
        assert occurrences_in_spool(settings, IDS)[0].rows == len(THEIRS) + 2  # what is being written is seen, too
        await spool.close()

    asyncio.run(fill())


def records(segment) -> list[bytes | RejectedRecord]:
    frames = list(read_segment(segment.path))
    assert all(isinstance(frame, Received) for frame in frames)
    return [record for frame in frames for record in frame.records]


def test_person_is_written_over_in_closed_segments_and_nothing_moves(settings):
    write(settings)
    acknowledge(sealed_segments(settings.spool)[0])
    time.sleep(0.01)
    write(settings)
    closed = [*sealed_segments(settings.spool), *delivered_segments(settings.spool)]
    before = {segment.path: records(segment) for segment in closed}

    assert set(redact_spool(settings, IDS, change=False).values()) == {len(THEIRS) + 2}
    assert {segment.path: records(segment) for segment in closed} == before
    assert len(redact_spool(settings, IDS, change=True)) == 2

    after = [*sealed_segments(settings.spool), *delivered_segments(settings.spool)]
    assert [(s.name, s.bytes, s.written_at_ms) for s in after] == [(s.name, s.bytes, s.written_at_ms) for s in closed]
    for segment in after:
        new, old = records(segment), before[segment.path]
        sizes = [[len(r.data if isinstance(r, RejectedRecord) else r) for r in some] for some in (new, old)]
        assert sizes[0] == sizes[1]
        assert [json.loads(r) for r in new[: len(THEIRS)]] == [{"forgotten": True}] * len(THEIRS)
        assert new[len(THEIRS) : -2] == OF_OTHERS
        assert json.loads(new[-2])["request"] == {"body": {"user_id": 0, "note": "é"}}
        assert new[-1] == RejectedRecord("not JSON", "no", b'{"user_id": "0 ", broken')
    assert occurrences_in_spool(settings, IDS) == []
    assert redact_spool(settings, IDS, change=True) == {}
    assert list(settings.spool.rglob("*.forgetting")) == []
