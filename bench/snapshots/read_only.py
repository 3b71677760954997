"""Only the read, streamed to a file as Carat does it: the part that every contender needs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import connectorx
import pyarrow as pa

from bench.snapshots.shop import QUERY


@contextmanager
def contender(folder: Path, url: str) -> Iterator[Callable[[str], dict[str, int]]]:
    def work(_: str) -> dict[str, int]:
        rows = 0
        batches = connectorx.read_sql(url, QUERY, return_type="arrow_stream", batch_size=65_536)
        with pa.OSFile(str(folder / "read.arrow"), "wb") as file, pa.ipc.new_file(file, batches.schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        return {"rows": rows}

    yield work
