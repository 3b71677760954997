"""The snapshot plan, and where it is wrong."""

import pytest

from app.core.errors import SettingsError
from app.rules.snapshot_plan import SnapshotTable, load_snapshot_plan, parse_snapshot_plan
from app.rules.toml_file import TomlFile
from app.settings import SHIPPED_SNAPSHOT_PLANS, SHIPPED_SNAPSHOTS

ITEMS = '[items]\nsource = "items"\nkey = ["id"]\n'
STOCK = '[stock]\nsource = "stock"\nkey = ["product_id"]\n'


def parsed(text: str):
    return parse_snapshot_plan(TomlFile(text, "plan.toml"))


@pytest.mark.parametrize(("text", "message"), [
    ("[items\n", "^plan.toml:1: not valid TOML: "), ("", "^plan.toml: has no table; see the shipped app/rules/snapshot_plans/demo.toml"), ("# only a comment\n", "^plan.toml: has no table"),
    ("items = 1\n", r"^plan.toml:1: items: must be a table such as \[items\]$"), ('# a\n\nsource = "items"\n' + ITEMS, "^plan.toml:3: source: must be a table"),
    ("[[items]]\n" + ITEMS[8:], "^plan.toml:1: items: must be a table"), (ITEMS + ITEMS, "^plan.toml:4: not valid TOML: Cannot declare"),
    (ITEMS.replace("[items]", "[Items]"), "^plan.toml:1: Items: the name of a history table has lower-case letters"), (ITEMS.replace("[items]", '["my items"]'), '^plan.toml:1: "my items": the name of a history table'),
    (ITEMS.replace("[items]", '["items.x"]'), '^plan.toml:1: "items.x": the name of a history table'), (ITEMS.replace("[items]", "[1items]"), "^plan.toml:1: 1items: the name of a history table"),
    *[(STOCK + ITEMS.replace("[items]", f"[items_{view}]"), f"^plan.toml:4: items_{view}: the ending _{view} is reserved for the views of history") for view in ("current", "versions", "at")],
    (ITEMS + "exclde = []\n", "^plan.toml:4: items.exclde: unknown key. Did you mean exclude[?] Choose from source, key, columns"), (STOCK + ITEMS + "Key = []\n", "^plan.toml:7: items.Key: unknown key. Did you mean key[?]"),
    (ITEMS + 'name = "items"\n', "^plan.toml:4: items.name: unknown key"),
    (ITEMS.replace('"items"', "7"), "^plan.toml:2: items.source: must be text$"), (ITEMS.replace('"items"', '" "'), "^plan.toml:2: items.source: must not be empty$"),
    (ITEMS + "where = 1\n", "^plan.toml:4: items.where: must be text"), (ITEMS + 'where = ""\n', "^plan.toml:4: items.where: must not be empty"),
    ('[items]\nkey = ["id"]\n', "^plan.toml:1: items.source: missing: the name of the table in the shop's database"),
    ('[items]\nsource = "items"\n', r'^plan.toml:1: items.key: missing: the columns that identify a row, such as \["id"\]'), (ITEMS.replace('["id"]', "[]"), "^plan.toml:3: items.key: must not be empty"),
    (STOCK + '\n# key = ["id"]\n[items]\nsource = "items"\n', "^plan.toml:6: items.key: missing"),
    (ITEMS.replace('["id"]', '"id"'), r'^plan.toml:3: items.key: must be a list of texts, such as \["a", "b"\]'), (ITEMS.replace('["id"]', "[1]"), "^plan.toml:3: items.key: must be text"),
    (ITEMS.replace('["id"]', '[""]'), "^plan.toml:3: items.key: must not be empty"), (ITEMS.replace('["id"]', '["id", "id"]'), "^plan.toml:3: items.key: names id twice"),
    (ITEMS + 'columns = "title"\n', "^plan.toml:4: items.columns: must be a list"), (ITEMS + 'exclude = [["a"]]\n', "^plan.toml:4: items.exclude: must be text"),
    (ITEMS + 'columns = ["a", "a"]\n', "^plan.toml:4: items.columns: names a twice"), (ITEMS + 'columns = ["a"]\nexclude = ["b"]\n', "^plan.toml:5: items.exclude: cannot be combined with columns"),
    (ITEMS + 'exclude = ["a", "id"]\n', "^plan.toml:4: items.exclude: id is part of the key"), (ITEMS + 'exclude = ["a"]\nperson = "a"\n', "^plan.toml:5: items.person: a is not kept in history"),
    *[(ITEMS + f"max_deleted_share = {share}\n", f"^plan.toml:4: items.max_deleted_share: must be {problem}$") for share, problem in (("1.1", "1 or less"), ("-0.1", "0 or more"), ("nan", "1 or less"), ("inf", "1 or less"), ('"0.5"', "a number"), ("true", "a number"), ("[0.5]", "a number"))],
    (ITEMS + 'product = "id"\n', "^plan.toml:4: items.product: must be a table"), (ITEMS + "product = { product_id = 1 }\n", "^plan.toml:4: items.product.product_id: must be text"),
    (ITEMS + 'product = { product_id = "id", colour = "c" }\n', "^plan.toml:4: items.product.colour: 'colour' is not valid. Choose from product_id, title, section"),
    (ITEMS + 'product = { product_id = "id",\n  titel = "c" }\n', "^plan.toml:4: not valid TOML"), (ITEMS + '[items.product]\nproduct_id = "id"\ntitel = "c"\n', "^plan.toml:6: items.product.titel: 'titel' is not valid. Did you mean title[?]"),
    (ITEMS + 'product = { title = "title" }\n', "^plan.toml:4: items.product: product_id must be the whole key"), (ITEMS + 'product.product_id = "sku"\n', "^plan.toml:4: items.product: product_id must be the whole key"),
    (ITEMS + '[items.product]\nproduct_id = "sku"\n', "^plan.toml:4: items.product: product_id must be the whole key"),
    (ITEMS.replace('["id"]', '["id", "shop"]') + 'product = { product_id = "id" }\n', "^plan.toml:4: items.product: product_id must be the whole key"),
    (ITEMS + 'product = { product_id = "id", title = "t" }\n' + STOCK + 'product = { product_id = "product_id", title = "t" }\n', r"^plan.toml:8: stock.product.title: already comes from \[items\]"),
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
    with pytest.raises(SettingsError, match=f"^plan.toml:{line}: items.where: must be text"):
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
    assert [table.name for table in plan.tables] == [
        "items", "stock", "cart", "favorites", "orders", "order_items", "refunds",
    ]  # fmt: skip
    assert [table.name for table in plan.tables if table.optional] == ["orders", "order_items", "refunds"]
    assert [table.name for table in plan.of_products] == ["items", "stock"]
    assert plan.tables[2].key == ("user_id", "product_id")


def test_every_shipped_plan_is_valid():
    for path in SHIPPED_SNAPSHOT_PLANS.glob("*.toml"):
        assert load_snapshot_plan(path).tables


def test_a_table_keeps_its_key_whatever_else_it_keeps():
    everything, some, but = (
        SnapshotTable(name="items", source="items", key=("id",), **more) for more in ({}, {"columns": ("title",)}, {"exclude": ("title",)})
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
    assert table == SnapshotTable(name="items", source="items", key=("id",), exclude=("secret",), where="is_deleted = 0", max_deleted_share=1, product={"product_id": "id", "title": "name"})  # fmt: skip


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


CART = '[cart]\nsource = "baskets"\nkey = ["line"]\n'


def test_a_role_says_which_column_is_what():
    (table,) = parsed(CART + 'cart = { owner = "customer", product_id = "sku" }\n').tables
    assert (table.cart, table.favorites) == ({"owner": "customer", "product_id": "sku"}, {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (CART.replace("[cart]", "[shop_cart]"), "the name shop_cart is reserved"),
        (CART + 'cart = { owner = "customer" }', "cart.cart: must also say which column is product_id"),
        (CART + 'favorites = { product_id = "sku" }', "cart.favorites: must also say which column is owner"),
        (CART + 'cart = { owner = "a", product = "b" }', "product"),
        (CART + 'favorites = { owner = "a", product_id = "b", quantity = "c" }', "quantity"),
        (CART + 'columns = ["sku"]\ncart = { owner = "customer", product_id = "sku" }', "customer is not kept"),
        (
            CART + 'cart = { owner = "a", product_id = "b" }\n' + CART.replace("[cart]", "[more]") + 'cart = { owner = "a", product_id = "b" }',
            "more.cart: [cart] already has this role",
        ),
    ],
)  # fmt: skip
def test_a_role_that_is_not_whole_is_refused(text, problem):
    with pytest.raises(SettingsError) as refused:
        parsed(text)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("demo", {"title", "list_price", "stock_qty", "cart", "favorites"}),
        ("opencart", {"title", "list_price", "stock_qty", "cart", "favorites"}),
        ("prestashop", {"title", "list_price", "stock_qty", "favorites"}),
        ("woocommerce", {"title", "list_price", "stock_qty", "favorites"}),
    ],
)
def test_shipped_plans_say_which_table_has_which_role(name, roles):
    plan = load_snapshot_plan(SHIPPED_SNAPSHOT_PLANS / f"{name}.toml")
    attributes = {attribute for table in plan.of_products for attribute in table.product}
    played = {role for table in plan.tables for role in ("cart", "favorites") if getattr(table, role)}
    assert roles <= attributes | played
    assert played <= roles


def test_a_column_of_a_role_that_the_shop_does_not_have_is_named():
    (table,) = parsed(CART + 'cart = { owner = "customer", product_id = "sku", quantity = "pieces" }\n').tables
    assert table.missing(["line", "customer", "sku", "pieces"]) == {}
    assert table.missing(["line", "client", "sku", "pieces"]) == {"customer": "cart"}


ORDERS = """[orders]
source = "o"
key = ["id"]
person = "user"

[orders.meaning]
order_id = "id"
created = "at"
total = "total"
state = "status"
user = "user"
states = { paid = ["Paid ", "sent"], refunded = ["back"] }
"""


def test_a_plan_says_which_column_of_orders_is_what():
    meaning = parsed(ORDERS).orders.orders
    assert meaning is not None
    assert (meaning.order_id, meaning.created, meaning.minor_units) == ("id", "at", 0)
    assert meaning.state_of == {"paid": "paid", "sent": "paid", "back": "refunded"}
    assert parsed(ITEMS).orders.orders is None


@pytest.mark.parametrize(("text", "message"), [
    (ORDERS.replace('created = "at"\n', ""), "^plan.toml:6: orders.meaning.created: missing: the column that says when the order was made"),
    (ORDERS + 'totl = "x"\n', "^plan.toml:13: orders.meaning.totl: unknown key. Did you mean total[?]"),
    (ORDERS.replace("back", "sent"), "^plan.toml:12: orders.meaning.states.refunded: sent is paid already"),
    (ORDERS.replace("paid =", "payed ="), "^plan.toml:12: orders.meaning.states.payed"),
    (ORDERS.replace('state = "status"\n', ""), "^plan.toml:11: orders.meaning.states: needs state, the column that has these values"),
    (ORDERS.replace('person = "user"', ""), '^plan.toml:11: orders.meaning.user: needs person = "user" in .orders., for `carat forget`'),
    (ORDERS + 'time_zone = "Mars"\n', "^plan.toml:13: orders.meaning.time_zone: 'Mars' is not a time zone: write one such as"),
    (ORDERS.replace('person = "user"', 'person = "user"\nexclude = ["total"]'), "^plan.toml:7: orders.meaning: total is not kept in history"),
    (ITEMS + 'meaning = { order_id = "id" }\n', r"^plan.toml:4: items.meaning: only the tables .orders., .order_items. and .refunds. have a meaning"),
    (ITEMS.replace("items", "refunds") + 'meaning = { order_id = "id", amount = "a", at = "b" }\n', r"^plan.toml:4: refunds.meaning: needs .orders.meaning., which says what an order is"),
])  # fmt: skip
def test_a_mistake_in_the_meaning_of_orders_is_named(text, message):
    with pytest.raises(SettingsError, match=message):
        parsed(text)


def test_what_is_said_of_costs_does_not_change_what_is_said_of_products():
    product = 'product = { product_id = "id", title = "title" }\n'
    with_cost = parsed(ITEMS + product.replace("}", ', cost = "c" }'))
    assert with_cost.products_digest == parsed(ITEMS + product).products_digest
    assert with_cost.costs_digest != parsed(ITEMS + product).costs_digest


def test_a_column_that_a_meaning_names_must_be_there():
    (table,) = parsed(ORDERS).tables
    assert table.missing(["id", "at", "status", "user"]) == {"total": "meaning"}
