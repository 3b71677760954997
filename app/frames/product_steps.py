"""Which products each step of the journey had, so that ids which never meet show."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import polars as pl

from app.rules.fit import Meeting

# The steps in the journey's order, each with what earlier steps should have had its products.
STEPS = ("shown", "viewed", "carted", "bought")
_EXAMPLES = 3
_MAX_PRODUCTS = 200_000
_EVENT_OF = {"viewed": "product_view", "carted": "cart_add"}


@dataclass
class ProductSteps:
    """The distinct products of each step, of at most 200 000 products a step."""

    products: dict[str, dict[str, None]] = field(default_factory=lambda: {step: {} for step in STEPS})

    def add(self, events: pl.DataFrame) -> None:
        """Add the products of typed calls."""
        self._add("shown", events["shown_products"].explode(empty_as_null=False, keep_nulls=False))
        for step, event in _EVENT_OF.items():
            own = events.filter(pl.col("event") == event)
            self._add(step, own["product_id"])
            self._add(step, own["order_products"].explode(empty_as_null=False, keep_nulls=False))
        bought = events.filter(pl.col("event") == "purchase")
        self._add("bought", bought["order_products"].explode(empty_as_null=False, keep_nulls=False))

    def _add(self, step: str, products: pl.Series) -> None:
        known = self.products[step]
        for product in products.unique(maintain_order=True):
            if product and (len(known) < _MAX_PRODUCTS):
                known[product] = None

    def meetings(self) -> list[Meeting]:
        """Per step how many of its products no earlier step had, and per step how many were never viewed."""
        found = []
        for number, step in enumerate(STEPS[1:], start=1):
            earlier = [one for one in STEPS[:number] if self.products[one] and one != "carted"]
            if self.products[step] and earlier:
                found.append(self._meeting(step, earlier))
        if self.products["bought"] and self.products["viewed"]:
            found.append(self._meeting("bought", ["viewed"]))
        if self.products["bought"] and self.products["carted"]:
            found.append(self._meeting("bought", ["carted"]))
        return list(dict.fromkeys(found))

    def _meeting(self, step: str, earlier: Iterable[str]) -> Meeting:
        known: dict[str, None] = {}
        for one in earlier:
            known |= self.products[one]
        unmet = [product for product in self.products[step] if product not in known]
        return Meeting(
            step=step,
            earlier=" or ".join(earlier),
            products=len(self.products[step]),
            unmet=len(unmet),
            examples=tuple(unmet[:_EXAMPLES]),
            earlier_examples=tuple(list(known)[:_EXAMPLES]),
        )
