"""Where a field stands in a JSON document, and what kind of value it holds."""

from dataclasses import dataclass
from enum import Enum

ITEMS = "[]"


class Kind(Enum):
    """What a field holds, whatever way the document writes it."""

    TEXT = "text"
    TEXTS = "list of text"  # also a scalar, or a comma list
    NUMBER = "number"  # also a number written as a string


@dataclass(frozen=True)
class FieldPath:
    """A field and its path: keys from the document's root; ITEMS steps into every element of a list."""

    name: str
    kind: Kind
    keys: tuple[str, ...]

    @property
    def is_list(self) -> bool:
        return self.kind is Kind.TEXTS or ITEMS in self.keys
