"""Views of dwh: what depends on a visitor's whole past, asked at query time and never frozen into a day."""

from dataclasses import dataclass

from app.contracts import SESSIONS, sql_text
from app.settings import Settings
from app.warehouse.client import Warehouse


@dataclass(frozen=True)
class View:
    full_name: str
    comment: str
    select: str
    columns: dict[str, str]

    @property
    def create_statement(self) -> str:
        return f"CREATE OR REPLACE VIEW {self.full_name} AS\n{self.select}\nCOMMENT {sql_text(self.comment)}"


def replace_view(warehouse: Warehouse, view: View) -> list[str]:
    """Create the view, or replace one of another meaning; what was changed, a line."""
    database, _, name = view.full_name.partition(".")
    wanted = warehouse.scalar("SELECT formatQuerySingleLine({select:String})", {"select": view.select})
    found = warehouse.query(
        "SELECT as_select FROM system.tables WHERE database = {database:String} AND name = {name:String}",
        {"database": database, "name": name},
    )
    if not found.is_empty() and found.item() == wanted:
        return []
    warehouse.require_room()
    warehouse.command(view.create_statement)
    for column, comment in view.columns.items():
        warehouse.command(f"ALTER TABLE {view.full_name} COMMENT COLUMN IF EXISTS `{column}` {sql_text(comment)}")
    return [f"{'created' if found.is_empty() else 'replaced'} view {view.full_name}"]


def views(settings: Settings) -> tuple[View, ...]:
    """The views, in the order in which they depend on each other."""
    timeout_s = settings.session_timeout.total_seconds()
    zone = sql_text(settings.timezone)
    of_sessions = {column.name: column.comment for column in SESSIONS.columns}
    return (
        View(
            "dwh.visitors",
            "One row per visitor: first and last seen, first order, first channel, and what they did in all.",
            """SELECT visitor_id,
    min(started_at) AS first_seen_at,
    max(ended_at) AS last_seen_at,
    if(sum(sessions.orders) = 0, NULL, minIf(started_at, sessions.orders > 0)) AS first_order_at,
    argMin(channel, started_at) AS first_channel,
    count() AS sessions,
    sum(sessions.orders) AS orders,
    sum(sessions.revenue) AS revenue,
    argMaxIf(user_id, started_at, user_id != '') AS user_id
FROM dwh.sessions AS sessions GROUP BY visitor_id""",
            {
                "visitor_id": of_sessions["visitor_id"],
                "first_seen_at": "time of the visitor's first call",
                "last_seen_at": "time of the visitor's last call",
                "first_order_at": "start of the first session with an order; null if there was none",
                "first_channel": "channel of the first session",
                "sessions": "sessions in all",
                "orders": "orders in all",
                "revenue": "revenue in all",
                "user_id": "the last user seen on this visitor; empty for a guest",
            },
        ),
        View(
            "dwh.visits",
            "dwh.sessions with what the visitor's past says of each: new or returning, customer, visit number.",
            f"""SELECT sessions.*,
    row_number() OVER earlier = 1 AS is_new_visitor,
    coalesce(sum(orders) OVER before, 0) > 0 AS is_customer,
    row_number() OVER earlier AS visit_number,
    if(row_number() OVER earlier = 1, NULL,
        dateDiff('millisecond', any(started_at) OVER last_one, started_at) / 86400000) AS days_since_last_visit,
    ended_at > now64(3, 'UTC') - INTERVAL {timeout_s:.0f} SECOND AS is_open
FROM dwh.sessions AS sessions
WINDOW earlier AS (PARTITION BY visitor_id ORDER BY started_at, session_id),
    before AS (PARTITION BY visitor_id ORDER BY started_at, session_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
    last_one AS (PARTITION BY visitor_id ORDER BY started_at, session_id ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING)""",
            of_sessions
            | {
                "is_new_visitor": "whether this is the visitor's first session",
                "is_customer": "whether the visitor bought before this session began",
                "visit_number": "1 for the visitor's first session, 2 for the next, …",
                "days_since_last_visit": "days since the visitor's session before this one began; null for the first",
                "is_open": "whether the session may still grow, asked now",
            },
        ),
        View(
            "dwh.days",
            "One row per business day from the first session to the last: what dates are chosen by, and the default.",
            f"""SELECT arrayJoin(arrayMap(n -> first_day + n, range(sessions > 0 ? last_day - first_day + 1 : 0))) AS day,
    day > last_whole_day - recent_days AND day <= last_whole_day AS is_recent,
    first_day AS history_begins,
    toDateTime(day + 1, {zone}) AS ends_at,
    {zone} AS time_zone
FROM (
    SELECT min(session_date) AS first_day, max(session_date) AS last_day, count() AS sessions,
        greatest(first_day, least(last_day, toDate(now(), {zone}) - 1)) AS last_whole_day,
        intDiv(last_whole_day - first_day + 1, 2) AS half,
        half < 7 ? greatest(half, 1) : least(28, half - half % 7) AS recent_days
    FROM dwh.sessions
)""",
            {
                "day": "the business day",
                "is_recent": "the last 28 whole days, or fewer whole weeks while there are not as many days before "
                "them: what is shown where no date is chosen, and can be compared weekday by weekday",
                "history_begins": "the first business day with a session",
                "ends_at": "the instant at which the day ends",
                "time_zone": "the business time zone",
            },
        ),
    )
