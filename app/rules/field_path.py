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
    """A field and its path: keys from the document's root; ITEMS steps into every element of a list."""

    name: str
    kind: Kind
    keys: tuple[str, ...]

    @property
    def is_list(self) -> bool:
        return self.kind is Kind.TEXTS or ITEMS in self.keys

    def clashes_with(self, other: "FieldPath") -> bool:
        """Whether one reader cannot take both.

        That is where the paths are equal, where one leads through the other's value, or where they end in the same key
        and are written in different ways.
        """
        shorter = min(len(self.keys), len(other.keys))
        return self.keys[:shorter] == other.keys[:shorter] or (
            self.keys[-1] == other.keys[-1] and self.way_of_writing != other.way_of_writing
        )

    @property
    def way_of_writing(self) -> Kind:
        """How bare scalars are made text where documents disagree: as numbers, as lists of text, or as text."""
        return self.kind if self.kind in {Kind.NUMBER, Kind.TEXTS} else Kind.TEXT
