"""The process that reads: every table by a connection and a thread of its own, streamed to a file each.

Run as `python -m app.shop.reader`, it takes one JSON request on stdin (so that no password stands in a process list),
says `ready`, waits for a line that says go, and reports each batch and table on stdout, a JSON line each: what was
reported can be read from the file already. It ends with its parent. A panic of connectorx is a BaseException and stays
in its table's thread.
"""

import json
import os
import sys
import threading
from typing import Any

import connectorx
import pyarrow as pa

_saying = threading.Lock()


def main() -> None:
    request = json.loads(sys.stdin.readline())
    _say({"state": "ready"})
    sys.stdin.readline()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threads = [threading.Thread(target=_read, args=(reading, request["url"])) for reading in request["readings"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _read(reading: dict[str, Any], url: str) -> None:
    rows = 0
    try:
        batches = connectorx.read_sql(
            url,
            reading["sql"],
            return_type="arrow_stream",
            batch_size=reading["batch_rows"],
            pre_execution_query=reading["before"] or None,
        )
        with pa.OSFile(reading["path"], "wb") as file, pa.ipc.new_stream(file, batches.schema) as writer:
            for number, batch in enumerate(batches, start=1):
                writer.write_batch(batch)
                rows += batch.num_rows
                _say({"state": "batch", "table": reading["table"], "batches": number})
    except BaseException as error:  # noqa: BLE001  a panic is no Exception, and must not end the other tables
        problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
        _say({"state": "failed", "table": reading["table"], "error": problem})
    else:
        _say({"state": "done", "table": reading["table"], "rows": rows})


def _say(message: dict[str, Any]) -> None:
    with _saying:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
