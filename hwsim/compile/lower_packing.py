"""What the products with stored weights share: their operands during lowering, and the packing of weights."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwsim.compile.isa import Isa
from hwsim.compile.lower_attention import AttentionLowering
from hwsim.compile.lower_codes import Quantized
from hwsim.compile.pack import Packed, Term, pack_terms
from hwsim.compile.product import Product
from hwsim.compile.program import Buffer, constant
from hwsim.compile.values import View
from hwsim.errors import UserError


@dataclass(frozen=True)
class Geometry:
    """A convolution."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def corner(self, codes: View) -> int:
        """Where the window of the first output begins: inside the border."""
        _, _, high, wide = codes.strides
        return codes.offset - self.padding[0] * high - self.padding[1] * wide

    def reading(self, codes: View) -> dict[int, int]:
        """How far the window moves along the axes of the output: image, row, column."""
        image, _, high, wide = codes.strides
        return {0: image, 2: high * self.stride[0], 3: wide * self.stride[1]}


@dataclass(frozen=True)
class Accumulators:
    """int32 accumulators that a rescaling will read: stacked codes, column-sparse blocks, their input."""

    x: Quantized
    blocks: tuple[tuple[np.ndarray, np.ndarray | None], ...]
    shape: tuple[int, ...]
    conv: Geometry | None = None


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
        return pack_terms(terms, channels, taps, machine, machine.panel_vectors(rows), bits)

    def _machine(self, q: Quantized, run: int, taps: int = 1) -> Isa:
        return self.isa.wide() if q.wide else self.isa.dense(run, taps)

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

    def _emit_product(
        self,
        product: Product,
        x: Quantized,
        codes: View,
        packed: Packed,
        leaves: tuple[View, ...],
        destination: View,
        macs: int,
        row_terms: tuple[Buffer, ...] = (),
    ) -> None:
        """Write a product whose loops and epilogue are known; the rest follows from its codes and panels."""
        product = replace(
            product,
            packed_bits=packed.packed_bits,
            permuted=packed.permuted,
            activation_dtype=codes.buffer.dtype,
            activation_bits=4 if self.isa.device and x.bits <= 4 and not x.signed else 8,
            out_offset=destination.offset,
            out_dtype=destination.buffer.dtype,
            units=self.emitter.units,
        )
        product, leaves = self._permute_constants(product, leaves, packed)
        machine = product.machine(self.isa)
        constants = self._operands_of(packed, x.stored_zero, machine, not product.direct)
        operands = [codes.buffer, *constants, *row_terms, *(v.buffer for v in leaves), destination.buffer]
        self.emitter.step(product, operands, macs=macs)

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
