"""Values of ids that identify nobody: what shops send for a guest, or where a variable is not set."""

# WordPress gives guests the user 0; the others are unset values of JavaScript and Python, and placeholders.
DEFAULT_NO_IDS = "0,-1,null,undefined,none,nan,guest,anonymous,[object Object],00000000-0000-0000-0000-000000000000"


def parse_no_ids(text: str) -> tuple[str, ...]:
    """The values of a comma-separated list, each as `normal_id` gives it, sorted."""
    return tuple(sorted({normal_id(value) for value in text.split(",")} - {""}))


def normal_id(value: str) -> str:
    """The id without blanks around it and with ASCII letters in lower case, as the warehouse compares ids."""
    return value.strip(" ").encode(errors="surrogateescape").lower().decode(errors="surrogateescape")
