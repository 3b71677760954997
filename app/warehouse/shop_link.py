"""The database `mysql`: the shop's live tables inside the warehouse, through ClickHouse's MySQL engine."""

from app.contracts.grants import SHOP_COLLECTION, SHOP_DATABASE
from app.core.errors import WarehouseError
from app.core.sql import quote
from app.shop.mysql import MySQLShop
from app.warehouse.client import Warehouse

_COMMENT = "The shop's tables as they are now, read from its own MySQL; Carat never writes there"


def link_shop(warehouse: Warehouse, shop: MySQLShop) -> list[str]:
    """Create or replace the link to the shop's database; returns a line for each change.

    The password is stored in a named collection where the warehouse has them, else in the database's definition.
    """
    engine = warehouse.query("SELECT engine FROM system.databases WHERE name = {name:String}", {"name": SHOP_DATABASE})
    if engine.height and engine.item() != "MySQL":
        raise WarehouseError(
            f"database {SHOP_DATABASE} is not a link to a shop, its engine is {engine.item()}: rename it, then run "
            "`carat migrate` again"
        )
    values: dict[str, str | int] = {
        "host": shop.host, "port": shop.port, "user": shop.user, "password": shop.password, "database": shop.database,
    }  # fmt: skip
    pairs = ", ".join(f"{name} = {_literal(value)}" for name, value in values.items())
    inline = f"{quote(f'{shop.host}:{shop.port}')}, " + ", ".join(
        quote(text) for text in (shop.database, shop.user, shop.password)
    )
    try:
        warehouse.command(f"DROP DATABASE IF EXISTS {SHOP_DATABASE}")
        try:
            warehouse.command(f"CREATE NAMED COLLECTION IF NOT EXISTS {SHOP_COLLECTION} AS {pairs}")
            warehouse.command(f"ALTER NAMED COLLECTION {SHOP_COLLECTION} SET {pairs}")
            arguments, kept = SHOP_COLLECTION, f"named collection {SHOP_COLLECTION}"
        except WarehouseError:  # an old server, or a user without the privilege
            arguments, kept = inline, "its definition: this user may not create named collections"
        warehouse.command(f"CREATE DATABASE {SHOP_DATABASE} ENGINE = MySQL({arguments}) COMMENT {quote(_COMMENT)}")
    except WarehouseError as error:
        text = str(error)
        if shop.password:
            text = text.replace(shop.password, "***")
        raise WarehouseError(
            f"database {SHOP_DATABASE} could not be linked to {shop.name}: {text}. The rest was migrated; the "
            "warehouse itself must reach the shop's database"
        ) from None
    return [f"linked database {SHOP_DATABASE} to {shop.name}, credentials in {kept}"]


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else quote(value)
