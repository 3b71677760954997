"""Job sessions: a shard's events, one row a session, to `dwh.sessions`."""

import polars as pl

from app.contracts import SESSIONS
from app.frames.sessions import build_sessions
from app.rules.session_rules import SessionRules
from app.warehouse import Staging, Warehouse


def run(
    events: pl.DataFrame, user_agents: pl.DataFrame, staging: Staging, *, rules: SessionRules, through: Warehouse
) -> pl.DataFrame:
    """The sessions with their `session_number`, of which other tables repeat some columns; stored if that is asked."""
    countries = rules.countries.of(events["ip"].unique())
    sessions = build_sessions(events, user_agents, rules, countries)

    if SESSIONS.name in staging.rows:
        staging.append(SESSIONS, sessions.select(SESSIONS.schema.names()), through=through)
    return sessions
