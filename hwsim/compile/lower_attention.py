"""Products of two activations: pack the right operand, then the same kernel as for stored weights.

A left operand of log codes becomes planes of powers of two first; the kernel has an accumulator for each plane.
"""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.compile.expr import Node, leaf
from hwsim.compile.loops import epilogue_operands, loops_over, own_strides
from hwsim.compile.lower_codes import CodesLowering, LogQuantized, Quantized
from hwsim.compile.operand import PackRight, RowTerms
from hwsim.compile.panels import sections_for
from hwsim.compile.powers import PowerPlanes
from hwsim.compile.product import Product
from hwsim.compile.program import Buffer, constant
from hwsim.compile.values import Pending, View, collapse
from hwsim.errors import UserError
from quant.log_codes import factors


@dataclass(frozen=True)
class PairAccumulators:
    """int32 accumulators of a product of two activations."""

    left: Quantized
    right: Quantized
    shape: Any


class AttentionLowering(CodesLowering):
    """Mixin of `Lowering`."""

    def _hwsim_int_matmul_default(self, node: Any) -> PairAccumulators:
        left, _, right, _ = node.args
        return PairAccumulators(self.values[left], self.values[right], tuple(node.meta["val"].shape))

    def _hwsim_int_log_matmul_default(self, node: Any) -> PairAccumulators:
        left, right, _, _, _ = node.args
        return PairAccumulators(self.values[left], self.values[right], tuple(node.meta["val"].shape[1:]))

    def _hwsim_dequantize_default(self, node: Any) -> Pending:
        pair: PairAccumulators = self.values[node.args[0]]
        return self._pair(node, pair, pair.left.codes["left"], (1.0,))

    def _hwsim_log_dequantize_default(self, node: Any) -> Pending:
        """Codes to planes, one accumulator for each."""
        pair: PairAccumulators = self.values[node.args[0]]
        left, codes = pair.left, pair.left.codes["left"]
        assert isinstance(left, LogQuantized)
        kernel = PowerPlanes(codes.buffer.elements, left.levels, left.steps, self.emitter.parallel)
        planes = self.emitter.work(kernel.planes * kernel.elements, "uint8")
        self.emitter.step(kernel, [codes.buffer, planes])
        view = View(planes, codes.offset, codes.shape, codes.strides)
        return self._pair(node, pair, view, factors(left.levels, left.steps))

    def _pair(self, node: Any, pair: PairAccumulators, left: View, planes: Sequence[float]) -> Pending:
        """The product; ``planes`` says what the accumulator of each plane of ``left`` counts."""
        scale = np.float32(self._scalar(node.args[1])) * np.float32(self._scalar(node.args[2]))
        emitter, layer, shape, isa = self.emitter, self.emitter.layer, pair.shape, self.isa
        right, count = pair.right.codes["right"], len(planes)
        wide = pair.left.wide or pair.right.wide
        depth, columns = pair.left.shape[-1], shape[-1]
        batch = math.prod(shape[:-2])
        if pair.left.shape[:-2] != shape[:-2] or pair.right.shape[:-2] != shape[:-2]:
            raise UserError(f"layer {layer}: a broadcast product of two activations has no kernel")
        zero = pair.right.stored_zero - (0 if pair.right.wide else 128)
        reader = isa.wide() if wide else isa.dense(depth, planes=count)
        sections = sections_for(columns, isa.lanes, reader.tile_vectors)
        packing = PackRight(
            batch, columns, depth, sections, right.buffer.elements,
            right.strides[-3] if len(shape) > 2 else right.buffer.elements,
            (right.strides[-1], right.strides[-2]), emitter.parallel, count, wide, right.buffer.dtype,
        )  # fmt: skip
        sizes = [elements for _, elements, _ in packing.arguments(isa)]
        initial, panels = emitter.work(sizes[2], "int32"), emitter.work(sizes[3], packing.panel_dtype)
        zeros = np.array([pair.left.stored_zero, -zero], np.int32)
        settings = constant(f"{layer}.{len(emitter.program.steps)}.zeros", zeros)
        emitter.step(packing, [right.buffer, settings, initial, panels], (2, 3))
        row_terms: list[Buffer] = []
        if zero:
            rows = count * batch * shape[-2]
            sums = RowTerms(rows, depth, left.strides[-2], left.buffer.elements, left.buffer.dtype)
            row_terms.append(emitter.work(rows, "int32"))
            emitter.step(sums, [left.buffer, settings, row_terms[0]])

        def emit(node: Node, leaves: tuple[View, ...], destination: View) -> None:
            emitter.layer = layer
            leaves = emitter.fitted(leaves, len(shape) - 1)
            *outer, row = loops_over(shape, dict(enumerate(left.strides[:-1])), destination, leaves)
            loops = collapse(outer)
            product = Product(
                own_strides([row]), (), depth, packing.sections, columns,
                (left.buffer.elements, destination.buffer.elements), batch=own_strides(loops),
                activation_dtype=left.buffer.dtype, wide_weights=pair.right.wide, activation_offset=left.offset,
                out_offset=destination.offset, out_dtype=destination.buffer.dtype, epilogue=node,
                operands=epilogue_operands(leaves, len(shape) - 1, [row], loops), row_terms=bool(zero),
                vectorized_scale=False, units=emitter.units, planes=(count, left.buffer.elements // count),
            )  # fmt: skip
            name = f"{layer}.{len(emitter.program.steps)}.scale"
            values = scale * np.array(planes, np.float32)
            scales = constant(name, np.repeat(values, isa.lanes))
            buffers = [left.buffer, panels, initial, scales, *row_terms]
            operands = [*buffers, *(v.buffer for v in leaves), destination.buffer]
            emitter.step(product, operands, macs=math.prod(shape) * depth)

        return Pending(shape, tuple(range(len(shape))), emit, leaf(0))
