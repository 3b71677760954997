"""Some records of a source, as their bytes."""

from dataclasses import dataclass, field

from app.core.call_record import Line, from_epoch_ms


@dataclass
class Block:
    """Records in their order; per record its bytes, its position in the source, and its full size.

    `received_ms`: when each was received, in epoch ms, if not all were at the same time.
    """

    records: list[bytes] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    received_ms: list[int] | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def bytes(self) -> int:
        return sum(map(len, self.records))

    def line(self, index: int) -> Line:
        """One of the records."""
        received_at = None if self.received_ms is None else from_epoch_ms(self.received_ms[index])
        return Line(self.positions[index], self.records[index], self.sizes[index], received_at)

    def add(self, line: Line) -> None:
        """Append a record that was received when all were."""
        self.records.append(line.data)
        self.positions.append(line.position)
        self.sizes.append(line.size)

    def extend(self, other: "Block") -> None:
        """Append the records of another block; both or neither say when each was received."""
        self.records += other.records
        self.positions += other.positions
        self.sizes += other.sizes
        if self.received_ms is not None and other.received_ms is not None:
            self.received_ms += other.received_ms

    def take(self, size: int) -> "Block":
        """Remove the first records, this many at most, and return them."""
        taken = Block(self.records[:size], self.positions[:size], self.sizes[:size])
        del self.records[:size], self.positions[:size], self.sizes[:size]
        if self.received_ms is not None:
            taken.received_ms = self.received_ms[:size]
            del self.received_ms[:size]
        return taken
