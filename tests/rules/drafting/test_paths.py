"""Which segments of a path are ids."""

import pytest

from app.rules.drafting.paths import fold_ids, is_id, segments_of


@pytest.mark.parametrize("segment", [
    "17", "0b8f3c52-5c1e-4a77-9d0a-1f2e3d4c5b6a", "02a1b872de47268c813e94c41476f927", "17-gold-ring.html", "ring-17", "prod_01RING",
    "cart_01A", "Xk2pQ7mW9vT3bN5r", "RING-GOLD", "STUD%2FRUBY",
])  # fmt: skip
def test_ids_of_the_usual_forms_are_ids(segment):
    assert is_id(segment)


@pytest.mark.parametrize("segment", [
    "products", "v1", "V1", "v2.1", "2026-01", "store-api", "line-items", "wp-json", "add.js", "graphql.json", "guest-carts", "index.php",
    "product_categories", "ListComments", "de",
])  # fmt: skip
def test_words_and_versions_are_not_ids(segment):
    assert not is_id(segment)


def test_ids_in_a_path_are_folded():
    assert fold_ids("https://shop.example/api/v1//carts/cart_01A/items/71?x=1") == "/api/v1/carts/{id}/items/{id}"


def test_path_parameters_are_left_out():
    assert segments_of("/shop;jsessionid=AB12/cart") == ["shop", "cart"]
