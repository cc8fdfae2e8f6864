"""Depthwise convolution: one input channel for each output channel, vectors of channels, NHWC codes.

There is no reduction over channels. Where one instruction sums four products a lane (`Isa.sums_words`), the four
bytes are taps of one kernel column: up to four rows of inputs are woven into words that neighbouring outputs share.
Elsewhere every tap is a widening multiply-add. A tile of neighbouring outputs shares the loaded weights. All
expansion terms are summed in registers like in `product`.
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwsim.compile.builder import Code, PrimFunc, broadcast, store_lanes, tirx, vector
from hwsim.compile.expr import Evaluator, Node
from hwsim.compile.isa import Isa, dot_words, rounded
from hwsim.compile.panels import Operand

Array = npt.NDArray[Any]

_TILE = 4  # neighbouring outputs of tap-by-tap kernels
_WORDS_TILE = 8  # of kernels that share woven inputs, all terms together
_WORD = 4


@dataclass(frozen=True)
class Depthwise:
    """One depthwise convolution; channels may be repeated by a multiplier of 1 only.

    Attributes:
        dims: (extent, activation stride, output stride) of images, output rows, output columns.
        taps: (count, activation stride) of kernel rows and columns.
        terms: Expansion terms.
        channels: Channels.
        sizes: Elements of the activation and output buffers.
    """

    dims: tuple[tuple[int, int, int], ...]
    taps: tuple[tuple[int, int], ...]
    terms: int
    channels: int
    sizes: tuple[int, int]
    activation_offset: int
    out_offset: int
    activation_dtype: str
    out_dtype: str
    epilogue: Node
    operands: tuple[Operand, ...] = ()
    parallel: bool = False
    raw: bool = False

    @property
    def tap_count(self) -> int:
        """Kernel taps."""
        return self.taps[0][0] * self.taps[1][0]

    @property
    def rows(self) -> int:
        """Output pixels."""
        return self.dims[0][0] * self.dims[1][0] * self.dims[2][0]

    def woven(self, isa: Isa) -> bool:
        """Whether rows of inputs are woven into words."""
        return isa.sums_words and self.activation_dtype == "uint8"

    @property
    def _groups(self) -> int:
        """Groups of up to four kernel rows that one word holds."""
        return -(-self.taps[0][0] // _WORD)

    def _padded(self, isa: Isa) -> int:
        """Channels of whole vectors."""
        return -(-self.channels // isa.lanes) * isa.lanes

    def packed(self, weights: Array, isa: Isa) -> Array:
        """Weights (terms, taps, channels) as the kernel reads them: woven ones by groups of rows, then columns."""
        if not self.woven(isa):
            return weights
        rows, columns = self.taps[0][0], self.taps[1][0]
        words = np.zeros((self.terms, self._groups * _WORD, columns, weights.shape[-1]), np.int8)
        words[:, :rows] = weights.reshape(self.terms, rows, columns, -1)
        return words.reshape(self.terms, self._groups, _WORD, columns, -1).transpose(0, 1, 3, 4, 2)

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        padded = self._padded(isa)
        taps = self._groups * _WORD * self.taps[1][0] if self.woven(isa) else self.tap_count
        result = [
            ("activations", self.sizes[0], self.activation_dtype),
            ("weights", self.terms * taps * padded, "int8"),
            ("initial", self.terms * padded, "int32"),
        ]
        if not self.raw:
            result.append(("scale", self.terms * padded, "float32"))
        result += [(f"operand{i}", o.elements, "float32") for i, o in enumerate(self.operands)]
        return [*result, ("out", self.sizes[1], self.out_dtype)]

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        code = Code(name, isa.device)
        buffers = {n: code.parameter(n, size, t) for n, size, t in self.arguments(isa)}
        (images, _, _), (height, _, _), (width, _, _) = self.dims
        full, rest = divmod(self.channels, isa.lanes)
        most = self._tile_outputs(isa)
        tiles, left = divmod(width, most)
        for first, count, tile in ((0, tiles, most), (tiles * most, int(left > 0), left)):
            for slots, ragged in ((full, 0), (int(rest > 0), rest)):
                if count and slots:
                    extents = [images * height, count, slots]
                    with code.grid(extents, parallel=self.parallel) as (line, index, slot):
                        row = [tirx.floordiv(line, height), tirx.floormod(line, height)]
                        shape = (tile, slot if not ragged else full, ragged)
                        self._tile(code, isa, buffers, [*row, first + index * tile], shape)
        return code.function()

    def _tile_outputs(self, isa: Isa) -> int:
        """Neighbouring outputs of a tile; woven ones are spread evenly over the row."""
        width = self.dims[2][0]
        if not self.woven(isa):
            return _TILE
        most = max(1, _WORDS_TILE // self.terms)
        return -(-width // -(-width // most))

    def _tile(
        self, code: Code, isa: Isa, buffers: dict[str, Any], where: list[Any], shape: tuple[int, Any, int]
    ) -> None:
        """``tile`` neighbouring outputs of one vector of channels."""
        tile, slot, ragged = shape
        lanes, kind = isa.lanes, vector("int32", isa.lanes)
        padded = self._padded(isa)
        column = code.bind("c", slot * lanes)
        acc = code.scratch("acc", tile * self.terms, kind)
        for term in range(self.terms):
            initial = code.bind("z", buffers["initial"].vload([term * padded + column], kind))
            for i in range(tile):
                code.store(acc, i * self.terms + term, initial)
        start = self.activation_offset + sum(c * s for c, (_, s, _) in zip(where, self.dims, strict=True))
        start = code.bind("a", start + column)
        add = self._add_words if self.woven(isa) else self._add_taps
        add(code, isa, buffers, (start, column), (acc, tile))
        for i in range(tile):
            values = [acc.vload([i * self.terms + term]) for term in range(self.terms)]
            here = [where[0], where[1], where[2] + i]
            self._finish(code, isa, buffers, here, (column, ragged), values)

    def _add_taps(
        self, code: Code, isa: Isa, buffers: dict[str, Any], place: tuple[Any, Any], sums: tuple[Any, int]
    ) -> None:
        """Tap by tap: one widening multiply-add each."""
        (start, column), (acc, tile) = place, sums
        lanes, kind = isa.lanes, vector("int32", isa.lanes)
        padded = self._padded(isa)
        (rows, row_stride), (columns, column_stride) = self.taps
        for u in range(rows):
            for v in range(columns):
                weights = [
                    code.bind(
                        "w",
                        buffers["weights"].vload(
                            [(term * self.tap_count + u * columns + v) * padded + column], vector("int8", lanes)
                        ).astype(kind),
                    )
                    for term in range(self.terms)
                ]  # fmt: skip
                for i in range(tile):
                    offset = u * row_stride + v * column_stride + i * self.dims[2][1]
                    dtype = vector(self.activation_dtype, lanes)
                    x = code.bind("x", buffers["activations"].vload([start + offset], dtype).astype(kind))
                    for term in range(self.terms):
                        slot = i * self.terms + term
                        code.store(acc, slot, acc.vload([slot]) + x * weights[term])

    def _add_words(
        self, code: Code, isa: Isa, buffers: dict[str, Any], place: tuple[Any, Any], sums: tuple[Any, int]
    ) -> None:
        """Column by column of the inputs: up to four rows woven, then summed into every output that they touch."""
        (start, column), (acc, tile) = place, sums
        lanes, kind = isa.lanes, vector("int32", isa.lanes)
        padded, groups = self._padded(isa), self._groups
        (rows, row_stride), (columns, column_stride) = self.taps
        touched: dict[int, list[tuple[int, int]]] = {}
        for i in range(tile):
            for v in range(columns):
                touched.setdefault(v * column_stride + i * self.dims[2][1], []).append((i, v))
        for group in range(groups):
            for offset, outputs in sorted(touched.items()):
                words: Any = None
                for byte in range(min(_WORD, rows - group * _WORD)):
                    where = start + (group * _WORD + byte) * row_stride + offset
                    x = buffers["activations"].vload([where], vector("uint8", lanes)).astype(kind)
                    x = x << broadcast(tirx.const(8 * byte, "int32"), lanes) if byte else x
                    words = x if words is None else words | x
                words = code.bind("x", words)
                for i, v in outputs:
                    for term in range(self.terms):
                        index = ((term * groups + group) * columns + v) * padded + column
                        weights = buffers["weights"].vload([index * _WORD], vector("int8", lanes * _WORD))
                        slot = i * self.terms + term
                        code.store(acc, slot, dot_words(isa, acc.vload([slot]), words, weights))

    def _finish(
        self,
        code: Code,
        isa: Isa,
        buffers: dict[str, Any],
        where: list[Any],
        place: tuple[Any, int],
        values: list[Any],
    ) -> None:
        column, ragged = place
        lanes, padded = isa.lanes, self._padded(isa)
        target = self.out_offset + sum(c * s for c, (_, _, s) in zip(where, self.dims, strict=True)) + column
        if self.raw:
            store_lanes(code, buffers["out"], target, code.bind("r", sum(values[1:], values[0])), ragged)
            return
        total = None
        for term, value in enumerate(values):
            scale = buffers["scale"].vload([term * padded + column], vector("float32", lanes))
            part = code.bind("y", rounded(isa, value.astype(vector("float32", lanes)) * scale))
            total = part if total is None else code.bind("y", total + part)

        def load(index: int) -> Any:
            if index == 0:
                return total
            operand, buffer = self.operands[index - 1], buffers[f"operand{index - 1}"]
            offset = operand.offset + sum(c * s for c, s in zip(where, operand.rows, strict=True))
            if operand.column == 0:
                return broadcast(buffer.vload([offset]), lanes)
            return buffer.vload([offset + column], vector("float32", lanes))

        result = Evaluator(code, isa, load)(self.epilogue).astype(vector(self.out_dtype, lanes))
        store_lanes(code, buffers["out"], target, code.bind("r", result), ragged)
