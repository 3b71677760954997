"""The shipped snapshot plans fit the shop systems they are written for, and leave out who a shopper is.

The tables are made here with the names and types that OpenCart 4.1, WooCommerce 11 and PrestaShop 9 give their columns;
keys, defaults and columns that matter to no plan are left out.
"""

import functools
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from app.jobs import ingest
from app.jobs.build.backfill import build_stale
from app.jobs.build.day import JOBS
from app.jobs.snapshot import take_snapshot
from app.rules.snapshot_plan import PRODUCT_ATTRIBUTES, SnapshotPlan, load_snapshot_plan, parse_snapshot_plan
from app.rules.toml_file import TomlFile
from app.settings import SHIPPED_SNAPSHOT_PLANS, Settings
from app.warehouse import open_warehouse
from tests.support.empty_warehouse import make_empty
from tests.support.mariadb import MariaDB, running_mariadb

pytestmark = pytest.mark.slow


MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
VIEW = {"method": "GET", "endpoint": "/api/v1/products/17", "status": 200}
SECRET, SECRET_NUMBER = "lisa@example.com", 424_242  # stand in every column that is kept out
SERIALIZED_CART = 'a:1:{s:4:"cart";a:1:{s:2:"k1";a:2:{s:10:"product_id";i:17;s:8:"quantity";i:1;}}}'


@dataclass(frozen=True, eq=False)
class ShopSystem:
    """A shop system: the columns of its tables, rows that a shop has, and what its shoppers and staff change."""

    name: str
    prefix: str
    tables: dict[str, str]
    kept_out: dict[str, tuple[str, ...]]  # columns that stay in the shop: secrets, what somebody typed, long texts
    about_people: tuple[str, ...]  # tables that no plan may read
    rows: tuple[str, ...]
    changes: tuple[str, ...]
    order: tuple[str, ...]  # what dwh.orders shall know of its order: state, total, refunded, net revenue, user
    ring: dict[str, tuple[str, ...]]  # what product sessions shall know of product 17, before and after the changes
    of_other_versions: tuple[str, ...] = ()  # columns that the plan leaves out and these tables do not have

    @property
    def plan(self) -> Path:
        return SHIPPED_SNAPSHOT_PLANS / f"{self.name}.toml"

    @property
    def view(self) -> str:
        return f"{self.prefix}carat_products"

    def types(self, table: str) -> dict[str, str]:
        return {name.strip("`"): kind for name, kind in (c.split(" ", 1) for c in self.tables[table].split(", "))}


OPENCART = ShopSystem(
    "opencart",
    "oc_",
    tables={
        "oc_product": "product_id INT PRIMARY KEY, master_id INT, model VARCHAR(64), location VARCHAR(128), variant TEXT, override TEXT, quantity INT, stock_status_id INT, image VARCHAR(255), manufacturer_id INT, shipping TINYINT, price DECIMAL(15,4), points INT, tax_class_id INT, date_available DATE, weight DECIMAL(15,8), weight_class_id INT, length DECIMAL(15,8), width DECIMAL(15,8), height DECIMAL(15,8), length_class_id INT, subtract TINYINT, minimum INT, rating INT, sort_order INT, status TINYINT, date_added DATETIME, date_modified DATETIME",
        "oc_product_option_value": "product_option_value_id INT PRIMARY KEY, product_option_id INT, product_id INT, option_id INT, option_value_id INT, quantity INT, subtract TINYINT, price DECIMAL(15,4), price_prefix VARCHAR(1)",
        "oc_product_description": "product_id INT, language_id INT, name VARCHAR(255), description MEDIUMTEXT, tag TEXT, meta_title VARCHAR(255)",
        "oc_product_to_category": "product_id INT, category_id INT",
        "oc_category_description": "category_id INT, language_id INT, name VARCHAR(255), description MEDIUMTEXT",
        "oc_product_attribute": "product_id INT, attribute_id INT, language_id INT, text TEXT",
        "oc_attribute_description": "attribute_id INT, language_id INT, name VARCHAR(64)",
        "oc_cart": "cart_id INT PRIMARY KEY, store_id INT, customer_id INT, session_id VARCHAR(32), product_id INT, subscription_plan_id INT, `option` TEXT, quantity INT, override TEXT, price DECIMAL(15,4), date_added DATETIME",
        "oc_customer_wishlist": "customer_id INT, store_id INT, product_id INT, date_added DATETIME",
        "oc_order": "order_id INT PRIMARY KEY, store_id INT, customer_id INT, firstname VARCHAR(32), email VARCHAR(96), telephone VARCHAR(32), comment TEXT, total DECIMAL(15,4), order_status_id INT, currency_code VARCHAR(3), currency_value DECIMAL(15,8), ip VARCHAR(40), user_agent VARCHAR(255), date_added DATETIME, date_modified DATETIME",
        "oc_order_product": "order_product_id INT PRIMARY KEY, order_id INT, product_id INT, name VARCHAR(255), quantity INT, price DECIMAL(15,4), total DECIMAL(15,4), tax DECIMAL(15,4)",
    },
    kept_out={
        "oc_cart": ("session_id", "option", "override"),
        "oc_product": ("variant", "override"),
        "oc_product_description": ("description", "tag"),
        "oc_category_description": ("description",),
        "oc_order": ("firstname", "email", "telephone", "comment", "ip", "user_agent"),
    },
    about_people=("oc_customer", "oc_address", "oc_session", "oc_user", "oc_customer_login"),
    of_other_versions=("viewed",),
    rows=(
        "oc_product (product_id, model, quantity, stock_status_id, price, date_available, status) VALUES (17, 'R-17', 3, 7, 199, '0000-00-00', 1), (18, 'C-18', 0, 5, 20, '2026-01-05', 1)",
        "oc_product_option_value VALUES (171, 1, 17, 11, 54, 2, 1, 0, '+'), (172, 1, 17, 11, 56, 1, 1, 10, '+')",
        "oc_product_description (product_id, language_id, name, description) VALUES (17, 1, 'Ring Alma', '…'), (17, 2, 'Bague Alma', '…'), (18, 1, 'Chain', '…')",
        "oc_product_to_category VALUES (17, 30), (17, 20), (18, 30)",
        "oc_category_description (category_id, language_id, name) VALUES (20, 1, 'Rings'), (20, 2, 'Bagues'), (30, 1, 'Gifts')",
        "oc_attribute_description VALUES (1, 1, 'Metal'), (1, 2, 'Métal'), (2, 1, 'Material'), (3, 1, 'Care')",
        "oc_product_attribute VALUES (17, 1, 1, 'gold 585'), (17, 1, 2, 'or 585'), (17, 2, 1, 'pearl'), (17, 3, 1, 'no soap')",
        "oc_cart (cart_id, store_id, customer_id, product_id, quantity, date_added) VALUES (1, 0, 4711, 17, 1, '2026-03-01 10:00:00'), (2, 0, 0, 18, 1, '2026-03-01 10:00:00')",
        "oc_customer_wishlist VALUES (4711, 0, 18, '2026-02-01 00:00:00')",
        "oc_order (order_id, customer_id, total, order_status_id, currency_code, date_added) VALUES (1001, 4711, 199, 5, 'EUR', '2026-03-01 09:00:00'), (1002, 0, 20, 0, 'EUR', '2026-03-01 09:00:00')",
        "oc_order_product (order_product_id, order_id, product_id, quantity, price) VALUES (1, 1001, 17, 1, 199)",
    ),
    changes=(
        "UPDATE oc_product SET price = 149.5 WHERE product_id = 17",
        "UPDATE oc_product SET quantity = 2 WHERE product_id = 17",
        "UPDATE oc_product_option_value SET quantity = 1 WHERE product_option_value_id = 171",
        "UPDATE oc_cart SET quantity = 2, date_added = '2026-03-02 08:00:00' WHERE cart_id = 1",
        "DELETE FROM oc_cart WHERE cart_id = 2",
        "DELETE FROM oc_customer_wishlist",
        "INSERT INTO oc_customer_wishlist VALUES (4711, 0, 17, '2026-03-02 08:00:00')",
        "DELETE FROM oc_product_to_category WHERE category_id = 20",
        "UPDATE oc_order SET order_status_id = 11 WHERE order_id = 1001",
    ),
    order=("refunded", "199", "199", "0", "4711"),
    ring={"title": ("Ring Alma",), "section": ("20", "30"), "material": ("pearl",), "metal": ("gold 585",)},
)

WOOCOMMERCE = ShopSystem(
    "woocommerce",
    "wp_",
    tables={
        "wp_posts": "ID BIGINT UNSIGNED PRIMARY KEY, post_author BIGINT UNSIGNED, post_date DATETIME, post_date_gmt DATETIME, post_content LONGTEXT, post_title TEXT, post_excerpt TEXT, post_status VARCHAR(20), post_password VARCHAR(255), post_name VARCHAR(200), post_modified DATETIME, post_modified_gmt DATETIME, post_parent BIGINT UNSIGNED, guid VARCHAR(255), menu_order INT, post_type VARCHAR(20)",
        "wp_wc_product_meta_lookup": "product_id BIGINT PRIMARY KEY, sku VARCHAR(100), global_unique_id VARCHAR(100), `virtual` TINYINT, downloadable TINYINT, min_price DECIMAL(19,4), max_price DECIMAL(19,4), onsale TINYINT, stock_quantity DOUBLE, stock_status VARCHAR(100), rating_count BIGINT, average_rating DECIMAL(3,2), total_sales BIGINT, tax_status VARCHAR(100), tax_class VARCHAR(100)",
        "wp_terms": "term_id BIGINT UNSIGNED PRIMARY KEY, name VARCHAR(200), slug VARCHAR(200), term_group BIGINT",
        "wp_term_taxonomy": "term_taxonomy_id BIGINT UNSIGNED PRIMARY KEY, term_id BIGINT UNSIGNED, taxonomy VARCHAR(32), description LONGTEXT, parent BIGINT UNSIGNED, count BIGINT",
        "wp_term_relationships": "object_id BIGINT UNSIGNED, term_taxonomy_id BIGINT UNSIGNED, term_order INT",
        "wp_usermeta": "umeta_id BIGINT UNSIGNED PRIMARY KEY, user_id BIGINT UNSIGNED, meta_key VARCHAR(255), meta_value LONGTEXT",
        "wp_yith_wcwl": "ID BIGINT PRIMARY KEY, prod_id BIGINT, quantity INT, user_id BIGINT, wishlist_id BIGINT, position INT, original_price DECIMAL(9,3), original_currency CHAR(3), dateadded TIMESTAMP, on_sale TINYINT",
        "wp_wc_order_stats": "order_id BIGINT UNSIGNED PRIMARY KEY, parent_id BIGINT UNSIGNED, date_created DATETIME, date_created_gmt DATETIME, date_paid DATETIME, date_completed DATETIME, num_items_sold INT, total_sales DOUBLE, tax_total DOUBLE, shipping_total DOUBLE, net_total DOUBLE, returning_customer TINYINT, status VARCHAR(20), customer_id BIGINT UNSIGNED",
        "wp_wc_order_product_lookup": "order_item_id BIGINT UNSIGNED PRIMARY KEY, order_id BIGINT UNSIGNED, product_id BIGINT UNSIGNED, variation_id BIGINT UNSIGNED, customer_id BIGINT UNSIGNED, date_created DATETIME, product_qty INT, product_net_revenue DOUBLE, product_gross_revenue DOUBLE",
        "wp_tinvwl_items": "ID BIGINT PRIMARY KEY, wishlist_id BIGINT, product_id BIGINT, variation_id BIGINT, formdata TEXT, author BIGINT, date DATETIME, quantity BIGINT, price VARCHAR(255), in_stock TINYINT",
    },
    kept_out={
        "wp_posts": ("post_author", "post_password", "post_content", "post_excerpt"),
        "wp_tinvwl_items": ("formdata",),
    },
    about_people=(
        "wp_users",
        "wp_woocommerce_sessions",
        "wp_wc_orders",
        "wp_wc_order_addresses",
        "wp_wc_customer_lookup",
        "wp_yith_wcwl_lists",
        "wp_tinvwl_lists",
    ),
    rows=(
        "wp_posts (ID, post_title, post_name, post_status, post_date_gmt, post_parent, post_type) VALUES (17, 'Ring Alma', 'ring-alma', 'publish', '2026-01-05 00:00:00', 0, 'product'), (18, 'Chain', 'chain', 'draft', '0000-00-00 00:00:00', 0, 'product'), (171, 'Ring Alma - 54', 'ring-alma-54', 'publish', '2026-01-05 00:00:00', 17, 'product_variation'), (5, 'About us', 'about-us', 'publish', '2026-01-01 00:00:00', 0, 'page')",
        "wp_wc_product_meta_lookup (product_id, sku, min_price, max_price, onsale, stock_quantity, stock_status, total_sales) VALUES (17, 'R-17', 199, 209, 0, 3, 'instock', 40), (18, 'C-18', 20, 20, 0, NULL, 'instock', 2), (171, 'R-17-54', 199, 199, 0, 2, 'instock', 9)",
        "wp_terms VALUES (1, 'Rings', 'rings', 0), (2, 'gold 585', 'gold-585', 0), (3, 'pearl', 'pearl', 0), (4, 'coral', 'coral', 0), (5, 'new', 'new', 0)",
        "wp_term_taxonomy VALUES (11, 1, 'product_cat', '', 0, 1), (12, 2, 'pa_metal', '', 0, 1), (13, 3, 'pa_material', '', 0, 1), (14, 4, 'pa_material', '', 0, 1), (15, 5, 'product_tag', '', 0, 1)",
        "wp_term_relationships VALUES (17, 11, 0), (17, 12, 0), (17, 13, 0), (17, 14, 0), (17, 15, 0), (5, 11, 0)",
        f"wp_usermeta VALUES (1, 4711, '_woocommerce_persistent_cart_1', '{SERIALIZED_CART}'), (2, 4711, 'billing_email', '{SECRET}'), (3, 4711, 'nickname', '{SECRET}')",
        "wp_yith_wcwl VALUES (1, 18, 1, 4711, 1, 0, 20, 'EUR', '2026-02-01 00:00:00', 0), (2, 17, 1, NULL, 2, 0, 199, 'EUR', '2026-02-02 00:00:00', 0)",
        "wp_wc_order_stats (order_id, parent_id, date_created_gmt, total_sales, status, customer_id) VALUES (1001, 0, '2026-03-01 09:00:00', 199, 'wc-processing', 5), (1002, 1001, '2026-03-01 20:00:00', -50, 'wc-completed', 5)",
        "wp_wc_order_product_lookup (order_item_id, order_id, product_id, variation_id, product_qty, product_gross_revenue) VALUES (1, 1001, 17, 171, 1, 199), (2, 1002, 17, 171, -1, -50)",
        "wp_tinvwl_items (ID, wishlist_id, product_id, variation_id, author, date, quantity) VALUES (1, 1, 17, 171, 4711, '2026-02-01 00:00:00', 1)",
    ),
    changes=(
        "UPDATE wp_wc_product_meta_lookup SET min_price = 149.5, onsale = 1 WHERE product_id = 17",
        "UPDATE wp_wc_product_meta_lookup SET stock_quantity = 2, total_sales = 41 WHERE product_id = 17",
        "UPDATE wp_wc_product_meta_lookup SET stock_quantity = 1, total_sales = 10 WHERE product_id = 171",
        "UPDATE wp_posts SET post_modified = '2026-03-02 08:00:00' WHERE ID = 17",
        "UPDATE wp_posts SET post_status = 'publish', post_date_gmt = '2026-03-02 08:00:00' WHERE ID = 18",
        "UPDATE wp_usermeta SET meta_value = REPLACE(meta_value, 'i:1;', 'i:2;') WHERE umeta_id = 1",
        "DELETE FROM wp_yith_wcwl WHERE ID = 1",
        "INSERT INTO wp_yith_wcwl VALUES (3, 17, 1, 4711, 1, 0, 149.5, 'EUR', '2026-03-02 08:00:00', 1)",
    ),
    order=("partly_refunded", "199", "50", "149", ""),
    ring={"title": ("Ring Alma",), "section": ("Rings",), "material": ("coral, pearl",), "metal": ("gold 585",)},
)

PRESTASHOP = ShopSystem(
    "prestashop",
    "ps_",
    tables={
        "ps_product_shop": "id_product INT UNSIGNED, id_shop INT UNSIGNED, id_category_default INT UNSIGNED, id_tax_rules_group INT UNSIGNED, on_sale TINYINT UNSIGNED, ecotax DECIMAL(17,6), minimal_quantity INT UNSIGNED, price DECIMAL(20,6), wholesale_price DECIMAL(20,6), unity VARCHAR(255), unit_price DECIMAL(20,6), active TINYINT UNSIGNED, redirect_type ENUM('404','default'), available_for_order TINYINT, available_date DATE, `condition` ENUM('new','used','refurbished'), show_price TINYINT, indexed TINYINT, visibility ENUM('both','catalog','search','none'), cache_default_attribute INT UNSIGNED, date_add DATETIME, date_upd DATETIME, pack_stock_type INT UNSIGNED",
        "ps_product_lang": "id_product INT UNSIGNED, id_shop INT UNSIGNED, id_lang INT UNSIGNED, description MEDIUMTEXT, description_short MEDIUMTEXT, link_rewrite VARCHAR(128), meta_title VARCHAR(128), name VARCHAR(128)",
        "ps_category_lang": "id_category INT UNSIGNED, id_shop INT UNSIGNED, id_lang INT UNSIGNED, name VARCHAR(128), description MEDIUMTEXT, link_rewrite VARCHAR(128)",
        "ps_feature_product": "id_feature INT UNSIGNED, id_product INT UNSIGNED, id_feature_value INT UNSIGNED",
        "ps_feature_lang": "id_feature INT UNSIGNED, id_lang INT UNSIGNED, name VARCHAR(128)",
        "ps_feature_value_lang": "id_feature_value INT UNSIGNED, id_lang INT UNSIGNED, value VARCHAR(255)",
        "ps_stock_available": "id_stock_available INT UNSIGNED PRIMARY KEY, id_product INT UNSIGNED, id_product_attribute INT UNSIGNED, id_shop INT UNSIGNED, id_shop_group INT UNSIGNED, quantity INT, physical_quantity INT, reserved_quantity INT, depends_on_stock TINYINT UNSIGNED, out_of_stock TINYINT UNSIGNED, location VARCHAR(255)",
        "ps_cart": "id_cart INT UNSIGNED PRIMARY KEY, id_shop_group INT UNSIGNED, id_shop INT UNSIGNED, id_carrier INT UNSIGNED, delivery_option MEDIUMTEXT, id_lang INT UNSIGNED, id_address_delivery INT UNSIGNED, id_address_invoice INT UNSIGNED, id_currency INT UNSIGNED, id_customer INT UNSIGNED, id_guest INT UNSIGNED, secure_key VARCHAR(32), gift TINYINT UNSIGNED, gift_message MEDIUMTEXT, date_add DATETIME, date_upd DATETIME, checkout_session_data MEDIUMTEXT",
        "ps_cart_product": "id_cart INT UNSIGNED, id_product INT UNSIGNED, id_address_delivery INT UNSIGNED, id_shop INT UNSIGNED, id_product_attribute INT UNSIGNED, id_customization INT UNSIGNED, quantity INT UNSIGNED, date_add DATETIME",
        "ps_wishlist": "id_wishlist INT UNSIGNED PRIMARY KEY, id_customer INT UNSIGNED, id_shop INT UNSIGNED, id_shop_group INT UNSIGNED, token VARCHAR(64), name VARCHAR(64), counter INT UNSIGNED, date_add DATETIME, date_upd DATETIME, `default` INT UNSIGNED",
        "ps_orders": "id_order INT UNSIGNED PRIMARY KEY, reference VARCHAR(9), id_shop INT UNSIGNED, id_customer INT UNSIGNED, id_currency INT UNSIGNED, id_address_delivery INT UNSIGNED, current_state INT UNSIGNED, secure_key VARCHAR(32), gift_message TEXT, note TEXT, total_paid DECIMAL(20,6), total_paid_tax_incl DECIMAL(20,6), valid INT UNSIGNED, date_add DATETIME, date_upd DATETIME",
        "ps_order_detail": "id_order_detail INT UNSIGNED PRIMARY KEY, id_order INT UNSIGNED, id_shop INT UNSIGNED, product_id INT UNSIGNED, product_name TEXT, product_quantity INT UNSIGNED, unit_price_tax_incl DECIMAL(20,6), original_wholesale_price DECIMAL(20,6)",
        "ps_order_slip": "id_order_slip INT UNSIGNED PRIMARY KEY, id_customer INT UNSIGNED, id_order INT UNSIGNED, amount DECIMAL(10,2), shipping_cost TINYINT UNSIGNED, date_add DATETIME, date_upd DATETIME",
        "ps_wishlist_product": "id_wishlist_product INT PRIMARY KEY, id_wishlist INT UNSIGNED, id_product INT UNSIGNED, id_product_attribute INT UNSIGNED, quantity INT UNSIGNED, priority INT UNSIGNED",
    },
    kept_out={
        "ps_cart": ("secure_key", "gift_message", "checkout_session_data", "delivery_option", "id_address_invoice"),
        "ps_wishlist": ("token", "name"),
        "ps_orders": ("secure_key", "gift_message", "note", "id_address_delivery"),
        "ps_product_lang": ("description", "description_short"),
        "ps_category_lang": ("description",),
    },
    about_people=(
        "ps_customer",
        "ps_address",
        "ps_customized_data",
        "ps_connections",
        "ps_employee",
        "ps_guest",
    ),
    rows=(
        "ps_product_shop (id_product, id_shop, id_category_default, price, wholesale_price, active, redirect_type, available_date, `condition`, visibility, indexed, date_add, date_upd) VALUES (17, 1, 20, 199, 80, 1, 'default', '0000-00-00', 'new', 'both', 1, '2026-01-05', '2026-01-05'), (17, 2, 20, 222, 80, 1, 'default', NULL, 'new', 'both', 1, '2026-01-05', '2026-01-05'), (18, 1, 30, 20, 5, 1, 'default', NULL, 'new', 'both', 1, '2026-01-05', '2026-01-05')",
        "ps_product_lang (id_product, id_shop, id_lang, description, link_rewrite, name) VALUES (17, 1, 1, '…', 'ring', 'Ring Alma'), (17, 1, 2, '…', 'bague', 'Bague Alma'), (17, 2, 1, '…', 'ring', 'Alma'), (18, 1, 1, '…', 'chain', 'Chain')",
        "ps_category_lang (id_category, id_shop, id_lang, name) VALUES (20, 1, 1, 'Rings'), (20, 1, 2, 'Bagues'), (30, 1, 1, 'Chains')",
        "ps_feature_lang VALUES (1, 1, 'Metal'), (1, 2, 'Métal'), (2, 1, 'Material'), (3, 1, 'Care')",
        "ps_feature_value_lang VALUES (5, 1, 'gold 585'), (5, 2, 'or 585'), (6, 1, 'pearl'), (7, 1, 'coral'), (8, 1, 'no soap')",
        "ps_feature_product VALUES (1, 17, 5), (2, 17, 6), (2, 17, 7), (3, 17, 8)",
        "ps_stock_available VALUES (1, 17, 0, 1, 0, 3, 3, 0, 0, 2, ''), (2, 17, 54, 1, 0, 2, 2, 0, 0, 2, ''), (3, 17, 56, 1, 0, 1, 1, 0, 0, 2, ''), (4, 17, 0, 2, 0, 50, 50, 0, 0, 2, ''), (5, 18, 0, 1, 0, 0, 0, 0, 0, 2, '')",
        "ps_cart (id_cart, id_shop, id_lang, id_currency, id_customer, id_guest, date_add, date_upd) VALUES (1, 1, 1, 1, 4711, 9, '2026-03-01 10:00:00', '2026-03-01 10:00:00'), (2, 2, 1, 1, 0, 10, '2026-03-01 10:00:00', '2026-03-01 10:00:00')",
        "ps_cart_product VALUES (1, 17, 3, 1, 54, 0, 1, '2026-03-01 10:00:00'), (1, 18, 3, 1, 0, 0, 1, '2026-03-01 10:00:00'), (2, 17, 0, 2, 54, 0, 1, '2026-03-01 10:00:00')",
        "ps_wishlist (id_wishlist, id_customer, id_shop, id_shop_group, counter, date_add, `default`) VALUES (1, 4711, 1, 1, 0, '2026-02-01 00:00:00', 1)",
        "ps_wishlist_product VALUES (1, 1, 18, 0, 1, 1)",
        "ps_orders (id_order, id_shop, id_customer, id_currency, current_state, total_paid_tax_incl, date_add) VALUES (1001, 1, 4711, 1, 2, 199, '2026-03-01 09:00:00')",
        "ps_order_detail (id_order_detail, id_order, id_shop, product_id, product_quantity, unit_price_tax_incl, original_wholesale_price) VALUES (1, 1001, 1, 17, 1, 199, 80)",
        "ps_order_slip VALUES (1, 4711, 1001, 20, 0, '2026-03-01 20:00:00', '2026-03-01 20:00:00')",
    ),
    changes=(
        "UPDATE ps_product_shop SET price = 149.5, date_upd = '2026-03-02 08:00:00' WHERE id_product = 17 AND id_shop = 1",
        "UPDATE ps_product_shop SET date_upd = '2026-03-02 08:00:00', indexed = 0 WHERE id_product = 18",
        "UPDATE ps_stock_available SET quantity = quantity - 1 WHERE id_product = 17 AND id_product_attribute IN (0, 54)",
        "UPDATE ps_cart SET date_upd = '2026-03-02 08:00:00' WHERE id_cart = 1",
        "UPDATE ps_cart_product SET quantity = 2 WHERE id_cart = 1 AND id_product = 17",
        "DELETE FROM ps_cart_product WHERE id_product = 18",
        "UPDATE ps_wishlist SET counter = 5 WHERE id_wishlist = 1",
        "DELETE FROM ps_wishlist_product",
        "INSERT INTO ps_wishlist_product VALUES (2, 1, 17, 54, 1, 0)",
        "UPDATE ps_orders SET current_state = 6 WHERE id_order = 1001",
    ),
    order=("cancelled", "199", "20", "0", "4711"),
    ring={"title": ("Ring Alma",), "section": ("20",), "material": ("coral, pearl",), "metal": ("gold 585",)},
)

of_every_system = pytest.mark.parametrize("system", [OPENCART, WOOCOMMERCE, PRESTASHOP], ids=lambda system: system.name)
on_embedded_engine = pytest.mark.parametrize("engine_url", ["embedded"], indirect=True)


def all_switched_on(system: ShopSystem) -> str:
    """The plan with the lines that are switched off: by a # that no space follows."""
    return re.sub(r"(?m)^#(?=\S)", "", system.plan.read_text())


# ---- the plans by themselves ---------------------------------------------------------------------------------------


def as_shipped_and_all_switched_on(system: ShopSystem) -> list[SnapshotPlan]:
    return [load_snapshot_plan(system.plan), parse_snapshot_plan(TomlFile(all_switched_on(system), system.name))]


def test_there_is_an_example_plan_for_each_system_tested_here():
    assert sorted(path.stem for path in SHIPPED_SNAPSHOT_PLANS.glob("*.toml")) == [
        "demo",
        "magento",
        "medusa",
        "opencart",
        "prestashop",
        "woocommerce",
    ]


@of_every_system
def test_the_plan_names_no_column_that_its_tables_do_not_have(system):
    for plan in as_shipped_and_all_switched_on(system):
        for table in plan.tables:
            if table.source != system.view:
                assert table.missing(list(system.types(table.source))).keys() <= {f"{n}?" for n in system.of_other_versions} | {*system.of_other_versions}  # fmt: skip
                excluded = {name.removesuffix("?") for name in table.exclude}  # "?": not in every version
                named = {*table.key, *table.columns, *excluded, *table.product.values()}
                assert named - system.types(table.source).keys() <= set(system.of_other_versions)


@of_every_system
def test_the_plan_reads_no_table_about_people_and_keeps_no_column_that_is_theirs(system):
    for plan in as_shipped_and_all_switched_on(system):
        sources = {table.source for table in plan.tables}
        assert sources <= system.tables.keys() | {system.view}
        assert not sources & set(system.about_people)
        kept = {(t.source, c) for t in plan.tables for c in system.kept_out.get(t.source, ()) if t.keeps(c)}
        assert kept == set()


@of_every_system
def test_another_prefix_is_put_in_by_replacing_it_everywhere(system):
    text = all_switched_on(system)
    for file in SHIPPED_SNAPSHOT_PLANS.glob(f"{system.name}.*"):
        assert not re.search(rf"\w{system.prefix}", file.read_text())
    renamed = parse_snapshot_plan(TomlFile(text.replace(system.prefix, "shop7_"), system.name))
    assert {table.source[:6] for table in renamed.tables} == {"shop7_"}
    assert [t.name for t in renamed.tables] == [t.name for t in parse_snapshot_plan(TomlFile(text, system.name)).tables]


# ---- a shop of each system, in a real MariaDB ----------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """What the warehouse has of a shop after two snapshots, with everything in the plan switched on."""

    plan: SnapshotPlan
    states: list[tuple[str, str, str]]  # of every table in both snapshots: its name, error and guarantee
    history: dict[str, pl.DataFrame]
    product_sessions: pl.DataFrame
    orders: pl.DataFrame

    def changed(self, table: str, *columns: str) -> list[tuple]:
        """What the second snapshot appended: op, the columns asked for, and which columns an update changed."""
        appended = self.history[table].filter(pl.col("valid_from") > at(0)).sort(columns[0])
        return appended.select("op", *columns, pl.col("changed").list.sort()).rows()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[MariaDB]:
    with running_mariadb(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture(scope="module")
def kept_of(server, engine_url, tmp_path_factory) -> Callable[[ShopSystem], Kept]:
    """What is kept of a shop of a system; the shop is made at the first call."""
    return functools.cache(lambda system: take_twice(system, server, engine_url, tmp_path_factory.mktemp(system.name)))


def take_twice(system: ShopSystem, server: MariaDB, engine_url: str, folder: Path) -> Kept:
    """Two snapshots of a shop of the system, and a product of it viewed before and after the second."""
    plan, view = folder / "plan.toml", SHIPPED_SNAPSHOT_PLANS / f"{system.name}.sql"
    plan.write_text(all_switched_on(system))
    make_shop(server, system)
    if view.exists():
        server.execute(f"USE {system.name}", view.read_text())
    shop = server.url(database=system.name)
    settings = Settings(_env_file=None, warehouse=engine_url, shop_db=shop, snapshots=plan, scratch=folder / "scratch")
    with open_warehouse(settings, purpose="a test", writes=False) as warehouse:
        make_empty(warehouse, settings)
        first = take_snapshot(warehouse, settings, at=at(0))
        server.execute(f"USE {system.name}", *system.changes)
        second = take_snapshot(warehouse, settings, at=at(9))
        calls = folder / "calls.ndjson"
        views = [VIEW | {"ts": at(hour).isoformat(), "visitor_id": f"at {hour:02}"} for hour in (8, 10)]
        calls.write_text("\n".join(map(json.dumps, views)))
        ingest.ingest_source(warehouse, str(calls), now=at(24), totals=ingest.LoadResult())
        build_stale(warehouse, settings, span=(None, None), jobs=JOBS)
        tables = load_snapshot_plan(plan)
        return Kept(
            tables,
            [(row["table"], row["error"], row["guarantee"]) for row in (*first, *second)],
            {table.name: warehouse.query(f"SELECT * FROM history.{table.name}") for table in tables.tables},
            warehouse.query("SELECT * FROM dwh.product_sessions ORDER BY visitor_id"),
            warehouse.query("SELECT * FROM dwh.orders"),
        )


def make_shop(server: MariaDB, system: ShopSystem) -> None:
    server.execute(
        f"CREATE DATABASE {system.name} CHARACTER SET utf8mb4",
        f"USE {system.name}",
        *(f"CREATE TABLE {name} ({columns})" for name, columns in system.tables.items()),
        *(f"INSERT INTO {rows}" for rows in system.rows),
    )
    for table, columns in system.kept_out.items():
        for column in columns:
            is_text = re.search("CHAR|TEXT", system.types(table)[column])
            secret = f"'{SECRET}'" if is_text else SECRET_NUMBER
            server.execute(f"USE {system.name}", f"UPDATE {table} SET `{column}` = {secret}")


def at(hour: float) -> datetime:
    return MIDNIGHT + timedelta(hours=hour)


@on_embedded_engine
@of_every_system
def test_every_table_of_the_plan_is_kept_as_it_was_at_one_instant(kept_of, system):
    kept = kept_of(system)
    assert {error for _, error, _ in kept.states} == {""}
    assert {guarantee[:26] for *_, guarantee in kept.states} == {"one instant for all tables"}
    assert [name for name, frame in kept.history.items() if frame.is_empty()] == []


@on_embedded_engine
@of_every_system
def test_nothing_that_says_who_a_shopper_is_comes_into_history(kept_of, system):
    kept = kept_of(system)
    for table in kept.plan.tables:
        rows = kept.history[table.name]
        assert not set(rows.columns) & set(system.kept_out.get(table.source, ()))
        values = {str(value) for row in rows.iter_rows() for value in row}
        assert not [value for value in values if SECRET in value or str(SECRET_NUMBER) in value]


@on_embedded_engine
def test_history_says_what_changed_in_a_shop_of_opencart(kept_of):
    kept = kept_of(OPENCART)
    assert kept.changed("products", "product_id", "price") == [("update", 17, Decimal("149.5"), ["price"])]
    assert kept.changed("stock", "product_id", "quantity") == [("update", 17, 2, ["quantity"])]
    assert kept.changed("option_stock", "product_option_value_id", "quantity") == [("update", 171, 1, ["quantity"])]
    assert kept.changed("sections", "product_id", "category_id") == [("update", 17, 30, ["category_id"])]
    assert kept.changed("cart", "cart_id", "customer_id", "product_id", "quantity") == [
        ("update", 1, 4711, 17, 2, ["quantity"]),
        ("delete", 2, 0, 18, 1, []),
    ]
    assert kept.changed("wishlist", "product_id", "customer_id") == [
        ("insert", 17, 4711, []),
        ("delete", 18, 4711, []),
    ]
    assert [kept.changed(name, "version") for name in ("titles", "categories", "materials", "metals")] == [[]] * 4


@on_embedded_engine
def test_history_says_what_changed_in_a_shop_of_woocommerce(kept_of):
    kept = kept_of(WOOCOMMERCE)
    assert kept.changed("products", "ID", "post_status") == [
        ("update", 18, "publish", ["post_date_gmt", "post_status"])
    ]
    assert kept.changed("prices", "product_id", "min_price", "onsale") == [
        ("update", 17, Decimal("149.5"), 1, ["min_price", "onsale"])
    ]
    assert kept.changed("stock", "product_id", "stock_quantity") == [
        ("update", 17, 2, ["stock_quantity"]),
        ("update", 171, 1, ["stock_quantity"]),
    ]
    assert kept.changed("wishlist", "ID", "user_id", "prod_id") == [
        ("delete", 1, 4711, 18, []),
        ("insert", 3, 4711, 17, []),
    ]
    assert [kept.changed(name, "version") for name in ("variations", "product_facts", "ti_wishlist")] == [[]] * 3


@on_embedded_engine
def test_carts_of_woocommerce_users_are_serialized_text_if_they_are_switched_on(kept_of):
    kept = kept_of(WOOCOMMERCE)
    assert kept.history["cart"].sort("version").select("user_id", "meta_value").rows() == [
        (4711, SERIALIZED_CART),
        (4711, SERIALIZED_CART.replace("i:1;}", "i:2;}")),
    ]


@on_embedded_engine
def test_history_says_what_changed_in_a_shop_of_prestashop(kept_of):
    kept = kept_of(PRESTASHOP)
    assert kept.changed("products", "id_product", "price") == [("update", 17, Decimal("149.5"), ["price"])]
    assert kept.changed("stock", "id_product", "quantity") == [("update", 17, 2, ["quantity"])]
    assert kept.changed("variant_stock", "id_product", "id_product_attribute", "quantity") == [
        ("update", 17, 54, 1, ["quantity"])
    ]
    assert kept.changed("cart", "id_product", "id_cart", "id_product_attribute", "quantity") == [
        ("update", 17, 1, 54, 2, ["quantity"]),
        ("delete", 18, 1, 0, 1, []),
    ]
    assert kept.changed("wishlist", "id_wishlist_product", "id_wishlist", "id_product") == [
        ("delete", 1, 1, 18, []),
        ("insert", 2, 1, 17, []),
    ]
    unchanged = ("titles", "categories", "product_facts", "carts", "wishlists")
    assert [kept.changed(name, "version") for name in unchanged] == [[]] * len(unchanged)


@on_embedded_engine
@of_every_system
def test_product_sessions_know_what_the_product_was_at_that_moment(kept_of, system):
    early, late = kept_of(system).product_sessions.select(*PRODUCT_ATTRIBUTES).iter_rows(named=True)
    before, after = ({name: facts[moment] for name, facts in system.ring.items()} for moment in (0, -1))
    assert early == before | {"list_price": Decimal(199), "stock_qty": 3}
    assert late == after | {"list_price": Decimal("149.50"), "stock_qty": 2}


@on_embedded_engine
@of_every_system
def test_orders_know_what_became_of_them(kept_of, system):
    columns = ("state", "total", "refunded", "net_revenue", "user_id")
    ((*row, items),) = kept_of(system).orders.select(*columns, "items").rows()
    assert row == [system.order[0], *map(Decimal, system.order[1:4]), system.order[4]]
    assert [(line["product"], line["units"], line["price"]) for line in items] == [("17", 1, Decimal(199))]


@dataclass(frozen=True)
class OtherOrders:
    """The tables, or views, of orders of another shop system, with an order of 199 of which 50 were given back."""

    name: str
    statements: tuple[str, ...]
    order_id: str


MAGENTO_ORDERS = OtherOrders(
    "magento",
    (
        "CREATE TABLE sales_order (entity_id INTEGER PRIMARY KEY, increment_id TEXT, customer_id INTEGER, customer_email TEXT, state TEXT, grand_total DECIMAL(20,4), order_currency_code TEXT, total_refunded DECIMAL(20,4), created_at DATETIME)",
        "CREATE TABLE sales_order_item (item_id INTEGER PRIMARY KEY, order_id INTEGER, parent_item_id INTEGER, sku TEXT, qty_ordered DECIMAL(12,4), price_incl_tax DECIMAL(12,4), base_cost DECIMAL(12,4))",
        "CREATE TABLE sales_creditmemo (entity_id INTEGER PRIMARY KEY, order_id INTEGER, grand_total DECIMAL(20,4), order_currency_code TEXT, created_at DATETIME)",
        "CREATE TABLE cataloginventory_stock_item (item_id INTEGER PRIMARY KEY, product_id INTEGER, stock_id INTEGER, qty DECIMAL(12,4), is_in_stock INTEGER)",
        "INSERT INTO sales_order VALUES (7, '000000031', 4711, 'x', 'complete', 199, 'EUR', 50, '2026-03-01 09:00:00')",
        "INSERT INTO sales_order_item VALUES (1, 7, NULL, 'R-17', 1, 199, 80), (2, 7, 1, 'R-17', 1, 0, 80)",
        "INSERT INTO sales_creditmemo VALUES (1, 7, 50, 'EUR', '2026-03-01 20:00:00')",
        "INSERT INTO cataloginventory_stock_item VALUES (1, 17, 1, 3, 1)",
    ),
    "000000031",
)
MEDUSA_ORDERS = OtherOrders(
    "medusa",
    (
        "CREATE TABLE carat_orders (id TEXT PRIMARY KEY, customer_id TEXT, created_at DATETIME, currency_code TEXT, total DECIMAL(20,6), state TEXT)",
        "CREATE TABLE carat_order_items (id TEXT PRIMARY KEY, order_id TEXT, product_id TEXT, quantity INTEGER, unit_price DECIMAL(20,6))",
        "CREATE TABLE carat_refunds (id TEXT PRIMARY KEY, order_id TEXT, amount DECIMAL(20,6), created_at DATETIME, currency_code TEXT)",
        "INSERT INTO carat_orders VALUES ('order_01J', 'cus_1', '2026-03-01 09:00:00', 'eur', 199, 'paid')",
        "INSERT INTO carat_order_items VALUES ('i', 'order_01J', 'R-17', 1, 199)",
        "INSERT INTO carat_refunds VALUES ('r', 'order_01J', 50, '2026-03-01 20:00:00', 'eur')",
    ),
    "order_01J",
)


@on_embedded_engine
@pytest.mark.parametrize("system", [MAGENTO_ORDERS, MEDUSA_ORDERS], ids=lambda system: system.name)
def test_the_orders_of_other_systems_are_read_by_their_plans(warehouse, engine_url, tmp_path, system):
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as database, database:
        for statement in system.statements:
            database.execute(statement)
    settings = Settings(
        _env_file=None, warehouse=engine_url, shop_db=f"sqlite://{tmp_path / 'shop.sqlite'}", snapshots=system.name,
        scratch=tmp_path / "scratch",
    )  # fmt: skip
    assert {row["error"] for row in take_snapshot(warehouse, settings, at=at(0))} == {""}
    build_stale(warehouse, settings, span=(None, None)).require_done()
    columns = "order_id, state, total, refunded, net_revenue, currency, items.product"
    assert warehouse.query(f"SELECT {columns} FROM dwh.orders").rows() == [
        (system.order_id, "partly_refunded", Decimal(199), Decimal(50), Decimal(149), "EUR", ["R-17"])
    ]
