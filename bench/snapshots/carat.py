"""Carat: `carat snapshot` on the embedded engine, from the shop's MariaDB to `history`."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.jobs.snapshot import take_snapshot
from app.settings import load_settings
from app.warehouse import open_warehouse

_PLAN = '[big]\nsource = "big"\nkey = ["id"]\n'
_APPENDED = """
SELECT op, count() AS rows, sum(id) AS ids, sum(ifNull(quantity, 0)) AS quantities, sum(version) AS versions
FROM history.big WHERE snapshot_id = {snapshot_id:String} GROUP BY op"""


@contextmanager
def contender(folder: Path, url: str) -> Iterator[Callable[[str], dict[str, object]]]:
    plan = folder / "plan.toml"
    plan.write_text(_PLAN)
    settings = load_settings(
        _env_file=None, warehouse=f"chdb://{folder / 'carat'}", shop_db=url, snapshots=plan, scratch=folder / "scratch"
    )
    with open_warehouse(settings, purpose="bench") as warehouse:

        def work(_: str) -> dict[str, object]:
            (taken,) = take_snapshot(warehouse, settings)
            assert not taken["error"], taken["error"]
            found = warehouse.query(_APPENDED, {"snapshot_id": taken["snapshot_id"]})
            return json.loads(json.dumps({row["op"]: list(row.values())[1:] for row in found.iter_rows(named=True)}))

        yield work
