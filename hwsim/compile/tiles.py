"""Products on the tile registers of AMX: 16 x 16 sums of 64 products each by one `tdpbusd`, u8 x s8.

A block of rows x panel is cut into pairs of 16 rows times pairs of vectors: four accumulator tiles, two of activations,
two of weights. The panels are those of the byte dot product (`pack`): 16 steps of K of a vector are a tile of weights.
Sums go to memory on the stack; from there every row takes the steps of K beyond the last whole tile and the epilogue
of every other machine (`product_code`). Rows that fill no tile, rows without a common stride (convolutions larger than
one place) and short reductions are multiplied by the byte dot product altogether.

Tile registers hold what `ldtilecfg` says; a process asks the system for them first (`hwsim.runtime`).
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from typing import TYPE_CHECKING, Any

from hwsim.compile.builder import Code, tirx, vector
from hwsim.compile.isa import load_weights
from hwsim.compile.product_code import ProductCode, unpack

if TYPE_CHECKING:
    from hwsim.compile.product_code import Place

_ROWS, _BYTES = 16, 64  # of a tile
_SUMS, _ACTIVATIONS, _WEIGHTS = 0, 4, 6  # first register of each kind


def instruction(code: Code, name: str, *arguments: Any) -> None:
    """Emit one instruction on tile registers; Python numbers name registers."""
    given = [tirx.const(a, "uint8") if isinstance(a, int) else a for a in arguments]
    code.emit(tirx.Evaluate(tirx.call_llvm_intrin("int32", f"llvm.x86.{name}", *given)))


def address(buffer: Any, index: Any) -> Any:
    """Where an element lies."""
    return tirx.address_of(buffer.vload([index]))


class TileCode(ProductCode):
    """Writes a product for tile registers."""

    def _tiled(self) -> bool:
        product = self.product
        plain = not product.floating and not product.serial and product.activation_dtype == "uint8"
        return plain and product.planes[0] == 1 and len(product.dims) == 1 and product.run >= _BYTES

    def _row_tiles(self, place: "Place", rows: tuple[Any, int]) -> None:
        first, count = rows
        done = 0
        if self._tiled() and count >= _ROWS:
            self._configure()
            for height in (2 * _ROWS, _ROWS):
                full = (count - done) // height
                if full:
                    with self.code.loop(full) as index:
                        self._block(place, first + done + index * height, height)
                done += full * height
            instruction(self.code, "tilerelease")
        if count > done:
            super()._row_tiles(place, (first + done, count - done))

    def _configure(self) -> None:
        """All eight registers: 16 rows of 64 bytes (palette 1)."""
        code = self.code
        words = [0] * 16
        words[0], words[4:8], words[12:14] = 1, [_BYTES << 16 | _BYTES] * 4, [_ROWS * 0x01010101] * 2
        table = code.scratch("config", 16, "int32")
        for index, word in enumerate(words):
            code.store(table, index, tirx.const(word, "int32"))
        instruction(code, "ldtilecfg", address(table, 0))

    def _block(self, place: "Place", first_row: Any, rows: int) -> None:
        """Whole tiles of rows: sums of all whole tiles of K, then row by row the rest of K and the epilogue."""
        product, isa, code = self.product, self.isa, self.code
        vectors, lanes = place.section.vectors, isa.lanes
        kind = vector("int32", lanes)
        sums = code.scratch("sums", rows * vectors, kind)
        (start,) = self._starts(place, [self._row_index(code.bind("m", first_row))])
        for left in range(0, vectors, 2):
            self._multiply(place, start, sums, (rows // _ROWS, left, min(2, vectors - left)))
        done = product.run // _BYTES * (_BYTES // isa.depth) // product.steps_per_load
        with code.loop(rows) as row:
            where = [self._row_index(code.bind("m", first_row + row))]
            acc = code.scratch("acc", vectors, kind)
            for v, initial in enumerate(self._initials(place)):
                code.store(acc, v, initial + sums.vload([row * vectors + v]))
            if product.blocks(isa) > done:
                self._accumulate(place, self._starts(place, where), acc, done)
            self._epilogue(place, where, acc)

    def _multiply(self, place: "Place", start: Any, sums: Any, part: tuple[int, int, int]) -> None:
        """Sums of ``tall`` tiles of rows and ``wide`` vectors from ``left`` on, over all whole tiles of K."""
        product, code, vectors = self.product, self.code, place.section.vectors
        tall, left, wide = part
        pitch = product.dims[0][1]
        tiles = [(i, j) for i in range(tall) for j in range(wide)]
        for i, j in tiles:
            instruction(code, "tilezero", _SUMS + 2 * i + j)
        with code.taps(product.taps) as (offset, tap), code.loop(product.run // _BYTES) as turn:
            for i in range(tall):
                place_of_rows = start + i * _ROWS * pitch + offset + turn * _BYTES
                rows = address(self.buffers["activations"], place_of_rows)
                instruction(code, "tileloadd64", _ACTIVATIONS + i, rows, tirx.const(pitch, "int64"))
            blocks = _BYTES // (self.isa.depth * product.steps_per_load)
            first = tap * product.blocks(self.isa) + turn * blocks
            base = code.bind("b", place.byte + (first * vectors + left) * _BYTES)
            self._load_weights(base, vectors, wide)
            for i, j in tiles:
                instruction(code, "tdpbusd", _SUMS + 2 * i + j, _ACTIVATIONS + i, _WEIGHTS + j)
        for i, j in tiles:
            corner = address(sums, i * _ROWS * vectors + left + j)
            instruction(
                code, "tilestored64", _SUMS + 2 * i + j, corner, tirx.const(vectors * _BYTES, "int64")
            )

    def _load_weights(self, base: Any, vectors: int, wide: int) -> None:
        """A tile of each vector; packed weights are unpacked to the stack first."""
        product, code, weights = self.product, self.code, self.buffers["weights"]
        if product.packed_bits == 8:
            for j in range(wide):
                corner, pitch = address(weights, base + j * _BYTES), tirx.const(vectors * _BYTES, "int64")
                instruction(code, "tileloadd64", _WEIGHTS + j, corner, pitch)
            return
        steps = product.steps_per_load
        rows = code.scratch("unpacked", wide * _ROWS, vector("int8", _BYTES))
        for j in range(wide):
            for block in range(_ROWS // steps):
                load = code.bind("l", load_weights(self.isa, weights, base + (block * vectors + j) * _BYTES))
                for step in range(steps):
                    code.store(
                        rows,
                        j * _ROWS + block * steps + step,
                        unpack(load, step, product.packed_bits, _BYTES),
                    )
            instruction(
                code, "tileloadd64", _WEIGHTS + j, address(rows, j * _ROWS), tirx.const(_BYTES, "int64")
            )
