"""pandas: the rows through connectorx, compared by an outer merge, appended as one more Parquet file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import connectorx
import numpy as np
import pandas as pd

from bench.snapshots.shop import COLUMNS, QUERY

_BESIDE = [name for name in COLUMNS if name != "id"]


@contextmanager
def contender(folder: Path, url: str) -> Iterator[Callable[[str], dict[str, object]]]:
    history = folder / "pandas"
    history.mkdir(exist_ok=True)

    def work(stage: str) -> dict[str, object]:
        rows = connectorx.read_sql(url, QUERY, return_type="arrow").to_pandas(types_mapper=pd.ArrowDtype)
        files = sorted(history.glob("*.parquet"))
        if files:
            versions = pd.concat([pd.read_parquet(file, dtype_backend="pyarrow") for file in files])
            latest = versions.sort_values(["id", "version"]).drop_duplicates("id", keep="last")
        else:
            latest = rows.head(0).assign(version=pd.Series(dtype="uint32[pyarrow]"), is_deleted=False)
        appended = _changes(rows, latest[[*COLUMNS, "version", "is_deleted"]])
        appended = appended.assign(valid_from=datetime.now(tz=UTC), snapshot_id=stage)
        if len(appended):
            appended.to_parquet(history / f"{len(files):06}.parquet")
        groups = appended.groupby("op").agg(
            rows=("id", "size"), ids=("id", "sum"), quantities=("quantity", "sum"), versions=("version", "sum")
        )
        return {op: [int(value) for value in row] for op, *row in groups.itertuples()}

    yield work


def _changes(rows: pd.DataFrame, latest: pd.DataFrame) -> pd.DataFrame:
    met = rows.merge(latest, on="id", how="outer", suffixes=("", "_was"), indicator=True)
    was_live = (met["_merge"] != "left_only") & ~met["is_deleted"].fillna(value=True).astype(bool)
    is_here = met["_merge"] != "right_only"
    differs = pd.DataFrame(
        {
            name: ~(
                (met[name] == met[f"{name}_was"]).fillna(value=False).astype(bool)
                | (met[name].isna() & met[f"{name}_was"].isna())
            )
            for name in _BESIDE
        }
    )
    is_update = is_here & was_live & differs.any(axis=1)
    is_delete = ~is_here & was_live
    wanted = is_update | is_delete | (is_here & ~was_live)
    new, differs, gone = met[wanted], differs[wanted], is_delete[wanted]
    values = {name: new[name].where(~gone, new[f"{name}_was"]) for name in _BESIDE}
    op = np.select([gone, is_update[wanted]], ["delete", "update"], "insert")
    return pd.DataFrame(
        {
            "id": new["id"], **values, "version": new["version"].fillna(0) + 1, "op": op, "is_deleted": gone,
            "changed": [
                [name for name, so in zip(_BESIDE, row, strict=True) if so] if made == "update" else []
                for made, row in zip(op, differs.itertuples(index=False), strict=True)
            ],
        }
    )  # fmt: skip
