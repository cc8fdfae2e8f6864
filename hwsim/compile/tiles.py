"""Products on the tile registers of AMX: 16 x 16 sums of 64 products each by one `tdpbusd`, u8 x s8.

A block of rows x panel is cut into pairs of 16 rows times pairs of vectors: four accumulator tiles, two of activations,
two of weights. The panels are those of the byte dot product (`pack`): 16 steps of K of a vector are a tile of weights.
Sums go to memory on the stack; from there every row takes the steps of K beyond the last whole tile and the epilogue
of every other machine (`product_code`). While a block is multiplied, the lines of its outputs are asked for.

A tile takes rows at one stride. Those of a convolution have it, too, if places are counted that are no outputs: the
border at the end of a row of pixels, and what a larger stride leaves out (`RowGrid`); their sums are not stored.
Fewer rows than a tile holds, short reductions, and convolutions of which less than `_FILLED` of the places counted are
outputs, are multiplied by the byte dot product altogether.

Tile registers hold what `ldtilecfg` says; a process asks the system for them first (`hwsim.runtime`).
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

import itertools
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from hwsim.compile.builder import Code, tirx, vector
from hwsim.compile.isa import Isa, load_weights
from hwsim.compile.product_code import ProductCode, unpack

if TYPE_CHECKING:
    from hwsim.compile.product import Product
    from hwsim.compile.product_code import Place

TILE_ROWS, TILE_BYTES = 16, 64  # of a tile
_FILLED = 0.4
TILE_MACS = TILE_ROWS * TILE_ROWS * TILE_BYTES
_SUMS, _ACTIVATIONS, _WEIGHTS = 0, 4, 6  # first register of each kind


def instruction(code: Code, name: str, *arguments: Any) -> None:
    """Emit one instruction on tile registers; Python numbers name registers."""
    given = [tirx.const(a, "uint8") if isinstance(a, int) else a for a in arguments]
    code.emit(tirx.Evaluate(tirx.call_llvm_intrin("int32", f"llvm.x86.{name}", *given)))


def address(buffer: Any, index: Any) -> Any:
    """Where an element lies."""
    return tirx.address_of(buffer.vload([index]))


def configure(code: Code, height: int) -> None:
    """Eight registers of 64 bytes a row (palette 1): sums and activations of some rows, weights of 16."""
    heights = [height] * _WEIGHTS + [TILE_ROWS] * (8 - _WEIGHTS)
    words = [0] * 16
    words[0], words[4:8] = 1, [TILE_BYTES << 16 | TILE_BYTES] * 4
    words[12:14] = [int.from_bytes(bytes(part), "little") for part in (heights[:4], heights[4:])]
    table = code.scratch("config", 16, "int32")
    for index, word in enumerate(words):
        code.store(table, index, tirx.const(word, "int32"))
    instruction(code, "ldtilecfg", address(table, 0))


def multiply(code: Code, tiles: Iterable[tuple[int, int]]) -> None:
    """Add the products of some tiles of activations and of weights to the sums of each pair: `TILE_MACS` a pair."""
    for i, j in tiles:
        instruction(code, "tdpbusd", _SUMS + 2 * i + j, _ACTIVATIONS + i, _WEIGHTS + j)


@dataclass(frozen=True)
class RowGrid:
    """Rows of a product counted at the stride of the innermost of its ``dims``, what lies between them included."""

    extents: tuple[int, ...]
    widths: tuple[int, ...]  # places counted for each extent but the first

    @classmethod
    def of(cls, dims: tuple[tuple[int, int, int], ...]) -> "RowGrid | None":
        """The grid of some rows, or None where their strides have no common measure."""
        widths: list[int] = []
        for (_, outer, _), (extent, inner, _) in itertools.pairwise(dims):
            if inner <= 0 or outer % inner or outer // inner < extent:
                return None
            widths.append(outer // inner)
        return cls(tuple(extent for extent, _, _ in dims), tuple(widths))

    @property
    def inner(self) -> int:
        """Rows of one turn of the outermost loop."""
        return prod(self.extents[1:])

    @property
    def pitch(self) -> int:
        """Places counted from one turn of the outermost loop to the next."""
        return prod(self.widths)

    def places(self, rows: int) -> int:
        """Places counted from the first to the last of some whole turns."""
        last, step = 0, 1
        for extent, width in zip(self.extents[:0:-1], self.widths[::-1], strict=True):
            last, step = last + (extent - 1) * step, step * width
        return last + (rows // self.inner - 1) * step + 1

    @property
    def gaps(self) -> list[int]:
        """Which loops count places that are no rows."""
        pairs = zip(self.extents[1:], self.widths, strict=True)
        return [axis for axis, (extent, width) in enumerate(pairs, 1) if width > extent]


class TileCode(ProductCode):
    """Writes a product for tile registers."""

    def __init__(self, code: Code, product: "Product", isa: Isa, prefix: str = "") -> None:
        super().__init__(code, product, isa, prefix)
        plain = not product.floating and not product.serial and product.planes[0] == 1
        long = plain and product.run >= TILE_BYTES
        grid = RowGrid.of(product.dims) if long else None
        if grid is not None and (
            product.rows < _FILLED * grid.places(product.rows) or product.row_block % grid.inner
        ):
            grid = None
        self.grid = grid

    def _granule(self) -> int:
        return super()._granule() if self.grid is None or self.grid.inner == 1 else self.grid.inner

    def _row_block(self, count: int) -> int:
        block, inner = super()._row_block(count), 1 if self.grid is None else self.grid.inner
        return min(count, -(-block // inner) * inner)

    def _row_tiles(self, place: "Place", rows: tuple[Any, int]) -> None:
        (first, count), grid = rows, self.grid
        places = 0 if grid is None or count % grid.inner else grid.places(count)
        if grid is None or places < TILE_ROWS:
            super()._row_tiles(place, rows)
            return
        start = first if grid.inner == 1 else tirx.floordiv(first, grid.inner) * grid.pitch
        configure(self.code, TILE_ROWS)
        done = 0
        for height in (2 * TILE_ROWS, TILE_ROWS):
            full = (places - done) // height
            if full:
                with self.code.loop(full) as index:
                    self._block(place, start + done + index * height, height)
            done += full * height
        if places > done:
            configure(self.code, places - done)
            self._block(place, start + done, places - done)
        instruction(self.code, "tilerelease")

    def _block(self, place: "Place", first: Any, count: int) -> None:
        """Some places: sums of all whole tiles of K, then row by row the rest of K and the epilogue."""
        product, isa, code = self.product, self.isa, self.code
        vectors, lanes = place.section.vectors, isa.lanes
        kind = vector("int32", lanes)
        sums = code.scratch("sums", count * vectors, kind)
        (start,) = self._starts(place, [self._where(code.bind("m", first))])
        for left in range(0, vectors, 2):
            ahead = (first, count) if left == 0 and product.direct else None
            self._multiply(place, start, sums, (count, left, min(2, vectors - left)), ahead)
        done = product.run // TILE_BYTES * (TILE_BYTES // isa.depth) // product.steps_per_load
        with code.loop(count) as row, ExitStack() as stack:
            where = self._where(code.bind("m", first + row))
            for axis in self.grid.gaps if self.grid is not None else ():
                stack.enter_context(code.when(where[axis] < product.dims[axis][0]))
            acc = code.scratch("acc", vectors, kind)
            for v, initial in enumerate(self._initials(place)):
                code.store(acc, v, initial + sums.vload([row * vectors + v]))
            if product.blocks(isa) > done:
                self._accumulate(place, self._starts(place, [where]), acc, done)
            self._epilogue(place, [where], acc)

    def _where(self, index: Any) -> list[Any]:
        """Coordinates in ``dims`` of a place."""
        assert self.grid is not None
        return self.code.coordinates(index, (0, *self.grid.widths))

    def _multiply(
        self,
        place: "Place",
        start: Any,
        sums: Any,
        part: tuple[int, int, int],
        ahead: tuple[Any, int] | None,
    ) -> None:
        """Sums of ``count`` rows and ``wide`` vectors from ``left`` on, over all whole tiles of K."""
        product, code, vectors = self.product, self.code, place.section.vectors
        count, left, wide = part
        pitch, turns = product.dims[-1][1], product.run // TILE_BYTES
        tiles = [(i, j) for i in range(-(-count // TILE_ROWS)) for j in range(wide)]
        for i, j in tiles:
            instruction(code, "tilezero", _SUMS + 2 * i + j)
        with code.taps(product.taps) as (offset, tap), code.loop(turns) as turn:
            if ahead is not None:
                self._prefetch_share(place, ahead, tap * turns + turn, turns * product.tap_count)
            for i in range(-(-count // TILE_ROWS)):
                place_of_rows = start + i * TILE_ROWS * pitch + offset + turn * TILE_BYTES
                rows = address(self.buffers["activations"], place_of_rows)
                instruction(code, "tileloadd64", _ACTIVATIONS + i, rows, tirx.const(pitch, "int64"))
            blocks = TILE_BYTES // (self.isa.depth * product.steps_per_load)
            first = tap * product.blocks(self.isa) + turn * blocks
            base = code.bind("b", place.byte + (first * vectors + left) * TILE_BYTES)
            self._load_weights(base, vectors, wide)
            multiply(code, tiles)
        for i, j in tiles:
            corner = address(sums, i * TILE_ROWS * vectors + left + j)
            instruction(
                code, "tilestored64", _SUMS + 2 * i + j, corner, tirx.const(vectors * TILE_BYTES, "int64")
            )

    def _prefetch_share(self, place: "Place", rows: tuple[Any, int], turn: Any, turns: int) -> None:
        """Ask for the outputs of this turn's share of the rows: all at once they would wait for one another."""
        first, count = rows
        share = -(-count // turns)
        for index in range(share):
            row = turn * share + index
            row = tirx.min(row, count - 1) if share * turns > count else row
            self._prefetch_row(place, self._where(self.code.bind("m", first + row)))

    def _load_weights(self, base: Any, vectors: int, wide: int) -> None:
        """A tile of each vector; packed weights are unpacked to the stack first."""
        product, code, weights = self.product, self.code, self.buffers["weights"]
        if product.packed_bits == 8:
            for j in range(wide):
                corner, pitch = (
                    address(weights, base + j * TILE_BYTES),
                    tirx.const(vectors * TILE_BYTES, "int64"),
                )
                instruction(code, "tileloadd64", _WEIGHTS + j, corner, pitch)
            return
        steps = product.steps_per_load
        rows = code.scratch("unpacked", wide * TILE_ROWS, vector("int8", TILE_BYTES))
        for j in range(wide):
            for block in range(TILE_ROWS // steps):
                load = code.bind(
                    "l", load_weights(self.isa, weights, base + (block * vectors + j) * TILE_BYTES)
                )
                for step in range(steps):
                    code.store(
                        rows,
                        j * TILE_ROWS + block * steps + step,
                        unpack(load, step, product.packed_bits, TILE_BYTES),
                    )
            instruction(
                code,
                "tileloadd64",
                _WEIGHTS + j,
                address(rows, j * TILE_ROWS),
                tirx.const(TILE_BYTES, "int64"),
            )
