"""SQL text that is safe to put into a statement."""


def quote(text: str) -> str:
    """The text as a ClickHouse string literal, quotes included."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
