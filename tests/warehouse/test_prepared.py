"""A migration that found nothing to change is not repeated until what it wants, or what is there, is different."""

import pytest

from app.warehouse import migrate
from tests.support.statements import counted_statements


def looked_at_everything(warehouse, settings) -> bool:
    """Whether a migration compared every table and view."""
    with counted_statements() as statements:
        migrate(warehouse, settings)
    return any("formatQuerySingleLine" in sql for sql in statements)


@pytest.fixture
def prepared(warehouse, settings):
    """A warehouse of which a migration knows that nothing differs."""
    while migrate(warehouse, settings):
        pass
    return warehouse


def test_what_was_found_right_is_not_compared_again(prepared, settings):
    assert not looked_at_everything(prepared, settings)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE dwh.sessions COMMENT COLUMN channel 'something else'",
        "ALTER TABLE dwh.sessions MODIFY SETTING min_bytes_for_wide_part = 1",
        "DROP TABLE etl.runs",
        "CREATE OR REPLACE VIEW dwh.visitors AS SELECT 1 AS nothing",
    ],
)
def test_a_change_of_tables_or_views_is_found_and_undone(prepared, settings, change):
    prepared.command(change)
    assert migrate(prepared, settings)
    migrate(prepared, settings)
    assert not looked_at_everything(prepared, settings)


def test_other_settings_are_compared(prepared, settings):
    elsewhere = settings.model_copy(update={"timezone": "Europe/Berlin"})
    assert looked_at_everything(prepared, elsewhere)
