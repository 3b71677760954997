"""What was known of a product at a moment: the version of its row that held then."""

from collections.abc import Sequence

import polars as pl


def attributes_as_of(
    codes: pl.Series, moments: pl.Series, products: pl.Enum, versions: Sequence[pl.DataFrame]
) -> pl.DataFrame:
    """Per row the attributes of its product at its moment; null where no version held, or the row was gone.

    `codes`: physical values of `products`. `versions`, a frame a history table: `product_id, valid_from` in the order
    of a product's versions, then the attributes, null where the row was gone. Text comes as Enum: millions of rows
    share few values.
    """
    if not versions:
        return pl.DataFrame()
    rows = pl.DataFrame({"code": codes, "moment": moments}).with_row_index("row").sort("moment")
    for table in versions:
        texts = [name for name, dtype in table.schema.items() if dtype == pl.String and name != "product_id"]
        known = (
            table.filter(pl.col("product_id").is_in(products.categories.implode()))
            .with_columns(
                pl.col("product_id").cast(products).to_physical().cast(codes.dtype).alias("code"),
                *(pl.col(name).cast(pl.Enum(table[name].drop_nulls().unique().sort())) for name in texts),
            )
            .drop("product_id")
            .sort("valid_from", maintain_order=True)
            .unique(["code", "valid_from"], keep="last", maintain_order=True)
        )
        rows = rows.join_asof(
            known, left_on="moment", right_on="valid_from", by="code", strategy="backward", check_sortedness=False
        ).drop("valid_from")
    return rows.sort("row").drop("row", "code", "moment")
