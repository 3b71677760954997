"""The snapshot plan, and where it is wrong."""

import pytest

from app.core.errors import SettingsError
from app.rules.snapshot_plan import SnapshotTable, load_snapshot_plan, parse_snapshot_plan
from app.settings import SHIPPED_SNAPSHOTS
from tests.support.paths import CHECKOUT

ITEMS = '[items]\nsource = "items"\nkey = ["id"]\n'
STOCK = '[stock]\nsource = "stock"\nkey = ["product_id"]\n'


def parsed(text: str):
    return parse_snapshot_plan(text, source="plan.toml")


@pytest.mark.parametrize(("text", "message"), [
    ("[items\n", "^plan.toml: .*line 1"), ("", "^plan.toml: no table; see the shipped app/rules/snapshot_plans/demo.toml"), ("# only a comment\n", "^plan.toml: no table"),
    ("items = 1\n", r"^plan.toml(, line 1)?, items: must be a table, such as \[items\]$"), ('# a\n\nsource = "items"\n' + ITEMS, "^plan.toml(, line 3)?, source: must be a table"),
    ("[[items]]\n" + ITEMS[8:], "^plan.toml, line 1, items: must be a table"), (ITEMS + ITEMS, "^plan.toml: .*line 4|^plan.toml: .*twice|^plan.toml: Cannot declare"),
    (ITEMS.replace("[items]", "[Items]"), "^plan.toml, line 1, Items: a history table is named by lower-case letters"), (ITEMS.replace("[items]", '["my items"]'), "^plan.toml, line 1, my items: a history table is named"),
    (ITEMS.replace("[items]", '["items.x"]'), "^plan.toml(, line 1)?, items.x: a history table is named"), (ITEMS.replace("[items]", "[1items]"), "^plan.toml, line 1, 1items: a history table is named"),
    *[(STOCK + ITEMS.replace("[items]", f"[items_{view}]"), f"^plan.toml, line 4, items_{view}: the ending _{view} belongs to a view of history") for view in ("current", "versions", "at")],
    (ITEMS + "exclde = []\n", "^plan.toml, line 4, exclde: unknown key; a table has source, key, columns"), (STOCK + ITEMS + "Key = []\n", "^plan.toml, line 7, Key: unknown key"),
    (ITEMS.replace('"items"', "7"), "^plan.toml, line 2, source: must be text, and not empty"), (ITEMS.replace('"items"', '" "'), "^plan.toml, line 2, source: must be text, and not empty"),
    (ITEMS + "where = 1\n", "^plan.toml, line 4, where: must be text"), (ITEMS + 'where = ""\n', "^plan.toml, line 4, where: must be text, and not empty"),
    ('[items]\nkey = ["id"]\n', "^plan.toml, line 1, source: missing: which table of the shop's database is it"),
    ('[items]\nsource = "items"\n', "^plan.toml, line 1, key: missing: the columns that tell its rows apart"), (ITEMS.replace('["id"]', "[]"), "^plan.toml, line 3, key: missing"),
    (STOCK + '\n# key = ["id"]\n[items]\nsource = "items"\n', "^plan.toml, line 6, key: missing"),
    (ITEMS.replace('["id"]', '"id"'), r'^plan.toml, line 3, key: must be a list of column names, such as \["id"\]'), (ITEMS.replace('["id"]', "[1]"), "^plan.toml, line 3, key: must be a list"),
    (ITEMS.replace('["id"]', '[""]'), "^plan.toml, line 3, key: must be a list"), (ITEMS.replace('["id"]', '["id", "id"]'), "^plan.toml, line 3, key: names a column twice"),
    (ITEMS + 'columns = "title"\n', "^plan.toml, line 4, columns: must be a list"), (ITEMS + 'exclude = [["a"]]\n', "^plan.toml, line 4, exclude: must be a list"),
    (ITEMS + 'columns = ["a", "a"]\n', "^plan.toml, line 4, columns: names a column twice"), (ITEMS + 'columns = ["a"]\nexclude = ["b"]\n', "^plan.toml, line 5, exclude: goes without columns"),
    (ITEMS + 'exclude = ["a", "id"]\n', "^plan.toml, line 4, exclude: id is part of the key"),
    *[(ITEMS + f"max_deleted_share = {share}\n", "^plan.toml, line 4, max_deleted_share: must lie between 0 and 1") for share in ("1.1", "-0.1", "nan", "inf", '"0.5"', "true", "[0.5]")],
    (ITEMS + 'product = "id"\n', "^plan.toml, line 4, product: must be a table such as"), (ITEMS + "product = { product_id = 1 }\n", "^plan.toml, line 4, product: must be a table such as"),
    (ITEMS + 'product = { product_id = "id", colour = "c" }\n', "^plan.toml, line 4, product: unknown colour; choose from product_id, title, section"),
    (ITEMS + 'product = { title = "title" }\n', "^plan.toml, line 4, product: product_id must be the whole key"), (ITEMS + 'product.product_id = "sku"\n', "^plan.toml, line 4, product: product_id must be the whole key"),
    (ITEMS + '[items.product]\nproduct_id = "sku"\n', "^plan.toml, line 4, product: product_id must be the whole key"),
    (ITEMS.replace('["id"]', '["id", "shop"]') + 'product = { product_id = "id" }\n', "^plan.toml, line 4, product: product_id must be the whole key"),
    (ITEMS + 'product = { product_id = "id", title = "t" }\n' + STOCK + 'product = { product_id = "product_id", title = "t" }\n', r"^plan.toml, line 8, product: title already comes from \[items\]"),
])  # fmt: skip
def test_a_mistake_is_named_with_file_line_and_key(text, message):
    with pytest.raises(SettingsError, match=message) as caught:
        parsed(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", [
    ' [ items ]  # a comment\n"source" = "items"\n\'key\' = [\n  "id",\n]\nwhere = 7', "[items]\nsource='items'\nkey=['id']\n\n\nwhere=7",
    '[stock]\nsource = "stock"\nkey = ["id"]\n[items]\nwhere = 7\nsource = "items"\nkey = ["id"]',
])  # fmt: skip
def test_a_mistake_is_found_in_any_layout(layout):
    line = next(
        number for number, line in enumerate(layout.splitlines(), 1) if line.replace(" ", "").endswith("where=7")
    )
    with pytest.raises(SettingsError, match=f"^plan.toml, line {line}, where: must be text"):
        parsed(layout)


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_plan_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "plan.toml"
    if content:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=f"^CARAT_SNAPSHOTS: cannot read {path}: "):
        load_snapshot_plan(path)


def test_the_shipped_plan_says_of_products_what_the_demo_has():
    plan = load_snapshot_plan(SHIPPED_SNAPSHOTS)
    assert load_snapshot_plan(SHIPPED_SNAPSHOTS).tables
    assert [table.name for table in plan.tables] == ["items", "stock", "cart", "favorites"]
    assert [table.name for table in plan.of_products] == ["items", "stock"]
    assert plan.tables[2].key == ("user_id", "product_id")


def test_every_plan_of_the_examples_is_right():
    for path in (CHECKOUT / "examples").rglob("*.toml"):
        assert load_snapshot_plan(path).tables


def test_a_table_keeps_its_key_whatever_else_it_keeps():
    everything, some, but = (
        SnapshotTable("items", "items", ("id",), **more) for more in ({}, {"columns": ("title",)}, {"exclude": ("title",)})
    )  # fmt: skip
    assert [[table.keeps(name) for name in ("id", "title", "price")] for table in (everything, some, but)] == [
        [True, True, True],
        [True, True, False],
        [True, False, True],
    ]


def test_a_plan_says_all_that_it_can():
    (table,) = parsed(
        ITEMS + 'exclude = ["secret"]\nwhere = "is_deleted = 0"\nmax_deleted_share = 1\nproduct = { product_id = "id", title = "name" }'
    ).tables  # fmt: skip
    assert table == SnapshotTable("items", "items", ("id",), exclude=("secret",), where="is_deleted = 0", max_deleted_share=1, product={"product_id": "id", "title": "name"})  # fmt: skip


def test_some_tables_can_be_selected_in_the_order_of_the_plan():
    plan = parsed(ITEMS + STOCK)
    assert [table.name for table in plan.select(["stock", "items"]).tables] == ["items", "stock"]
    assert [table.name for table in plan.select(["stock"]).tables] == ["stock"]
    with pytest.raises(SettingsError, match="^--tables orders: the snapshot plan has items, stock$"):
        plan.select(["items", "orders"])


def test_the_digest_follows_what_is_said_of_products_and_nothing_else():
    product = 'product = { product_id = "id", title = "title" }\n'
    plain, laid_out, narrowed, other = (
        parsed(text).products_digest
        for text in (
            ITEMS + product,
            "# a\n\n" + ITEMS + 'product.title = "title"\nproduct.product_id = "id"\n' + STOCK,
            ITEMS + 'where = "1"\n' + product,
            ITEMS + product.replace('"title" }', '"name" }'),
        )
    )
    assert plain == laid_out == narrowed != other
