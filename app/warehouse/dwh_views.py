"""The views of `dwh`: what depends on a visitor's whole past is computed when it is queried, never stored per day."""

from app.contracts import COVERAGE, SESSIONS
from app.core.sql import quote
from app.settings import Settings
from app.warehouse.attribution_views import attribution_views
from app.warehouse.spend_views import spend_views
from app.warehouse.stitching import PEOPLE, stitched
from app.warehouse.views import View

_SPAN = "session_date BETWEEN {first:Date} AND {last:Date}"
_ATTRIBUTED = ("channel", "source", "medium", "campaign")
_ATTRIBUTION_DAYS = 30


def dwh_views(settings: Settings) -> tuple[View, ...]:
    """The views, in the order in which they depend on each other."""
    zone = quote(settings.timezone)
    of_visits = {column.name: column.comment for column in SESSIONS.columns if not column.expression} | _OF_VISITS
    return (
        View(
            "dwh.visitors",
            "One row per person (a user with all devices, else a visitor): first and last seen, first order, first "
            "channel, and what they did in all. Without bots.",
            _visitors(),
            _OF_VISITORS,
        ),
        View(
            "dwh.visits",
            "dwh.sessions without bots, each with its person and what the person's past says of it: new or returning, "
            "customer, visit number, channel. Of a span of days dwh.visits_between(first = …, last = …) says it faster",
            _visits(settings),
            of_visits,
        ),
        View(
            "dwh.visits_between",
            "dwh.visits of the days from first to last: dwh.visits_between(first = '2026-03-01', last = '2026-03-31'); "
            "of other days only its people are read",
            f"SELECT * FROM ({_visits(settings, among=f' AND visitor_hash IN ({_visitors_of_span()})')}) WHERE {_SPAN}",
            {},
        ),
        View(
            "dwh.days",
            "One row per business day from the first session to the last: what dates are chosen by, and the default.",
            f"""SELECT arrayJoin(range(if(sessions > 0, last_day - first_day + 1, 0))) + first_day AS day,
    day > last_whole_day - recent_days AND day <= last_whole_day AS is_recent,
    first_day AS history_begins,
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
                "time_zone": "the business time zone",
            },
        ),
        View(
            "dwh.map_fit",
            "What the endpoint map made of each day's calls, per entry and field, as of the day's last build. "
            "Rows with a problem say where the map seems not to fit, and how to fix it.",
            f"SELECT {', '.join(column.name for column in COVERAGE.columns)} FROM etl.coverage "
            "WHERE (day, built_at) IN (SELECT day, max(built_at) FROM etl.coverage GROUP BY day)",
            {column.name: column.comment for column in COVERAGE.columns},
        ),
        *spend_views(settings),
        *attribution_views(),
    )


def _visitors_of_span() -> str:
    """The SQL of the visitors of the span, and of the other devices of the users among them."""
    of_span = f"SELECT visitor_hash {PEOPLE} AND {_SPAN}"
    users = f"SELECT user_hash {PEOPLE} AND user_hash != 0 AND visitor_hash IN ({of_span})"
    return f"{of_span} UNION DISTINCT SELECT visitor_hash {PEOPLE} AND user_hash != 0 AND user_hash IN ({users})"


def _visitors() -> str:
    return f"""SELECT if(user_id = '', visitor_id, user_id) AS person_id,
    any(person_user) AS user_id,
    argMin(stitched.visitor_id, (started_at, visitor)) AS visitor_id,
    arraySort(groupUniqArray(stitched.visitor_id)) AS visitor_ids,
    min(started_at) AS first_seen_at,
    max(ended_at) AS last_seen_at,
    if(sum(stitched.orders) = 0, NULL, minIf(started_at, stitched.orders > 0)) AS first_order_at,
    argMin(channel, (started_at, visitor)) AS first_channel,
    count() AS sessions,
    sum(stitched.orders) AS orders,
    sum(stitched.revenue) AS revenue
FROM ({stitched()}) AS stitched GROUP BY person"""


def _visits(settings: Settings, *, among: str = "") -> str:
    timeout_s = settings.session_timeout.total_seconds()
    own = {name: f"utm_{name}" if name == "campaign" else name for name in _ATTRIBUTED}
    attributed = ",\n    ".join(
        f"if(is_by_earlier, earlier.{number}, {column}) AS attributed_{name}"
        for number, (name, column) in enumerate(own.items(), start=2)
    )
    in_order = "PARTITION BY person ORDER BY started_at, visitor ROWS BETWEEN"
    inner = "person, person_user, visitor, user, previous_at, earlier_orders, earlier, is_by_earlier"
    return f"""SELECT * EXCEPT ({inner}),
    if(person_user = '', visitor_id, person_user) AS person_id,
    visit_number = 1 AS is_new_visitor,
    earlier_orders > 0 AS is_customer,
    if(visit_number = 1, NULL, dateDiff('millisecond', previous_at, started_at) / 86400000) AS days_since_last_visit,
    ended_at > now64(3, 'UTC') - INTERVAL {timeout_s:.0f} SECOND AS is_open,
    {attributed}
FROM (
    SELECT *,
        row_number() OVER (PARTITION BY person ORDER BY started_at, visitor) AS visit_number,
        any(started_at) OVER ({in_order} 1 PRECEDING AND 1 PRECEDING) AS previous_at,
        sum(orders) OVER before AS earlier_orders,
        anyLastIf((started_at, {", ".join(own.values())}), channel != 'Direct') OVER before AS earlier,
        channel = 'Direct' AND earlier.1 >= started_at - INTERVAL {_ATTRIBUTION_DAYS} DAY AS is_by_earlier
    FROM ({stitched(among=among)})
    WINDOW before AS ({in_order} UNBOUNDED PRECEDING AND 1 PRECEDING)
)"""


_OF_VISITORS = {
    "person_id": "the user_id where one is known, else the visitor_id",
    "user_id": "the user; empty for a guest",
    "visitor_id": "visitor key of the first device",
    "visitor_ids": "visitor keys of all devices",
    "first_seen_at": "time of the visitor's first call",
    "last_seen_at": "time of the visitor's last call",
    "first_order_at": "start of the first session with an order; null if there was none",
    "first_channel": "channel of the first session",
    "sessions": "sessions in all",
    "orders": "orders in all",
    "revenue": "revenue in all",
}
_OF_VISITS = {
    "person_id": "the user: of the session, else of the next or last one signed in on the visitor; else the visitor_id",
    "is_new_visitor": "whether this is the person's first session",
    "is_customer": "whether the person bought before this session began",
    "visit_number": "1 for the person's first session, 2 for the next, …",
    "days_since_last_visit": "days since the person's session before this one began; null for the first",
    "is_open": "whether the session may still grow, asked now",
} | {
    f"attributed_{name}": f"{name} of the session; where it came directly, of the last session of the person's that "
    f"did not, if that began within {_ATTRIBUTION_DAYS} days before"
    for name in _ATTRIBUTED
}
