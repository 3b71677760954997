"""The warehouse and the frames read paths alike: which calls are ignored and whose JSON is read depends on it."""

import polars as pl

from app.frames.routes import normal_path_sql, normal_paths

ENDPOINTS = [
    "/", "/a", "//a///b/", "/a?q=1", "/a#b", "https://shop.example/a//b?x#y", "HTTP://h:80/a", "/a;jsessionid=1/b;v=2?c;d",
    "/api/v1/products/CLE-056621%2F6", "/ü/%C3%96", "a", "", "?q", "/a\nb?c", "custom+1.0-x://h/a", "/x://y",
]  # fmt: skip


def test_a_path_is_normal_in_the_same_way_in_sql_and_in_frames(warehouse):
    found = warehouse.query(
        f"SELECT {normal_path_sql('endpoint')} AS path FROM (SELECT arrayJoin({{endpoints:Array(String)}}) AS endpoint)",
        {"endpoints": ENDPOINTS},
    )
    assert found["path"].to_list() == normal_paths(pl.Series("endpoint", ENDPOINTS)).to_list()
