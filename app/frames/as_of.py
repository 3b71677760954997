"""What was known of a product at a moment: the version of its row that held then."""

from collections.abc import Sequence

import polars as pl


def attributes_as_of(
    codes: pl.Series, moments: pl.Series, products: pl.Enum, versions: Sequence[pl.DataFrame]
) -> pl.DataFrame:
    """Per row the attributes of its product at its moment; null where no version held, or the row was gone.

    A product whose id no version has is the one whose id is the same to the shop, as `matched` says. `codes`: physical
    values of `products`. `versions`, a frame a history table: `product_id, valid_from` in the order of a product's
    versions, then the attributes, null where the row was gone. Text comes as Enum: millions of rows share few values.
    """
    if not versions:
        return pl.DataFrame()
    rows = pl.DataFrame({"code": codes, "moment": moments}).with_row_index("row").sort("moment")
    for table in versions:
        texts = [name for name, dtype in table.schema.items() if dtype == pl.String and name != "product_id"]
        known = (
            table.join(matched(products.categories, table["product_id"]), on="product_id", maintain_order="left")
            .with_columns(
                pl.col("called").cast(products).to_physical().cast(codes.dtype).alias("code"),
                *(pl.col(name).cast(pl.Enum(table[name].drop_nulls().unique().sort())) for name in texts),
            )
            .drop("product_id", "called")
            .sort("valid_from", maintain_order=True)
            .unique(["code", "valid_from"], keep="last", maintain_order=True)
        )
        rows = rows.join_asof(
            known, left_on="moment", right_on="valid_from", by="code", strategy="backward", check_sortedness=False
        ).drop("valid_from")
    return rows.sort("row").drop("row", "code", "moment")


def matched(called: pl.Series, known: pl.Series) -> pl.DataFrame:
    """Per product id of the calls (`called`) the id of the shop's database that it means (`product_id`), if any.

    The same text, else the only one that differs by case, by leading zeros of a number, or by how a UUID is written.
    """
    ids = pl.DataFrame({"product_id": known.unique().drop_nulls().cast(pl.String)})
    wanted = pl.DataFrame({"called": called.cast(pl.String)})
    same = wanted.join(ids, left_on="called", right_on="product_id").with_columns(product_id=pl.col("called"))
    others = wanted.join(same, on="called", how="anti").with_columns(normal=_normal(pl.col("called")))
    unique = ids.with_columns(normal=_normal(pl.col("product_id"))).unique("normal", keep="none")
    return pl.concat([same, others.join(unique, on="normal").select("called", "product_id")])


def _normal(product_id: pl.Expr) -> pl.Expr:
    """What is the same to a shop: a collation ignores case, ZEROFILL writes numbers and BINARY(16) UUIDs otherwise."""
    text = product_id.str.strip_chars_end(" ").str.to_lowercase()
    digits = text.str.replace_all("-", "", literal=True)
    is_uuid = text.str.contains(r"^(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$")
    is_number = text.str.contains(r"^[0-9]+$")
    return pl.when(is_uuid).then(digits).when(is_number).then(text.str.replace(r"^0+([0-9])", "$1")).otherwise(text)
