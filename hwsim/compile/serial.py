"""Bit-serial products: weights of 1 and 2 bits and narrow activations as bit planes, multiplied by AND and popcount.

With a code a = sum_j 2^j a_j and a weight w = sum_i c_i 2^i w_i, bits a_j and w_i,

    sum_k a w = sum_ij c_i 2^(i + j) popcount(a_j & w_i)

over words of 32 codes (BISMO, Umuroglu et al. 2018). Two's complement weights of 2 bits have c = (1, -1); weights of
1 bit are -1 and 1: w = 2 w_0 - 1, and sum_k a is taken off once for each row. The pairs run from the highest power
to the lowest, and the accumulators are doubled in between, so that no partial sum needs a register of its own.

A pair of planes costs an AND, a popcount and an addition for 32 products a lane; a byte dot product costs one
instruction for 4. So it pays while there are few pairs (`isa.Isa.serial_pairs`).
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwsim.compile.builder import Code, PrimFunc, broadcast, constant, tirx, vector
from hwsim.compile.isa import Isa, popcount
from hwsim.compile.panels import Section

if TYPE_CHECKING:
    from hwsim.compile.product import Product

WORD = 32


def words(run: int) -> int:
    """Words that hold one plane of ``run`` codes."""
    return -(-run // WORD)


def weight_planes(isa: Isa, codes: list[NDArray[np.int8]], activation_bits: int) -> int:
    """Planes of the weights, 1 or 2, where the bit-serial product is the faster one; else 0."""
    binary = all(bool((np.abs(c) == 1).all()) for c in codes)
    small = all(c.min(initial=0) >= -2 and c.max(initial=0) <= 1 for c in codes)
    planes = 1 if binary else 2 if small else 0
    return planes if planes * activation_bits <= isa.serial_pairs else 0


def pack_planes(
    matrix: NDArray[np.int8], taps: int, isa: Isa, sections: tuple[Section, ...], bits: int
) -> NDArray[np.int32]:
    """Panels ``[tap][word][plane][vector][lane]`` of ``matrix`` (packed lanes, taps * run), columns in packed order."""
    run = matrix.shape[1] // taps
    padded = np.zeros((matrix.shape[0], taps, words(run) * WORD), np.uint8)
    padded[:, :, :run] = (
        (matrix.reshape(-1, taps, run) > 0) if bits == 1 else matrix.reshape(-1, taps, run).view(np.uint8)
    )
    planes = [np.packbits(padded >> i & 1, axis=2, bitorder="little").view("<i4") for i in range(bits)]
    joined = np.stack(planes, 3).reshape(-1, isa.lanes, taps, words(run), bits)
    pieces: list[NDArray[np.int32]] = []
    first = 0
    for section in sections:
        count = section.panels * section.vectors
        part = joined[first : first + count].reshape(
            section.panels, section.vectors, isa.lanes, taps, -1, bits
        )
        pieces.append(part.transpose(0, 3, 4, 5, 1, 2).reshape(-1))
        first += count
    return np.concatenate(pieces).astype(np.int32)


def accumulate(
    code: Code,
    product: "Product",
    isa: Isa,
    buffers: dict[str, Any],
    where: tuple[int, Any, Any, list[Any]],
    acc: Any,
) -> None:
    """All pairs of planes into ``acc`` (0 before); ``where``: vectors, word and lane of the panel, row starts."""
    vectors, panel, lane, starts = where
    bits, planes, blocks, lanes = product.packed_bits, product.serial, product.blocks(isa), isa.lanes
    kind = vector("int32", lanes)
    slots = range(len(starts) * vectors)

    def double() -> None:
        for slot in slots:
            code.store(acc, slot, acc.vload([slot]) + acc.vload([slot]))

    for power in range(bits + planes - 2, -1, -1):
        if power < bits + planes - 2:
            double()
        for i in range(max(0, power - planes + 1), min(bits, power + 1)):
            with code.taps(product.taps) as (offset, tap), code.loop(blocks) as block:
                first = code.bind("b", panel + ((tap * blocks + block) * bits + i) * (vectors * lanes))
                loads = [
                    code.bind("l", buffers["weights"].vload([first + v * lanes], kind))
                    for v in range(vectors)
                ]
                for row, start in enumerate(starts):
                    place = start + offset + (power - i) * blocks + block
                    word = code.bind("x", broadcast(buffers["activations"].vload([place]), lanes))
                    for v, load in enumerate(loads):
                        slot, ones = row * vectors + v, popcount(isa, load & word)
                        old = acc.vload([slot])
                        code.store(acc, slot, old - ones if bits == 2 and i == 1 else old + ones)
    if bits == 1:
        double()
    for v in range(vectors):
        initial = code.bind("c", buffers["initial"].vload([lane + v * lanes], kind))
        for row in range(len(starts)):
            slot = row * vectors + v
            code.store(acc, slot, acc.vload([slot]) + initial)


@dataclass(frozen=True)
class BitPlanes:
    """Rows of unsigned codes to words of bits, ``[row][plane][word]``; with ``sums`` also minus the sum of every row.

    Codes past the end of a row are read as they are: the weights have no bits there.
    """

    rows: int
    columns: int
    pitch: int
    elements: int
    offset: int
    planes: int
    sums: bool
    parallel: bool = False

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        sums = [("sums", self.rows, "int32")] if self.sums else []
        return [
            ("codes", self.elements, "uint8"), *sums,
            ("out", self.rows * self.planes * words(self.columns), "int32"),
        ]  # fmt: skip

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        code = Code(name, isa.device)
        buffers = {n: code.parameter(n, size, t) for n, size, t in self.arguments(isa)}
        full, rest = divmod(self.columns, WORD)
        with code.grid([self.rows], parallel=self.parallel) as (row,):
            total = code.scratch("sum", 1, "int32")
            code.store(total, 0, tirx.const(0, "int32"))
            if full:
                with code.loop(full) as index:
                    self._word(isa, code, buffers, (row, index, WORD), total)
            if rest:
                self._word(isa, code, buffers, (row, tirx.const(full, "int32"), rest), total)
            if self.sums:
                code.store(buffers["sums"], row, tirx.const(0, "int32") - total.vload([0]))
        return code.function()

    def _word(
        self, isa: Isa, code: Code, buffers: dict[str, Any], where: tuple[Any, Any, int], total: Any
    ) -> None:
        """All planes of one word of a row; ``valid`` of its codes exist."""
        row, index, valid = where
        start = code.bind("s", self.offset + row * self.pitch + index * WORD)
        for plane in range(self.planes):
            word = self._bits(isa, code, buffers["codes"], start, plane, valid)
            place = (row * self.planes + plane) * words(self.columns) + index
            code.store(buffers["out"], place, word)
            if self.sums:
                live = word if valid == WORD else word & tirx.const((1 << valid) - 1, "int32")
                code.store(total, 0, total.vload([0]) + (popcount(isa, live, 1) << plane))

    def _bits(self, isa: Isa, code: Code, codes: Any, start: Any, plane: int, valid: int) -> Any:
        """Bit ``plane`` of 32 codes."""
        if isa.lanes >= 8:  # AVX2: the bit to the top of every byte, the tops of all bytes as a mask
            pairs = tirx.reinterpret("int16x16", codes.vload([start], "uint8x32"))
            bytes_ = tirx.reinterpret("int8x32", pairs << constant(7 - plane, "int16", 16))
            return code.bind("w", tirx.call_llvm_pure_intrin("int32", "llvm.x86.avx2.pmovmskb", bytes_))
        word = code.scratch("word", 1, "int32")
        code.store(word, 0, tirx.const(0, "int32"))
        with code.loop(valid) as bit:
            one = (codes.vload([start + bit]).astype("int32") >> plane) & tirx.const(1, "int32")
            code.store(word, 0, word.vload([0]) | (one << bit))
        return code.bind("w", word.vload([0]))
