"""Removes a person's identifiers from text columns of `dwh`, `history` and `etl` that no rebuild replaces.

Old and new texts go through the journal, because the warehouse stores the text of every update.
"""

from collections.abc import Sequence

from app.jobs.forget.identifiers import Identifiers
from app.jobs.forget.redaction import redacted
from app.jobs.forget.search import TextColumn, columns_that_may_name, sorting_key, texts_that_name
from app.warehouse import Warehouse
from app.warehouse.hard_delete import Journal, delete_rows, update_rows

_NUMBERED = 9  # characters before each text, so that old and new ones come in one order


def redact_columns(warehouse: Warehouse, journal: Journal, ids: Identifiers, tables: Sequence[str]) -> None:
    """Redact the person in every text column of these tables; rows that cannot be updated are deleted."""
    for table in tables:
        for column in columns_that_may_name(warehouse, ids, table):
            values = [value for value, _ in texts_that_name(warehouse, ids, column)]
            if not values:
                continue
            journal.add((f"{table}.{column.name}", value.decode("utf-8", "replace")) for value in values)
            naming = f"{column.as_text} IN ({journal.select(f'{table}.{column.name}')})"
            if column.name in sorting_key(warehouse, table):
                delete_rows(warehouse, table, naming)
            else:
                update_rows(warehouse, table, f"`{column.name}` = {_new_value(journal, ids, column, values)}", naming)


def _new_value(journal: Journal, ids: Identifiers, column: TextColumn, values: Sequence[bytes]) -> str:
    """The SQL of what takes the place of these values."""
    if column.type.startswith("Map("):
        return "map()"
    if column.type.startswith("Array("):
        return "arrayMap(item -> 'forgotten', " + f"`{column.name}`)"
    olds, news = f"{column.table}.{column.name} old", f"{column.table}.{column.name} new"
    texts = [value.decode("utf-8", "replace") for value in values]
    journal.add((olds, f"{number:08} {text}") for number, text in enumerate(texts))
    journal.add((news, f"{number:08} {redacted(text, ids)}") for number, text in enumerate(texts))

    def in_order(kind: str) -> str:
        ordered = f"SELECT DISTINCT value FROM {journal.table.full_name} WHERE kind = '{kind}' ORDER BY value"
        return f"(SELECT groupArray(substring(value, {_NUMBERED + 1})) FROM ({ordered}))"

    return f"transform({column.as_text}, {in_order(olds)}, {in_order(news)}, {column.as_text})"
