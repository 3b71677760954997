"""The collector with a spool that writes nothing: the time that remains without durability."""

import sys
from collections.abc import Sequence
from typing import Any

from app.intake.collector import server
from app.intake.spool import SpoolStats
from app.settings import load_settings


class Nowhere:
    """A spool that acknowledges at once."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._records = 0

    async def open(self) -> None: ...

    async def append(self, records: Sequence[bytes], **_: Any) -> None:
        self._records += len(records)

    async def close(self) -> None: ...

    def problem(self) -> str | None:
        return None

    def stats(self) -> SpoolStats:
        return SpoolStats(0, 0, None, self._records, 0, 0)


if __name__ == "__main__":
    server.Spool = Nowhere  # type: ignore[misc,assignment]
    server.Collector(load_settings(), server.listen("127.0.0.1", int(sys.argv[1]))).run()
