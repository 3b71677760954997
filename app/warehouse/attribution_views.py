"""The views of attribution: which sessions led to an order, and how its net revenue is shared among them.

A touch is a session that began before the order, at most the window earlier, and is of the same person: of whoever
placed the order by its session, or of the order's user where the shop's database knows one. Sessions of bots do not
count.
"""

from app.contracts import MONEY, TIME, USER_HASH, VISITOR_OF_SESSION
from app.warehouse.stitching import devices, stitched, whose
from app.warehouse.views import View

MODELS = ("first", "last", "last_non_direct", "linear", "position", "time_decay")
TOUCHES_WINDOW_DAYS = 90
_MAX_WINDOW_DAYS = 3650
_HALF_LIFE_DAYS = 7
_WINDOW = "{window_days:UInt16}"
_MODEL = "{model:String}"
_MOMENT = "ifNull(called_at, created_at)"
_ARE_VALID = f"""(SELECT
        throwIf({_MODEL} NOT IN {MODELS}, 'model must be one of: {", ".join(MODELS)}')
        + throwIf({_WINDOW} NOT BETWEEN 1 AND {_MAX_WINDOW_DAYS}, 'window_days must be 1 to {_MAX_WINDOW_DAYS}')) = 0"""


def attribution_views() -> tuple[View, ...]:
    """The views, none of which reads another."""
    return (
        View(
            "dwh.touches",
            "One row per order and session that led to it: those of the same person that began in the "
            f"{TOUCHES_WINDOW_DAYS} days before the order. Without bots. Orders without such a session have no row.",
            _touches(),
            _OF_TOUCHES,
        ),
        View(
            "dwh.attribution",
            "Orders and the sessions that led to them, with the share of the order's net revenue that each earns: "
            f"dwh.attribution(model = 'linear', window_days = 30). Models: {', '.join(MODELS)}. Credits add up to "
            "net revenue; an order without a touch is a row with an empty session.",
            _attribution(),
            {},
        ),
        View(
            "dwh.attribution_between",
            "dwh.attribution of the orders of the days from first to last, for which only their window is read: "
            "dwh.attribution_between(model = 'linear', window_days = 30, first = '2026-03-01', last = '2026-03-31').",
            _attribution(span="WHERE order_date BETWEEN {first:Date} AND {last:Date}"),
            {},
        ),
    )


def _touches() -> str:
    return f"""SELECT order_id, order_date, ordered_at, touch, length(path) AS touches, {_of_touch()}
FROM (
{_paths(str(TOUCHES_WINDOW_DAYS))}
) ARRAY JOIN path AS session, arrayEnumerate(path) AS touch"""


def _attribution(*, span: str = "") -> str:
    """The rows of a model. Shares that are left out are 0; what rounding leaves goes to the last touch that counts.

    Where so many credits are rounded up that the last would turn against the sign of the order, all are rounded towards
    zero instead. A share times the amount may miss a whole cent by the last digits of a float, hence the four digits.
    """
    return f"""SELECT order_id, order_date, {_of_touch()}, share,
    if(net_revenue IS NULL, NULL, CAST(toDecimal64(cents, 2) / 100 AS {MONEY})) AS credit
FROM (
SELECT *, arrayMap(weight -> weight / arraySum(weights), weights) AS shares,
    toInt64(ifNull(net_revenue, 0) * 100) AS net_cents,
    arrayMap(share -> round(net_cents * share, 4), shares) AS exact,
    {_with_rest("round")} AS nearest,
    if(arrayExists(cents -> cents * net_cents < 0, nearest), {_with_rest("trunc")}, nearest) AS credits
FROM (
SELECT *, arrayMap(session -> toUInt8(session.channel != 'Direct'), touched) AS are_named,
    if({_MODEL} NOT IN ('first', 'last') AND has(are_named, 1), are_named, arrayMap(is_named -> 1, are_named))
        AS are_counted,
    arrayCumSum(are_counted) AS places,
    arraySum(are_counted) AS counted,
    arrayMap((counts, place) -> counts AND place = counted, are_counted, places) AS are_last,
    arrayMap((counts, place, session) -> if(counts, {_weight()}, 0.), are_counted, places, touched) AS weights
FROM (
SELECT *, emptyArrayToSingle(path) AS touched FROM (
{_paths(_WINDOW, span=span)}
)))) ARRAY JOIN touched AS session, shares AS share, credits AS cents
WHERE {_ARE_VALID}"""


def _with_rest(rounding: str) -> str:
    """The credits in cents, and in the last that counts what the others leave."""
    return f"""arrayMap((cents, is_last) -> toInt64({rounding}(cents)) + is_last
        * (net_cents - arraySum(cents -> toInt64({rounding}(cents)), exact)), exact, are_last)"""


def _of_touch() -> str:
    return """session.session_id AS session_id, session.channel AS channel,
    session.source AS source, session.medium AS medium, session.campaign AS campaign, session.utm_id AS utm_id,
    if(session.session_id = '', NULL, dateDiff('millisecond', session.started_at, ordered_at) / 86400000) AS age_days"""


def _weight() -> str:
    """What a touch weighs that counts: the `place`-th of `counted`."""
    days_before_last = "dateDiff('millisecond', session.started_at, touched[-1].started_at) / 86400000"
    return f"""multiIf(
        {_MODEL} = 'first', toFloat64(place = 1),
        {_MODEL} IN ('last', 'last_non_direct'), toFloat64(place = counted),
        {_MODEL} = 'time_decay', exp2(-{days_before_last} / {_HALF_LIFE_DAYS}),
        {_MODEL} = 'linear' OR counted <= 2, 1.,
        place IN (1, counted), 0.4,
        0.2 / (counted - 2))"""


def _paths(window: str, *, span: str = "") -> str:
    """Each order of `span` with its `path`: the touches of the `window`, a number of days, in their order.

    Sessions are read from the window before the first of the orders until the last of them, and a day more on either
    side, as business days are not those of UTC.
    """
    first = f"greatest(toDate(min({_MOMENT})), toDate({window} + 1))"  # a date before 1970 would wrap around
    days = f"""session_date BETWEEN (SELECT {first} FROM dwh.orders {span}) - {window} - 1
            AND (SELECT toDate(max({_MOMENT})) FROM dwh.orders {span}) + 1"""
    session = "started_at, session_id, channel, source, medium, utm_campaign, utm_id"
    is_touch = f"person != 0 AND started_at BETWEEN ordered_at - INTERVAL {window} DAY AND ordered_at"
    return f"""SELECT order_id, order_date, ordered_at, net_revenue,
    arraySort(groupArrayIf(CAST(({session}) AS {_TOUCH}), {is_touch})) AS path
FROM ({stitched(among=f" AND {days}")}) AS sessions
RIGHT JOIN (
    {_buyers(span)}
) AS bought ON sessions.person = bought.buyer
GROUP BY order_key, order_id, order_date, ordered_at, net_revenue"""


def _buyers(span: str) -> str:
    """Each order, once for each person who may have placed it: the person of its session, and the order's user.

    The person of its session is found without reading sessions: their ids say visitor and start. A moment earlier is
    asked for, so that a user who signed in during this very session is the next one.
    """
    user = whose("0", "0", of="user_hash")
    visitors = f"visitor_hash IN (SELECT {VISITOR_OF_SESSION} FROM dwh.orders {span})"
    return f"""SELECT order_key, order_id, order_date, net_revenue, ordered_at,
        arrayJoin(emptyArrayToSingle(arrayDistinct(arrayFilter(person -> person != 0, [
            if({user} = 0, visitor, {user}), user])))) AS buyer
    FROM (
        SELECT order_key, order_id, order_date, net_revenue, {_MOMENT} AS ordered_at,
            {VISITOR_OF_SESSION} AS visitor, {USER_HASH} AS user,
            fromUnixTimestamp64Milli(toInt64OrZero(substring(session_id, 18)) - 1, 'UTC') AS started_at
        FROM dwh.orders {span}
    ) AS placed
    ANY LEFT JOIN (
        {devices(among=f" AND {visitors}")}
    ) AS devices ON placed.visitor = devices.visitor_hash"""


_TOUCH = (
    f"Tuple(started_at {TIME}, session_id String, channel String, source String, medium String, "
    "campaign String, utm_id String)"
)
_OF_TOUCHES = {
    "order_id": "the order, as in dwh.orders",
    "order_date": "business day on which the order was first seen",
    "ordered_at": "when it was called, else when it was made in the database",
    "touch": "1 for the first of the sessions that led to it, 2 for the next, …",
    "touches": "how many sessions led to it",
    "session_id": "the session",
    "channel": "marketing channel of the session",
    "source": "source of the session",
    "medium": "medium of the session",
    "campaign": "utm_campaign of the session",
    "utm_id": "utm_id of the session",
    "age_days": "days from the start of the session to the order",
}
