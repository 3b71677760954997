"""Job product_sessions: what a shard's sessions did with each product, to `dwh.product_sessions`."""

from collections.abc import Sequence

import polars as pl

from app.contracts import PRODUCT_SESSIONS
from app.frames.browsing import Browsing
from app.frames.product_sessions import build_product_sessions
from app.warehouse import Staging, Warehouse


def run(
    browsing: Browsing,
    sessions: pl.DataFrame,
    staging: Staging,
    *,
    through: Warehouse,
    versions: Sequence[pl.DataFrame],
) -> None:
    only_shown, acted = build_product_sessions(browsing, sessions, versions)

    staging.append(PRODUCT_SESSIONS, only_shown, through=through)
    staging.append(PRODUCT_SESSIONS, acted, through=through)
