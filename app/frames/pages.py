"""Parts of addresses as browsers and shops send them: whole, relative, broken, international or percent-encoded.

Nothing here fails: what cannot be read is empty, or stays as it is.
"""

from urllib.parse import unquote_plus

import polars as pl

_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]*:"
# In small steps: a pattern with optional parts takes several times as long.
_AUTHORITY = rf"^\s*(?:{_SCHEME})?//([^/?#\\\s]*)"
_PORT = r":[^:\]]*$"
# An address without a scheme: told from a path by the dot in its first part.
_BARE_HOST = r"^\s*((?:[\p{L}\p{N}_-]+\.)+\p{L}[\p{L}\p{N}-]+)(?:[:/?#]|$)"
_CREDENTIALS = rf"^(\s*(?:{_SCHEME})?//)[^@/?#\\]*@"
_ORIGIN = rf"^((?:{_SCHEME})?//[^/]+)"
_BEFORE_QUERY = "^([^?#]*)"
_SESSION_IN_PATH = r"(?i);(?:jsessionid|phpsessid|sid|aspsessionid[a-z]*)=[^/?#;]*"


def host_of(column: str) -> pl.Expr:
    """The host of an address, in lower case, without www. and port; empty where there is none."""
    authority = pl.col(column).str.extract(_AUTHORITY, 1).str.replace("^.*@", "").str.replace(_PORT, "")
    host = pl.coalesce(authority, pl.col(column).str.extract(_BARE_HOST, 1))
    return host.fill_null("").str.to_lowercase().str.strip_prefix("www.").str.strip_suffix(".")


def page_of(column: str) -> pl.Expr:
    """An address without query, fragment, credentials and session id: the page, with scheme and host in lower case."""
    address = pl.col(column).str.strip_chars().str.extract(_BEFORE_QUERY, 1).fill_null("")
    return address.map_batches(_pages, return_dtype=pl.String)


def _pages(addresses: pl.Series) -> pl.Series:
    """The pages of addresses that have no query any more: many sessions begin on few."""
    distinct = addresses.unique().to_frame("address")
    page = pl.col("address").str.replace(_CREDENTIALS, "${1}").str.replace_all(_SESSION_IN_PATH, "")
    origin = page.str.extract(_ORIGIN, 1)
    path = page.str.slice(origin.str.len_chars().fill_null(0))
    whole = origin.str.to_lowercase() + pl.when(path == "").then(pl.lit("/")).otherwise(path)
    pages = distinct.with_columns(page=pl.coalesce(whole, page))
    return addresses.to_frame("address").join(pages, on="address", how="left", maintain_order="left")["page"]


def url_parameter(column: str, name: str) -> pl.Expr:
    """The decoded value of a parameter of an address, whatever its case; empty where there is none."""
    value = pl.col(column).str.extract(parameter_pattern(name), 1).fill_null("")
    return decoded(value)


def parameter_pattern(name: str) -> str:
    """The pattern of a parameter and, as its only group, its value; a page's HTML may have left `&amp;` in it."""
    return rf"(?i)[?&;#]{name}=([^&#]*)"


def decoded(values: pl.Expr) -> pl.Expr:
    """Percent-encoded text as it reads; broken encoding becomes replacement characters."""
    return values.map_batches(_decoded, return_dtype=pl.String)


def _decoded(values: pl.Series) -> pl.Series:
    encoded = values.filter(values.str.contains(r"[%+]")).unique()  # few, and each decoded once
    return values.replace(encoded, pl.Series([unquote_plus(value) for value in encoded], dtype=pl.String))
