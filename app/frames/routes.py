"""Which entries of the endpoint map a call can be, by its method and path."""

from collections.abc import Iterable, Sequence
from urllib.parse import unquote

import polars as pl

from app.rules.endpoint_map import CallPattern, EndpointMap

# The same as SQL: `normal_path_sql`.
_SCHEME_AND_HOST = r"^[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*"
_QUERY_AND_FRAGMENT = r"[?#].*$"
_PATH_PARAMETERS = r";[^/]*"  # such as ;jsessionid=…
_SLASHES = r"/{2,}"


def normal_path(endpoint: str = "endpoint") -> pl.Expr:
    """The path that patterns are held against: without scheme, host, query, path parameters and doubled slashes."""
    return (
        pl.col(endpoint)
        .str.replace(_SCHEME_AND_HOST, "")
        .str.replace(_QUERY_AND_FRAGMENT, "")
        .str.replace_all(_PATH_PARAMETERS, "")
        .str.replace_all(_SLASHES, "/")
    )


def normal_paths(endpoints: pl.Series) -> pl.Series:
    """The normal path of each endpoint, computed once per distinct one."""
    distinct = endpoints.unique().to_frame("endpoint").with_columns(path=normal_path())
    changed = distinct.filter(pl.col("path") != pl.col("endpoint"))
    return endpoints.replace(changed["endpoint"], changed["path"]) if changed.height else endpoints


def normal_path_sql(endpoint: str = "endpoint") -> str:
    """`normal_path` in ClickHouse's SQL."""
    without_host = f"replaceRegexpOne({endpoint}, '^[A-Za-z][A-Za-z0-9+.\\\\-]*://[^/?#]*', '')"
    without_query = f"replaceRegexpOne({without_host}, '[?#].*$', '')"
    return f"replaceRegexpAll(replaceRegexpAll({without_query}, ';[^/]*', ''), '/{{2,}}', '/')"


def fits(pattern: CallPattern, *, path: str = "path") -> pl.Expr:
    """Whether a row's method and normal path are those of the pattern."""
    is_path = pl.col(path).str.contains(pattern.path_pattern)
    return pl.col("method").str.to_uppercase().is_in(pattern.methods) & is_path if pattern.methods else is_path


def with_routes(calls: pl.DataFrame, endpoint_map: EndpointMap) -> tuple[pl.DataFrame, list[tuple[int, ...]]]:
    """The calls with `path` and `route`, and per route the numbers of the entries that its calls can be, in order.

    In: calls with `method, endpoint`. An entry without a condition is the last of its route.
    """
    endpoints = calls.select("method", "endpoint").unique(maintain_order=True).with_columns(path=normal_path())
    candidates = [
        pl.when(fits(call.pattern)).then(pl.lit(f"{number},")).otherwise(pl.lit(""))
        for number, call in enumerate(endpoint_map.calls)
    ]
    endpoints = endpoints.with_columns(candidates=pl.concat_str(candidates))
    distinct = endpoints["candidates"].unique(maintain_order=True)
    routes = [_reachable(text, endpoint_map) for text in distinct]
    numbers = pl.DataFrame({"candidates": distinct, "route": pl.Series(range(len(routes)), dtype=pl.UInt32)})
    endpoints = endpoints.join(numbers, on="candidates", how="left").drop("candidates")
    return calls.join(endpoints, on=["method", "endpoint"], how="left", maintain_order="left"), routes


def _reachable(candidates: str, endpoint_map: EndpointMap) -> tuple[int, ...]:
    reachable = []
    for text in candidates.split(",")[:-1]:
        reachable.append(int(text))
        if endpoint_map.calls[int(text)].when is None:
            break
    return tuple(reachable)


def placeholder_values(paths: pl.Series, pattern: CallPattern, names: Iterable[str]) -> dict[str, pl.Series]:
    """What the placeholders hold in each path, percent-decoded."""
    groups = {name: group for group, name in enumerate(pattern.placeholders, start=1)}
    return {
        name: percent_decoded(paths.str.extract(pattern.path_pattern, groups[name])) for name in names if name in groups
    }


def percent_decoded(values: pl.Series) -> pl.Series:
    """The texts with `%C3%96` read as the character it stands for."""
    encoded = values.filter(values.str.contains("%", literal=True).fill_null(value=False)).unique()
    return values.replace(encoded, _decoded(encoded.to_list())) if len(encoded) else values


def _decoded(texts: Sequence[str]) -> pl.Series:
    return pl.Series([unquote(text, errors="replace") for text in texts], dtype=pl.String)
