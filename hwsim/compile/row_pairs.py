"""Products by the matrix instruction of Armv8.6 (i8mm): 2 rows x 2 columns, 8 products deep, in one `usmmla`.

Two rows share their accumulators: of a slot of four columns one register holds both rows of the first two columns, the
other both rows of the last two. The same two shuffles bring rows into this form and back. Weights lie as for a dot
product of 8 bytes (`pack`): four columns of 8 bytes are two operands of the instruction.
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from typing import TYPE_CHECKING, Any

from hwsim.compile.builder import constant, tirx
from hwsim.compile.isa import matrix_dot, pair_lanes
from hwsim.compile.product_code import ProductCode, unpack

if TYPE_CHECKING:
    from hwsim.compile.product_code import Place

_HALF = 16  # bytes of weights of two columns


class PairCode(ProductCode):
    """Writes a product two rows at a time; a last single row is paired with itself."""

    def _accumulate(self, place: "Place", starts: list[Any], acc: Any, first: int = 0) -> None:
        product, code, vectors = self.product, self.code, place.section.vectors
        spare = code.scratch("spare", vectors, "int32x4") if len(starts) % 2 else None
        for v in range(vectors if spare is not None else 0):
            code.store(spare, v, constant(0, "int32", 4))
        pairs = [
            [self._register(acc, spare, (row, len(starts), vectors, v)) for row in (left, left + 1)]
            for left in range(0, len(starts), 2)
            for v in range(vectors)
        ]
        self._exchange(pairs)
        blocks = product.blocks(self.isa)
        with code.taps(product.taps) as (offset, tap), code.loop(blocks - first) as turn:
            block = first + turn
            base = code.bind("b", place.byte + (tap * blocks + block) * (vectors * 2 * _HALF))
            halves = [
                code.bind("l", self.buffers["weights"].vload([base + half * _HALF], "int8x16"))
                for half in range(2 * vectors)
            ]
            for step in range(product.steps_per_load):
                shift = offset + (block * product.steps_per_load + step) * self.isa.depth
                weights = [code.bind("u", unpack(half, step, product.packed_bits, _HALF)) for half in halves]
                for left in range(0, len(starts), 2):
                    rows = [starts[left], starts[min(left + 1, len(starts) - 1)]]
                    words = [
                        tirx.reinterpret("int64", self.buffers["activations"].vload([row + shift], "uint8x8"))
                        for row in rows
                    ]
                    both = code.bind("x", tirx.reinterpret("uint8x16", tirx.Shuffle(words, [0, 1])))
                    for v in range(vectors):
                        for half, (buffer, slot) in enumerate(pairs[left // 2 * vectors + v]):
                            code.store(
                                buffer, slot, matrix_dot(buffer.vload([slot]), both, weights[2 * v + half])
                            )
        self._exchange(pairs)

    def _register(self, acc: Any, spare: Any, where: tuple[int, int, int, int]) -> tuple[Any, int]:
        """The accumulators of one vector of a row; the partner of a last single row has its own."""
        row, rows, vectors, v = where
        return (acc, row * vectors + v) if row < rows else (spare, v)

    def _exchange(self, pairs: list[list[tuple[Any, int]]]) -> None:
        """Rows to pairs of columns, or pairs of columns to rows."""
        for registers in pairs:
            old = [self.code.bind("r", buffer.vload([slot])) for buffer, slot in registers]
            for half, (buffer, slot) in enumerate(registers):
                self.code.store(buffer, slot, pair_lanes(old, half))
