"""How the columns of a product are cut into panels, and where the epilogue finds its operands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """``panels`` weight panels with the same terms per slot; ``ragged`` lanes valid in the last (0: all)."""

    pattern: tuple[int, ...]
    panels: int
    ragged: int = 0

    @property
    def vectors(self) -> int:
        """Vectors of one panel."""
        return sum(self.pattern)


@dataclass(frozen=True)
class Operand:
    """A float32 operand of the epilogue: strides of the batch loops, of the row dims, and of the column.

    A ``packed`` operand has one value for each lane of each slot, in packed order (a permuted bias).
    """

    elements: int
    offset: int
    batch: tuple[int, ...]
    rows: tuple[int, ...]
    column: int
    packed: bool = False


def sections_for(columns: int, lanes: int, vectors: int) -> tuple[Section, ...]:
    """Sections of a plain product: full panels, then what is left, the ragged slot last."""
    slots, ragged = -(-columns // lanes), columns % lanes
    full = slots // vectors
    if ragged and slots % vectors == 0:
        full -= 1
    result = [Section((1,) * vectors, full)] if full else []
    rest = slots - full * vectors
    if rest:
        result.append(Section((1,) * rest, 1, ragged))
    return tuple(result)
