"""Handlers of the products a plan leaves in float: the same tiles as the integer kernel, in float32."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from typing import Any

import numpy as np

from hwsim.compile.expr import Node, const, leaf, op
from hwsim.compile.loops import epilogue_operands, group_loops, loops_over, own_strides, row_loops
from hwsim.compile.lower_part import LoweringPart
from hwsim.compile.pack import pack_float
from hwsim.compile.panels import Section, sections_for
from hwsim.compile.product import Product
from hwsim.compile.program import constant
from hwsim.compile.values import Const, Pending, View, collapse, row_major
from hwsim.errors import UserError


class FloatLowering(LoweringPart):
    """Mixin of `Lowering`."""

    def _weight(self, node: Any) -> np.ndarray:
        value = self.values[node]
        if not isinstance(value, Const):
            raise UserError(f"layer {self.emitter.layer}: a computed weight has no kernel")
        return value.tensor.detach().float().numpy()

    def _with_bias(self, pending: Pending, bias: Any, axis: int) -> Pending:
        if bias is None:
            return pending
        view = self.stored(bias)
        strides = tuple(1 if a == axis else 0 for a in range(len(pending.shape)))
        leaves = (View(view.buffer, view.offset, pending.shape, strides),)
        return Pending(pending.shape, pending.order, pending.emit, op("add", leaf(0), leaf(1)), leaves)

    def _aten_linear_default(self, node: Any) -> Pending:
        arguments = [*node.args, None, None][:3]
        x, shape = self.stored(arguments[0]), tuple(node.meta["val"].shape)
        if x.strides[-1] != 1 and x.shape[-1] > 1:
            x = self.emitter.stored_in_order(x, tuple(range(len(x.shape))))
        weight = self._weight(arguments[1])
        emitter, layer, isa = self.emitter, self.emitter.layer, self.emitter.isa.floating()
        sections = sections_for(shape[-1], isa.lanes, isa.tile_vectors)
        packed = pack_float(weight, 1, isa, sections)
        macs = math.prod(shape) * weight.shape[1]

        def emit(tree: Node, leaves: tuple[View, ...], destination: View) -> None:
            emitter.layer = layer
            leaves = emitter.fitted(leaves, len(shape) - 1)
            dims = row_loops(shape, dict(enumerate(x.strides[:-1])), destination, leaves)
            product = Product(
                own_strides(dims), (), x.shape[-1], sections, shape[-1],
                (x.buffer.elements, destination.buffer.elements), activation_dtype="float32",
                activation_offset=x.offset, out_offset=destination.offset,
                out_dtype=destination.buffer.dtype, epilogue=tree,
                operands=epilogue_operands(leaves, len(shape) - 1, dims), units=emitter.units,
            )  # fmt: skip
            weights = constant(f"{layer}.{len(emitter.program.steps)}.weights", packed)
            emitter.step(
                product, [x.buffer, weights, *(v.buffer for v in leaves), destination.buffer], macs=macs
            )

        pending = Pending(shape, tuple(range(len(shape))), emit, leaf(0))
        return self._with_bias(pending, arguments[2], len(shape) - 1)

    def _aten_conv2d_default(self, node: Any) -> Pending:
        given = [*node.args, *[None] * 7][:7]
        stride, padding, dilation = (_pair(given[3 + i], default) for i, default in enumerate((1, 0, 1)))
        groups, shape = int(given[6] or 1), tuple(node.meta["val"].shape)
        weight = self._weight(given[1])
        x = self._padded(given[0], padding)
        emitter, layer, isa = self.emitter, self.emitter.layer, self.emitter.isa.floating()
        channels, depth, kernel = shape[1] // groups, weight.shape[1], weight.shape[2:]
        sections = sections_for(channels, isa.lanes, isa.tile_vectors)
        taps_first = weight.transpose(0, 2, 3, 1).reshape(groups, channels, -1)
        packed = np.concatenate([pack_float(m, kernel[0] * kernel[1], isa, sections) for m in taps_first])
        image, _, high, wide = x.strides
        macs = math.prod(shape) * weight[0].size

        def emit(tree: Node, leaves: tuple[View, ...], destination: View) -> None:
            emitter.layer = layer
            leaves = emitter.fitted(leaves, 1)
            reading = {0: image, 2: high * stride[0], 3: wide * stride[1]}
            dims = row_loops(shape, reading, destination, leaves)
            batch = group_loops(groups, channels, depth, destination, leaves)
            product = Product(
                own_strides(dims),
                ((kernel[0], high * dilation[0]), (kernel[1], wide * dilation[1])), depth, sections, channels,
                (x.buffer.elements, destination.buffer.elements), batch=own_strides(batch), activation_dtype="float32",
                activation_offset=x.offset, out_offset=destination.offset,
                out_dtype=destination.buffer.dtype, epilogue=tree,
                operands=epilogue_operands(leaves, 1, dims, batch), units=emitter.units,
            )  # fmt: skip
            weights = constant(f"{layer}.{len(emitter.program.steps)}.weights", packed)
            emitter.step(
                product, [x.buffer, weights, *(v.buffer for v in leaves), destination.buffer], macs=macs
            )

        return self._with_bias(Pending(shape, (0, 2, 3, 1), emit, leaf(0)), given[2], 1)

    def _padded(self, node: Any, padding: tuple[int, int]) -> View:
        """The input channels-last with its border of zeros; the view begins at the border's corner."""
        value = self.stored(node)
        images, channels, height, width = value.shape
        high, wide = height + 2 * padding[0], width + 2 * padding[1]
        strides = (high * wide * channels, 1, wide * channels, channels)
        if not any(padding) and value.strides == strides:
            return value
        buffer = self.emitter.work(images * strides[0])
        if any(padding):
            self.emitter.elementwise(const(0.0), (), View(buffer, 0, (buffer.elements,), (1,)))
        inside = padding[0] * strides[2] + padding[1] * strides[3]
        self.emitter.into(value, View(buffer, inside, value.shape, strides))
        return View(buffer, 0, (images, channels, high, wide), strides)

    def _aten_matmul_default(self, node: Any) -> Pending:
        left, right = self.stored(node.args[0]), self.stored(node.args[1])
        shape = tuple(node.meta["val"].shape)
        emitter, layer, isa = self.emitter, self.emitter.layer, self.emitter.isa.floating()
        if left.shape[:-2] != shape[:-2] or right.shape[:-2] != shape[:-2]:
            raise UserError(f"layer {layer}: a broadcast product of two activations has no kernel")
        if left.strides[-1] != 1 and left.shape[-1] > 1:
            left = emitter.stored_in_order(left, tuple(range(len(shape))))
        depth, columns, batch = left.shape[-1], shape[-1], math.prod(shape[:-2])
        sections = sections_for(columns, isa.lanes, isa.tile_vectors)
        panels = emitter.work(batch * sum(s.panels * s.vectors for s in sections) * isa.lanes * depth)
        self._pack_right(right, sections, panels)

        def emit(tree: Node, leaves: tuple[View, ...], destination: View) -> None:
            emitter.layer = layer
            leaves = emitter.fitted(leaves, len(shape) - 1)
            *outer, row = loops_over(shape, dict(enumerate(left.strides[:-1])), destination, leaves)
            loops = collapse(outer)
            product = Product(
                own_strides([row]), (), depth, sections, columns,
                (left.buffer.elements, destination.buffer.elements),
                batch=own_strides(loops), activation_dtype="float32",
                activation_offset=left.offset, out_offset=destination.offset,
                out_dtype=destination.buffer.dtype, epilogue=tree,
                operands=epilogue_operands(leaves, len(shape) - 1, [row], loops), units=emitter.units,
            )  # fmt: skip
            buffers = [left.buffer, panels, *(v.buffer for v in leaves), destination.buffer]
            emitter.step(product, buffers, macs=math.prod(shape) * depth)

        return Pending(shape, tuple(range(len(shape))), emit, leaf(0))

    def _aten_bmm_default(self, node: Any) -> Pending:
        return self._aten_matmul_default(node)

    def _aten_mm_default(self, node: Any) -> Pending:
        return self._aten_matmul_default(node)

    def _pack_right(self, right: View, sections: tuple[Section, ...], panels: Any) -> None:
        """Copy (..., K, N) into panels: [batch][panel][k][vector * lane], section by section."""
        lanes, (depth, columns) = self.emitter.isa.lanes, right.shape[-2:]
        slots = sum(s.panels * s.vectors for s in sections)
        lead = right.shape[:-2]
        outer = tuple(s * slots * lanes * depth for s in row_major(lead)) if lead else ()
        first = 0
        for section in sections:
            width = section.vectors * lanes
            valid = min(width, columns - first * lanes) if section.panels == 1 else width
            shape = (*lead, section.panels, depth, valid)
            source = View(
                right.buffer, right.offset + first * lanes * right.strides[-1], shape,
                (*right.strides[:-2], width * right.strides[-1], right.strides[-2], right.strides[-1]),
            )  # fmt: skip
            target = View(panels, first * lanes * depth, shape, (*outer, width * depth, width, 1))
            self.emitter.into(source, target)
            first += section.panels * section.vectors


def _pair(value: Any, default: int) -> tuple[int, int]:
    if value is None:
        return (default, default)
    values = list(value) if isinstance(value, list | tuple) else [value]
    return (int(values[0]), int(values[-1]))
