"""Where a field stands in a JSON document, and what kind of value it holds."""

from dataclasses import dataclass
from enum import Enum

ITEMS = "[]"


class Kind(Enum):
    """What a field holds, whatever way the document writes it."""

    TEXT = "text"
    TEXTS = "list of text"  # also a scalar, or a text with separators
    NUMBER = "number"  # also a number written as a string
    ANY = "anything"  # of which only the text of a scalar matters, and whether it is there


@dataclass(frozen=True)
class FieldPath:
    """A field and its path: keys from the document's root; ITEMS steps into every element of a list.

    `decimal` is the sign between the units and the fractions of a number in text; empty where nobody said.
    """

    name: str
    kind: Kind
    keys: tuple[str, ...]
    decimal: str = ""

    @property
    def is_list(self) -> bool:
        return self.kind is Kind.TEXTS or ITEMS in self.keys

    def clashes_with(self, other: "FieldPath") -> bool:
        """Whether one reader cannot take both: the paths are equal, or one leads through the other's value."""
        shorter = min(len(self.keys), len(other.keys))
        return self.keys[:shorter] == other.keys[:shorter]
