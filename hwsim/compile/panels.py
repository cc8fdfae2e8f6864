"""How the columns of a product are cut into panels, and where the epilogue finds its operands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """``panels`` weight panels with the same terms per slot; ``ragged`` lanes valid in the last (0: all).

    ``pattern`` counts the vectors that stand in the lanes of each output slot. ``packed`` counts, for each later
    term that keeps single rows, the vectors that hold those rows densely, after all of the pattern. The rows of
    the first two slots of a panel are packed from the front, those of the others from the back, so that
    every slot finds its rows of one term in two vectors that are known when the code is written.
    """

    pattern: tuple[int, ...]
    panels: int
    ragged: int = 0
    packed: tuple[int, ...] = ()

    @property
    def vectors(self) -> int:
        """Vectors of one panel."""
        return sum(self.pattern) + sum(self.packed)

    def sources(self, slot: int) -> list[tuple[int, tuple[int, int]]]:
        """The packed terms of a slot, each with the two vectors (of the panel) that hold its rows."""
        found: list[tuple[int, tuple[int, int]]] = []
        first = sum(self.pattern)
        for term, count in enumerate(self.packed):
            if count:
                pair = (0, min(1, count - 1)) if slot < 2 else (max(0, count - 2), count - 1)
                found.append((term, (first + pair[0], first + pair[1])))
            first += count
        return found


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
