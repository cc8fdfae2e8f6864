"""Handlers of the products with stored weights: int_linear, int_conv2d, rescale.

The terms of a layer become one product kernel; terms that read few input columns are gathered and multiplied
first, and join the epilogue of the main product.
"""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from dataclasses import replace
from typing import Any

import numpy as np

from hwsim.compile.emit import sink_of, source_of
from hwsim.compile.expr import Node, leaf, op
from hwsim.compile.loops import epilogue_operands, own_strides, row_loops
from hwsim.compile.lower_conv import ConvolutionLowering
from hwsim.compile.lower_packing import Accumulators, Geometry
from hwsim.compile.lower_serial import SerialLowering
from hwsim.compile.lower_terms import TermLowering
from hwsim.compile.pack import Term
from hwsim.compile.product import Product
from hwsim.compile.program import constant
from hwsim.compile.values import Lazy, Pending, View, collapse
from hwsim.compile.vector import Gather


class ProductLowering(ConvolutionLowering, SerialLowering, TermLowering):
    """Mixin of `Lowering`."""

    def _hwsim_int_linear_default(self, node: Any) -> Accumulators:
        q, _, codes, cols = node.args
        block = (self._array(codes), None if cols is None else self._array(cols))
        return Accumulators(self.values[q], (block,), tuple(node.meta["val"].shape))

    def _hwsim_int_conv2d_default(self, node: Any) -> Accumulators:
        q, _, codes, kernel, stride, padding, dilation, groups = node.args[:8]
        cols = node.args[10]
        pairs = [(int(pair[0]), int(pair[1])) for pair in (kernel, stride, padding, dilation)]
        block = (self._array(codes), None if cols is None else self._array(cols))
        geometry = Geometry(pairs[0], pairs[1], pairs[2], pairs[3], int(groups))
        return Accumulators(self.values[q], (block,), tuple(node.meta["val"].shape), geometry)

    def _join_accumulators(self, parts: list[Accumulators]) -> Accumulators:
        return replace(parts[0], blocks=tuple(block for part in parts for block in part.blocks))

    def _hwsim_rescale_default(self, node: Any) -> Pending | Lazy:
        acc, weight_scale, act_scale, rows, parts, bias, channels, _ = node.args
        accumulators: Accumulators = self.values[acc]
        scale = self._array(weight_scale) * np.float32(self._scalar(act_scale))
        everything = np.arange(channels, dtype=np.int64)
        table = None if rows is None else self._array(rows).astype(np.int64)
        terms: list[Term] = []
        start = 0
        for block_codes, cols in accumulators.blocks:
            used = 0
            while used < block_codes.shape[0]:
                count = int(parts[len(terms)])
                places = everything if table is None else table[start : start + count]
                codes = block_codes[used : used + count]
                terms.append(Term(codes, places, scale[start : start + count].astype(np.float32), cols))
                start, used = start + count, used + count
        shape = tuple(node.meta["val"].shape)
        leaves: list[View] = []
        tree = leaf(0)
        for term in (t for t in terms if t.cols is not None):
            leaves.append(self._column_term(accumulators, term, shape))
            tree = op("add", tree, leaf(len(leaves)))
        if bias is not None:
            view = self.stored(bias)
            axis = 1 if accumulators.conv is not None else len(shape) - 1
            strides = tuple(1 if a == axis else 0 for a in range(len(shape)))
            leaves.append(View(view.buffer, view.offset, shape, strides))
            tree = op("add", tree, leaf(len(leaves)))
        main = [t for t in terms if t.cols is None]
        if self.emitter.by_terms and len(main) > 1 and accumulators.conv is None:
            return self._by_terms(replace(accumulators, shape=shape), main, tree, leaves)
        pending = self._draft(accumulators, main, shape)
        return Pending(shape, pending.order, pending.emit, tree, tuple(leaves))

    def _column_term(self, acc: Accumulators, term: Term, shape: tuple[int, ...]) -> View:
        """A term that reads few input columns: gather them once, then a small dense product."""
        x, cols = acc.x, term.cols
        assert cols is not None
        gathered = -(-len(cols) // 4) * 4
        if acc.conv is None:
            source = x.codes["rows"]
            dims = collapse([(n, (s,)) for n, s in zip(x.shape[:-1], source.strides[:-1], strict=True)])
            offset, table = source.offset, cols.astype(np.int32)
        else:
            source, conv = x.codes["conv"], acc.conv
            _, _, high, wide = source.strides
            dims = [(shape[axis], (stride,)) for axis, stride in conv.reading(source).items()]
            offset = conv.corner(source)
            area = conv.kernel[0] * conv.kernel[1]
            u, v = (cols % area) // conv.kernel[1], cols % conv.kernel[1]
            table = (cols // area + u * conv.dilation[0] * high + v * conv.dilation[1] * wide).astype(
                np.int32
            )
        rows = math.prod(n for n, _ in dims)
        target = View(
            self.emitter.work(rows * gathered, source.buffer.dtype), 0, (rows, len(cols)), (gathered, 1)
        )
        indices = constant(f"{self.emitter.layer}.cols.{len(self.emitter.program.steps)}", table)
        out = [0] * len(dims)
        step = gathered
        for index in reversed(range(len(dims))):
            out[index], step = step, step * dims[index][0]
        kernel = Gather(
            tuple(n for n, _ in dims), len(cols), False, 0,
            (source_of(View(source.buffer, offset, (), ()), [s[0] for _, s in dims], 1),
             source_of(View(indices, 0, (), ()), (), 1)),
            sink_of(target, out, 1),
        )  # fmt: skip
        self.emitter.step(kernel, [source.buffer, indices, target.buffer])
        flat = replace(x, shape=(rows, len(cols)), codes={"rows": target})
        channels = shape[-1] if acc.conv is None else shape[1]
        inner = Accumulators(flat, (), (rows, channels))
        dense = self.emitter.view(self._draft(inner, [replace(term, cols=None)], (rows, channels)))
        if acc.conv is None:
            return View(dense.buffer, 0, shape, _reshaped(shape, channels))
        pixels = shape[2] * shape[3]
        return View(dense.buffer, 0, shape, (pixels * channels, 1, shape[3] * channels, channels))

    def _draft(self, acc: Accumulators, terms: list[Term], shape: tuple[int, ...]) -> Pending:
        if acc.conv is None:
            return self._linear(acc, terms, shape)
        if acc.conv.groups > 1 and acc.conv.groups == acc.x.shape[1] and shape[1] == acc.x.shape[1]:
            return self._depthwise(acc, terms, shape)
        return self._convolution(acc, terms, shape)

    def _linear(self, acc: Accumulators, terms: list[Term], shape: tuple[int, ...]) -> Pending:
        planes = self._weight_planes(acc.x, terms)
        if planes:
            return self._serial_linear(acc, terms, shape, planes)
        x, emitter, layer = acc.x, self.emitter, self.emitter.layer
        codes, machine = x.codes["rows"], self._machine(x, x.shape[-1])
        rows = math.prod(shape[:-1])
        packed = self._packed(terms, shape[-1], 1, machine, rows)
        macs = rows * sum(t.codes.size for t in terms)

        def emit(node: Node, leaves: tuple[View, ...], destination: View) -> None:
            emitter.layer = layer
            leaves = emitter.fitted(leaves, len(shape) - 1)
            reading = dict(enumerate(codes.strides[: len(shape) - 1]))
            dims = row_loops(shape, reading, destination, leaves)
            product = Product(
                own_strides(dims), (), x.shape[-1], packed.sections, shape[-1],
                (codes.buffer.elements, destination.buffer.elements), activation_offset=codes.offset,
                epilogue=node, operands=epilogue_operands(leaves, len(shape) - 1, dims),
            )  # fmt: skip
            self._emit_product(product, x, codes, packed, leaves, destination, macs)

        return Pending(shape, tuple(range(len(shape))), emit, leaf(0))


def _reshaped(shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """Row-major strides of (..., channels)."""
    strides = [1]
    for size in reversed(shape[1:-1]):
        strides.insert(0, strides[0] * size)
    return (*(s * channels for s in strides), 1) if len(shape) > 1 else (1,)
