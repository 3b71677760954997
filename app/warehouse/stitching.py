"""The SQL of people: which sessions of several devices are one person's.

The person of a session is its user, where one is signed in. Otherwise it is the user of the next session on the same
visitor in which somebody was signed in, else of the last one before, else the visitor. Bots are left out.
"""

PEOPLE = "FROM dwh.sessions WHERE NOT is_bot"


def stitched(*, among: str = "") -> str:
    """Each session of people with `person`, a hash, and `person_user`, empty where only a visitor is known.

    `among`: a condition on the sessions. Hashes and names follow the same rule separately, so that a query which
    needs no names reads none.
    """
    return f"""SELECT sessions.*, {whose("user_id", "''")} AS person_user,
        if({whose("user", "0", of="user_hash")} = 0, visitor, {whose("user", "0", of="user_hash")}) AS person
    FROM (SELECT *, visitor_hash AS visitor, user_hash AS user {PEOPLE}{among}) AS sessions
    ANY LEFT JOIN (
        {devices()}
    ) AS devices ON sessions.visitor = devices.visitor_hash"""


def devices(*, among: str = "") -> str:
    """The visitors on which somebody was signed in, and who was: the only user, or the moments of several."""
    users = ", ".join(
        f"any({user}) AS any_{user}, if(min(user_hash) = max(user_hash), [], "
        f"arraySort(groupArray((started_at, {user})))) AS moments_of_{user}"
        for user in ("user_hash", "user_id")
    )
    return f"SELECT visitor_hash, {users} {PEOPLE} AND user_hash != 0{among} GROUP BY visitor_hash"


def whose(own: str, none: str, *, of: str = "user_id") -> str:
    """The SQL of a session's user: its own, else the device's only one, else the next, else the last one before."""
    moments = f"moments_of_{of}"
    following = f"arrayFirst(moment -> moment.1 > started_at, {moments}).2"
    return f"""multiIf({own} != {none}, {own},
            empty({moments}), ifNull(any_{of}, {none}),
            {following} != {none}, {following},
            {moments}[-1].2)"""
