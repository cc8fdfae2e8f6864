"""What the products with stored weights share: their operands during lowering, and the packing of weights."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwsim.compile.isa import Isa
from hwsim.compile.lower_attention import AttentionLowering
from hwsim.compile.lower_codes import Quantized
from hwsim.compile.pack import Packed, pack_terms
from hwsim.compile.product import Product
from hwsim.compile.program import Buffer, constant
from hwsim.compile.values import View
from hwsim.errors import UserError

_TILE_ONE_ROW = 8  # vectors of a panel when there is a single row: many columns hide the latency


@dataclass(frozen=True)
class Geometry:
    """A convolution."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Accumulators:
    """int32 accumulators that a rescaling will read: stacked codes, column-sparse blocks, their input."""

    x: Quantized
    blocks: tuple[tuple[np.ndarray, np.ndarray | None], ...]
    shape: tuple[int, ...]
    conv: Geometry | None = None


@dataclass(frozen=True)
class Term:
    """Codes of one part, their output channels and scales; ``cols`` where it reads few input columns."""

    codes: np.ndarray
    rows: np.ndarray
    scale: np.ndarray
    cols: np.ndarray | None


class PackingLowering(AttentionLowering):
    """Mixin of `Lowering`."""

    def _array(self, node: Any) -> np.ndarray:
        array = self.values[node].tensor.detach().cpu().numpy()
        if array.dtype == np.int16:
            raise UserError(
                f"layer {self.emitter.layer}: weights of more than 8 bits have no kernel; use 8 or less"
            )
        return array

    def _packed(
        self, terms: list[Term], channels: int, taps: int, machine: Isa, rows: int, bits: int | None = None
    ) -> Packed:
        vectors = machine.tile_vectors if rows > 1 else max(machine.tile_vectors, _TILE_ONE_ROW)
        return pack_terms(
            [t.codes.reshape(t.codes.shape[0], -1) for t in terms],
            [t.rows for t in terms], [t.scale for t in terms], channels, taps, machine, vectors, bits,
        )  # fmt: skip

    def _machine(self, q: Quantized) -> Isa:
        return self.isa.wide() if q.wide else self.isa

    def _permute_constants(
        self, product: Product, leaves: tuple[View, ...], packed: Packed
    ) -> tuple[Product, tuple[View, ...]]:
        """Constants with one value a channel (the bias) in packed order, so that they load as vectors."""
        if not packed.permuted:
            return product, leaves
        operands, views = list(product.operands), list(leaves)
        for index, (operand, view) in enumerate(zip(product.operands, leaves, strict=True)):
            still = operand.column == 1 and not any((*operand.rows, *operand.batch))
            if still and view.buffer.data is not None:
                values = view.buffer.data[operand.offset :][packed.table]
                name = f"{self.emitter.layer}.{len(self.emitter.program.steps)}.packed{index}"
                views[index] = View(constant(name, values), 0, (), ())
                operands[index] = replace(operand, elements=values.size, offset=0, packed=True)
        return replace(product, operands=tuple(operands)), tuple(views)

    def _operands_of(self, packed: Packed, zero_point: int, machine: Isa, table: bool) -> list[Buffer]:
        layer = f"{self.emitter.layer}.{len(self.emitter.program.steps)}"
        buffers = [
            constant(f"{layer}.weights", packed.weights),
            constant(f"{layer}.initial", packed.initial(zero_point, machine)),
            constant(f"{layer}.scale", packed.scales),
        ]
        if table:
            buffers.append(constant(f"{layer}.table", packed.table))
        if packed.lanes is not None and packed.later_scale is not None:
            buffers.append(constant(f"{layer}.lanes", packed.lanes))
            buffers.append(constant(f"{layer}.later_scale", packed.later_scale))
        return buffers
