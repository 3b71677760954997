"""What the columns of the shop's orders, their items and refunds mean: `[orders.meaning]` in a snapshot plan."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from app.rules.toml_file import DistinctTexts, RuleModel, Text, digest_of, mistake

LOCAL = "local"  # the time zone of CARAT_TIMEZONE
_OTHER_KEYS = ("time_zone",)  # texts that name no column
State = Literal["open", "paid", "cancelled", "refunded", "partly_refunded", "test", "unknown"]


def _require_zone(name: str) -> str:
    try:
        if name != LOCAL:
            ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        why = f'{name!r} is not a time zone: write one such as "Europe/Berlin", or "{LOCAL}" for CARAT_TIMEZONE'
        raise mistake(why) from None
    return name


_Zone = Annotated[Text, AfterValidator(_require_zone)]
_Digits = Annotated[int, Field(ge=0, le=6)]


class OrdersMeaning(RuleModel):
    """Which column of the shop's orders is what; texts are names of columns, `states` values of the column `state`."""

    order_id: Text = Field(description="the column that items and refunds name an order by")
    number: Text = ""  # the column by which calls name an order, where that is another one
    created: Text = Field(description="the column that says when the order was made")
    time_zone: _Zone = "UTC"  # of created, and of the refunds' at
    total: Text = Field(description="the column of what the customer pays")
    state: Text = ""
    currency: Text = ""  # without it, and where it is blank: the endpoint map's currency, else CARAT_CURRENCY
    refunded: Text = ""
    user: Text = ""
    test: Text = ""  # a column that is true, or a number other than 0, in test orders
    minor_units: _Digits = 0  # decimals of amounts that are whole numbers: 2 for cents
    states: dict[State, DistinctTexts] = Field(default_factory=dict)
    currencies: dict[Text, Text] = Field(default_factory=dict)  # values of the column currency -> code

    @model_validator(mode="after")
    def _require_distinct_states(self) -> Self:
        seen: dict[str, str] = {}
        for state, values in self.states.items():
            for value in values:
                if (other := seen.setdefault(value.strip().lower(), state)) != state:
                    raise mistake(f"{value} is {other} already", "states", state)
        if self.states and not self.state:
            raise mistake("needs state, the column that has these values", "states")
        return self

    @property
    def state_of(self) -> dict[str, str]:
        """The meaning of each value, in lower case."""
        return {value.strip().lower(): state for state, values in self.states.items() for value in values}

    def zone(self, local: ZoneInfo) -> ZoneInfo:
        """The time zone of the shop's times; `local` is that of CARAT_TIMEZONE."""
        return local if self.time_zone == LOCAL else ZoneInfo(self.time_zone)


class ItemsMeaning(RuleModel):
    """Which column of the orders' items is what."""

    order_id: Text = Field(description="the column that names the order")
    product_id: Text = Field(description="the column of the product")
    quantity: Text = ""  # without it each row is one unit
    price: Text = ""  # of one unit
    line_total: Text = ""  # where there is no price of one unit: what all units of the row cost together
    cost: Text = ""  # of one unit, as the shop kept it with the order; else the product's cost at that moment
    minor_units: _Digits = 0


class RefundsMeaning(RuleModel):
    """Which column of the refunds is what."""

    order_id: Text = Field(description="the column that names the order")
    amount: Text = Field(description="the column of what was given back")
    at: Text = Field(description="the column that says when")
    currency: Text = ""  # without it, and where it is blank: the order's
    minor_units: _Digits = 0


@dataclass(frozen=True)
class OrderMeanings:
    """What a plan says of orders; None where it says nothing."""

    orders: OrdersMeaning | None = None
    items: ItemsMeaning | None = None
    refunds: RefundsMeaning | None = None

    @property
    def digest(self) -> str:
        """Changes when what the plan says of orders does."""
        return digest_of([meaning and sorted(meaning.model_dump().items()) for meaning in vars(self).values()])


def columns_named(meaning: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that a meaning names."""
    return tuple(value for key, value in meaning.items() if isinstance(value, str) and key not in _OTHER_KEYS)
