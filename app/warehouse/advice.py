"""What to do about an error of the engine, as the end of its line."""

import re

_GRANT = re.compile(r"necessary to have (?:at least one of )?(?:the )?grants? (?P<grant>.+? ON \S+?)(?=\.? |\.?$)")
_CONSTRAINT = re.compile(r"[Ss]etting '?(?P<name>\w+)'? (?:shouldn't be|should not be|is)")
_FULL = ". The disk is full: free some space and run the same command again; readers see no partial data"
_MIGRATE = ". Run `carat migrate` first"
_AUTHORITY = ". If the server's authority is your own, add ca=FILE, its certificate, to CARAT_WAREHOUSE"
_LOGIN = ". Check the user and password in CARAT_WAREHOUSE"
_HINTS = (
    ("NOT_ENOUGH_SPACE", _FULL),
    ("No space left", _FULL),
    ("Cannot reserve", _FULL),
    ("Connections to mysql failed", ". The database mysql links to the shop's: check that it runs, and CARAT_SHOP_DB"),
    ("UNKNOWN_DATABASE", _MIGRATE),
    ("UNKNOWN_TABLE", _MIGRATE),
    ("AUTHENTICATION_FAILED", _LOGIN),
    ("REQUIRED_PASSWORD", _LOGIN),
    ("CERTIFICATE_VERIFY_FAILED", _AUTHORITY),
)
# Limits that a profile sets, by the words with which the engine refuses.
_LIMITS = (
    ("memory limit exceeded", "max_memory_usage"),
    ("TIMEOUT_EXCEEDED", "max_execution_time"),
    ("TOO_MANY_SIMULTANEOUS_QUERIES", "max_concurrent_queries_for_user"),
    ("TOO_MANY_PARTITIONS", "max_partitions_to_read"),
    ("TOO_MANY_ROWS_OR_BYTES", "max_result_rows, max_result_bytes"),
    ("TOO_MANY_ROWS", "max_rows_to_read, max_rows_to_group_by or max_rows_in_join"),
    ("TOO_MANY_BYTES", "max_bytes_to_read"),
    ("TOO_SLOW", "min_execution_speed"),
    ("SET_SIZE_LIMIT_EXCEEDED", "max_rows_in_set"),
)


def how_to_fix(message: str, user: str = "") -> str:
    """A hint for this error of the engine, or nothing; `user` is who is connected to a server."""
    if "UNKNOWN_IDENTIFIER" in message and "FROM etl.ledger" in message:
        return _MIGRATE
    for words, hint in _HINTS:
        if words in message:
            return hint
    of_rights = _of_rights(message, user) if user else ""
    if of_rights or not ("onnection" in message or "Max retries" in message):
        return of_rights
    return ". Check the address in CARAT_WAREHOUSE, and that the server runs"


def quote_user(user: str) -> str:
    """The user's name as it stands in GRANT and ALTER USER."""
    return user if re.fullmatch(r"[A-Za-z_]\w*", user) else f"`{user.replace('`', '')}`"


def _of_rights(message: str, user: str) -> str:
    """A hint for what an administrator has withheld from the user: a right, a setting, a limit or a quota."""
    name = quote_user(user)
    if "ACCESS_DENIED" in message:
        found = _GRANT.search(message)
        grant = f"GRANT {found['grant']} TO {name}" if found else ""
        wanted = f"As an administrator, run: {grant}; `carat" if grant else "`carat"
        return f". {wanted} doctor` lists every missing right"
    if "QUOTA_EXCEEDED" in message or "QUOTA_EXPIRED" in message:
        return f". The quota of user {user} is used up: wait for its next interval, or raise it with ALTER QUOTA"
    if "SETTING_CONSTRAINT_VIOLATION" in message or "is readonly" in message or "READONLY" in message:
        found = _CONSTRAINT.search(message)
        setting = found["name"] if found else "this setting"
        return (
            f". The profile of user {user} does not allow this: remove its constraint on {setting}, or give it "
            f"readonly = 2: ALTER USER {name} MODIFY SETTINGS readonly = 2 (a user that writes needs readonly = 0)"
        )
    for words, settings in _LIMITS:
        if words in message:
            return (
                f". A limit of user {user} on the server: raise {settings} in its profile "
                f"(ALTER USER {name} MODIFY SETTINGS …)"
            )
    return ""
