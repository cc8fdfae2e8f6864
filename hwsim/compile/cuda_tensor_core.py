"""Products on tensor cores: the loops of a `Product` for warps and blocks of a graphics processor.

A block of threads multiplies a tile of rows x panels. Its main loop is `tensor_core.cuh`, instantiated for the
product: tiles of activations and weights come into shared memory ahead of their use, and `mma` instructions add
32 products at a time (64 where both operands have 4 bits). What is written here is where the tile lies: the
beginning of every row of activations (so that a convolution is an implicit GEMM, and the rows of an attention
head need no copy), the first panel, and the epilogue, which is that of every other machine (`product_code`).

The instruction spreads the accumulators of a 16 x 8 tile over a warp: thread t holds the columns 2 (t % 4) and
2 (t % 4) + 1 of the rows t / 4 and t / 4 + 8 (PTX ISA, "Matrix fragments for mma.m16n8k32"). Columns of weights are
laid out such that one thread finds a whole panel, all terms of its outputs included, in its own accumulators:
vector v of panel p is column 2 (p % 4) + v % 2 of tile v / 2. Terms of an expansion are therefore added in
registers, in their order, as on a processor with vectors.
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from dataclasses import dataclass
from math import gcd, prod
from typing import Any

from hwsim.compile.builder import tirx
from hwsim.compile.panels import Section
from hwsim.compile.product_code import ProductCode

MAIN_LOOP = "hwsim_tensor_core"
_STATIC_SHARED = 48 * 1024  # bytes that a block may declare
_BLOCKS = 96  # fewer leave multiprocessors of a large device without work


@dataclass(frozen=True)
class Tile:
    """Warps of a block along rows and columns; tiles of 16 rows in each. A warp covers four panels."""

    row_warps: int
    column_warps: int
    row_tiles: int

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return 16 * self.row_tiles * self.row_warps

    @property
    def panels(self) -> int:
        """Panels of a block."""
        return 4 * self.column_warps

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.row_warps * self.column_warps


TILES = (Tile(2, 4, 4), Tile(2, 2, 4), Tile(2, 2, 2), Tile(2, 2, 1), Tile(1, 2, 1))


class TensorCode(ProductCode):
    """Writes a product for tensor cores, one kernel for each section."""

    def _write_grid(self) -> None:
        for section, bases in self._placed():
            self._write_section(section, bases)

    def _tile_for(self, section: Section) -> Tile:
        """The largest tile that is at least half full and leaves enough blocks; else the smallest."""
        product = self.product
        for tile in TILES:
            blocks = product.batches * -(-product.rows // tile.rows) * -(-section.panels // tile.panels)
            full = 2 * product.rows > tile.rows and 2 * section.panels > tile.panels
            fits = 2 * self._stage_bytes(tile, section) + 4 * tile.rows <= _STATIC_SHARED
            if full and fits and blocks >= _BLOCKS:
                return tile
        return TILES[-1]

    def _write_section(self, section: Section, bases: tuple[int, int, int]) -> None:
        product, code = self.product, self.code
        tile = self._tile_for(section)
        batch = [extent for extent, _, _ in product.batch]
        extents = [*batch, -(-product.rows // tile.rows), -(-section.panels // tile.panels)]
        with code.blocks(prod(extents), tile.threads) as (block, thread):
            *where, row_tile, column_tile = code.coordinates(block, extents)
            index: Any = 0
            for extent, coordinate in zip(batch, where, strict=True):
                index = index * extent + coordinate
            first_row = code.bind("m", row_tile * tile.rows)
            first_panel = code.bind("p", column_tile * tile.panels)
            corner = self._place(section, bases, (index, where), first_panel)
            starts = self._row_starts(tile, corner.batch, first_row, thread)
            acc = code.scratch("acc", 2 * tile.row_tiles * section.vectors, "int32")
            buffers = self.buffers
            stage = self._stage_bytes(tile, section)
            stages = min(4, (_STATIC_SHARED - 4 * tile.rows) // stage)
            memory = code.scratch("stages", stages * stage, "uint8", shared=True)
            call = tirx.call_extern(
                "int32", f"{MAIN_LOOP}<{_tile_type(tile, section)}, {self._depth_type()}, {stages}>",
                buffers["activations"].data, buffers["weights"].data, corner.byte, section.panels - first_panel,
                starts.data, memory.data, acc.data,
            )  # fmt: skip
            code.emit(tirx.Evaluate(call))
            self._finish_tile(tile, (section, bases), (index, where), (first_row, first_panel, thread), acc)

    def _row_starts(self, tile: Tile, batch: list[Any], first_row: Any, thread: Any) -> Any:
        """Where the activations of every row of the tile begin; past the last row, those of the last."""
        product, code = self.product, self.code
        starts = code.scratch("starts", tile.rows, "int32", shared=True)
        base = product.activation_offset + sum(
            b * stride for b, (_, stride, _) in zip(batch, product.batch, strict=True)
        )
        with code.when(thread < tile.rows):
            where = self._row_index(code.bind("m", tirx.min(first_row + thread, product.rows - 1)))
            start = base + sum(c * s for c, (_, s, _) in zip(where, product.dims, strict=True))
            code.store(starts, thread, start)
        return starts

    def _finish_tile(
        self, tile: Tile, panels: tuple[Section, Any], batch: tuple[Any, list[Any]], corner: Any, acc: Any
    ) -> None:
        """The epilogue of every thread: its rows of its own panel.

        Rows past the last are computed as the last one and stored there, the same values again: without a branch
        around each row, what belongs to a column is loaded once for all of them.
        """
        product, code, (section, bases) = self.product, self.code, panels
        first_row, first_panel, thread = corner
        vectors = section.vectors
        warp, lane = code.bind("w", tirx.floordiv(thread, 32)), code.bind("l", tirx.floormod(thread, 32))
        column, row = tirx.floormod(warp, tile.column_warps), tirx.floordiv(warp, tile.column_warps)
        panel = code.bind("p", first_panel + column * 4 + tirx.floormod(lane, 4))
        top = code.bind("m", first_row + row * (16 * tile.row_tiles) + tirx.floordiv(lane, 4))
        with code.when(panel < section.panels):
            place = self._place(section, bases, batch, panel)
            entry = (place.batch_index * product.packed_lanes + place.vector) * self.isa.lanes
            initial = [code.bind("c", self.buffers["initial"].vload([entry + v])) for v in range(vectors)]
            with code.loop(2 * tile.row_tiles, unroll=True) as turn:
                m = code.bind("m", tirx.min(top + turn * 8, product.rows - 1))
                self._epilogue(place, [self._row_index(m)], _Row(acc, turn * vectors, initial))

    def _depth_type(self) -> str:
        """The type that describes K: how it lies in memory, and which instruction multiplies."""
        product = self.product
        taps = [*product.taps, (1, 0), (1, 0)][:2]
        if len(product.taps) > 2:
            raise AssertionError("a window has at most two loops")
        walk = ", ".join(f"{count}, {stride}" for count, stride in taps)
        kind = "signed" if product.activation_dtype == "int8" else "nibble" if self._nibbles else "unsigned"
        return (
            f"hwsim_depth<hwsim_{kind}, {product.packed_bits}, {self._chunk}, {product.run}, "
            f"{self._alignment()}, {walk}>"
        )

    @property
    def _nibbles(self) -> bool:
        """Whether both operands have 4 bits."""
        return self.product.activation_bits <= 4 and self.product.packed_bits == 4

    @property
    def _chunk(self) -> int:
        """Blocks of weights in one stage: two where rows of 64 bytes of activations are then full."""
        return 2 if self.product.packed_bits == 8 and self.product.blocks(self.isa) > 1 else 1

    def _alignment(self) -> int:
        """Bytes that every address of a row of activations is a multiple of, at most 16."""
        product = self.product
        strides = [stride for _, stride, _ in (*product.batch, *product.dims)]
        strides += [stride for _, stride in product.taps]
        return gcd(16, product.activation_offset, *strides)

    def _stage_bytes(self, tile: Tile, section: Section) -> int:
        """Shared memory of one stage: rows of activations, and rows of weights for every column."""
        columns = 8 * tile.column_warps * -(-section.vectors // 2)
        return 32 * self._chunk * (self.product.steps_per_load * tile.rows + columns)


def _tile_type(tile: Tile, section: Section) -> str:
    return f"hwsim_tile<{tile.row_warps}, {tile.column_warps}, {tile.row_tiles}, {section.vectors}>"


@dataclass(frozen=True)
class _Row:
    """One row of a thread's accumulators, its initial values added."""

    acc: Any
    first: Any
    initial: list[Any]

    def vload(self, index: list[int]) -> Any:
        """Accumulator of one vector."""
        return self.acc.vload([self.first + index[0]]) + self.initial[index[0]]
