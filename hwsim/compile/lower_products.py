"""Handlers of the products with stored weights: int_linear, int_conv2d, rescale.

The terms of a layer become one product kernel; terms that read few input columns are gathered and multiplied
first, and join the epilogue of the main product.
"""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwsim.compile.depthwise import Depthwise
from hwsim.compile.emit import sink_of, source_of
from hwsim.compile.expr import Node, leaf, op
from hwsim.compile.isa import Isa
from hwsim.compile.lower_attention import AttentionLowering
from hwsim.compile.lower_codes import Quantized, epilogue_operands, result_type
from hwsim.compile.pack import Packed, pack_terms, storage_bits
from hwsim.compile.product import Product
from hwsim.compile.program import Buffer, constant
from hwsim.compile.values import Pending, View, collapse
from hwsim.compile.vector import Gather
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


class ProductLowering(AttentionLowering):
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

    def _array(self, node: Any) -> np.ndarray:
        array = self.values[node].tensor.detach().cpu().numpy()
        if array.dtype == np.int16:
            raise UserError(
                f"layer {self.emitter.layer}: weights of more than 8 bits have no kernel; use 8 or less"
            )
        return array

    def _hwsim_rescale_default(self, node: Any) -> Pending:
        acc, weight_scale, act_scale, rows, parts, bias, channels, _ = node.args
        accumulators: Accumulators = self.values[acc]
        scale = self._array(weight_scale) * np.float32(self._scalar(act_scale))
        everything = np.arange(channels, dtype=np.int64)
        table = None if rows is None else self._array(rows).astype(np.int64)
        terms: list[_Term] = []
        start = 0
        for block_codes, cols in accumulators.blocks:
            used = 0
            while used < block_codes.shape[0]:
                count = int(parts[len(terms)])
                places = everything if table is None else table[start : start + count]
                codes = block_codes[used : used + count]
                terms.append(_Term(codes, places, scale[start : start + count].astype(np.float32), cols))
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
        pending = self._draft(accumulators, main, shape)
        return Pending(shape, pending.order, pending.emit, tree, tuple(leaves))

    def _column_term(self, acc: Accumulators, term: "_Term", shape: tuple[int, ...]) -> View:
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
            dims = [(shape[0], (source.strides[0],)), (shape[2], (high * conv.stride[0],)),
                    (shape[3], (wide * conv.stride[1],))]  # fmt: skip
            offset = source.offset - conv.padding[0] * high - conv.padding[1] * wide
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

    def _draft(self, acc: Accumulators, terms: list["_Term"], shape: tuple[int, ...]) -> Pending:
        if acc.conv is None:
            return self._linear(acc, terms, shape)
        if acc.conv.groups > 1 and acc.conv.groups == acc.x.shape[1] and shape[1] == acc.x.shape[1]:
            return self._depthwise(acc, terms, shape)
        return self._convolution(acc, terms, shape)

    def _packed(
        self, terms: list["_Term"], channels: int, taps: int, machine: Isa, rows: int, bits: int | None = None
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

    def _linear(self, acc: Accumulators, terms: list["_Term"], shape: tuple[int, ...]) -> Pending:
        x, emitter, layer = acc.x, self.emitter, self.emitter.layer
        codes, machine = x.codes["rows"], self._machine(acc.x)
        rows = math.prod(shape[:-1])
        packed = self._packed(terms, shape[-1], 1, machine, rows)
        macs = rows * sum(t.codes.size for t in terms)

        def emit(node: Node, leaves: tuple[View, ...], destination: View) -> None:
            emitter.layer = layer
            leaves = emitter.fitted(leaves, len(shape) - 1)
            axes = [
                (shape[a], (codes.strides[a], destination.strides[a], *(v.strides[a] for v in leaves)))
                for a in range(len(shape) - 1)
            ]
            dims = collapse(axes) or [(1, (0,) * (2 + len(leaves)))]
            product = Product(
                tuple((n, s[0], s[1]) for n, s in dims), (), x.shape[-1], packed.sections, shape[-1],
                (codes.buffer.elements, destination.buffer.elements),
                packed_bits=packed.packed_bits, activation_dtype=codes.buffer.dtype,
                activation_offset=codes.offset, out_offset=destination.offset,
                out_dtype=result_type(destination), epilogue=node,
                operands=epilogue_operands(leaves, [(None, s[2:]) for _, s in dims], len(shape) - 1),
                parallel=emitter.parallel, permuted=packed.permuted,
            )  # fmt: skip
            product, leaves = self._permute_constants(product, leaves, packed)
            constants = self._operands_of(packed, x.stored_zero, machine, not product.direct)
            operands = [codes.buffer, *constants, *(v.buffer for v in leaves), destination.buffer]
            emitter.step(product, operands, macs=macs)

        return Pending(shape, tuple(range(len(shape))), emit, leaf(0))

    def _convolution(self, acc: Accumulators, terms: list["_Term"], shape: tuple[int, ...]) -> Pending:
        x, emitter, layer, conv = acc.x, self.emitter, self.emitter.layer, acc.conv
        assert conv is not None
        codes, machine = x.codes["conv"], self._machine(acc.x)
        image, _, high, wide = codes.strides
        channels, groups = shape[1] // conv.groups, conv.groups
        depth = x.shape[1] // groups
        joined = conv.dilation[1] == 1 and groups == 1  # a kernel row is one run of bytes, borders included
        pitch = wide if joined else depth
        split = [_group_terms(terms, g, channels, groups) for g in range(groups)]
        matrices = [[_taps_first(t, conv.kernel, depth, pitch, joined) for t in part] for part in split]
        taps = conv.kernel[0] if joined else conv.kernel[0] * conv.kernel[1]
        bits = max(storage_bits(t.codes) for t in terms)
        packs = [self._packed(part, channels, taps, machine, 2, bits) for part in matrices]
        packed = _join_groups(packs)
        run = conv.kernel[1] * pitch if joined else depth
        steps = [(conv.kernel[0], high * conv.dilation[0])]
        if not joined:
            steps.append((conv.kernel[1], wide * conv.dilation[1]))
        origin = codes.offset - conv.padding[0] * high - conv.padding[1] * wide
        macs = shape[0] * shape[2] * shape[3] * sum(t.codes.size for t in terms)

        def emit(node: Node, leaves: tuple[View, ...], destination: View) -> None:
            emitter.layer = layer
            leaves = emitter.fitted(leaves, 1)
            reading = {0: image, 2: high * conv.stride[0], 3: wide * conv.stride[1]}
            dims = collapse(
                [(shape[a], (s, destination.strides[a], *(v.strides[a] for v in leaves))) for a, s in reading.items()]
            ) or [(1, (0,) * (2 + len(leaves)))]  # fmt: skip
            jump = channels * destination.strides[1]
            batch = ((groups, depth, jump),) if groups > 1 else ()
            group_strides = tuple(channels * v.strides[1] for v in leaves)
            loops = [(group_strides, None)] if groups > 1 else []
            product = Product(
                tuple((n, s[0], s[1]) for n, s in dims), tuple(steps), run, packed.sections, channels,
                (codes.buffer.elements, destination.buffer.elements), batch=batch,
                packed_bits=packed.packed_bits, activation_dtype=codes.buffer.dtype,
                activation_offset=origin, out_offset=destination.offset,
                out_dtype=result_type(destination), epilogue=node,
                operands=epilogue_operands(leaves, [*loops, *((None, s[2:]) for _, s in dims)], 1),
                parallel=emitter.parallel, permuted=packed.permuted,
            )  # fmt: skip
            product, leaves = self._permute_constants(product, leaves, packed)
            constants = self._operands_of(packed, x.stored_zero, machine, not product.direct)
            operands = [codes.buffer, *constants, *(v.buffer for v in leaves), destination.buffer]
            emitter.step(product, operands, macs=macs)

        return Pending(shape, (0, 2, 3, 1), emit, leaf(0))

    def _depthwise(self, acc: Accumulators, terms: list["_Term"], shape: tuple[int, ...]) -> Pending:
        x, emitter, layer, conv = acc.x, self.emitter, self.emitter.layer, acc.conv
        assert conv is not None
        codes = x.codes["conv"]
        image, _, high, wide = codes.strides
        lanes, channels = self.isa.lanes, shape[1]
        padded = -(-channels // lanes) * lanes
        area = conv.kernel[0] * conv.kernel[1]
        weights = np.zeros((len(terms), area, padded), np.int8)
        scale = np.zeros((len(terms), padded), np.float32)
        for index, term in enumerate(terms):
            weights[index][:, term.rows] = term.codes.reshape(-1, area).T
            scale[index, term.rows] = term.scale
        initial = (-x.stored_zero * weights.sum(1, dtype=np.int64)).astype(np.int32)
        origin = codes.offset - conv.padding[0] * high - conv.padding[1] * wide
        macs = shape[0] * shape[2] * shape[3] * sum(t.codes.size for t in terms)

        def emit(node: Node, leaves: tuple[View, ...], destination: View) -> None:
            emitter.layer = layer
            leaves = emitter.fitted(leaves, 1)
            reading = {0: image, 2: high * conv.stride[0], 3: wide * conv.stride[1]}
            rows = [(None, tuple(v.strides[a] for v in leaves)) for a in reading]
            kernel = Depthwise(
                tuple((shape[a], s, destination.strides[a]) for a, s in reading.items()),
                ((conv.kernel[0], high * conv.dilation[0]), (conv.kernel[1], wide * conv.dilation[1])),
                len(terms), channels, (codes.buffer.elements, destination.buffer.elements),
                origin, destination.offset, codes.buffer.dtype, result_type(destination), node,
                epilogue_operands(leaves, rows, 1), emitter.parallel,
            )  # fmt: skip
            name = f"{layer}.{len(emitter.program.steps)}"
            constants = [constant(f"{name}.weights", weights), constant(f"{name}.initial", initial),
                         constant(f"{name}.scale", scale)]  # fmt: skip
            operands = [codes.buffer, *constants, *(v.buffer for v in leaves), destination.buffer]
            emitter.step(kernel, operands, macs=macs)

        return Pending(shape, (0, 2, 3, 1), emit, leaf(0))


@dataclass(frozen=True)
class _Term:
    """Codes of one part, their output channels and scales; ``cols`` where it reads few input columns."""

    codes: np.ndarray
    rows: np.ndarray
    scale: np.ndarray
    cols: np.ndarray | None


def _reshaped(shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """Row-major strides of (..., channels)."""
    strides = [1]
    for size in reversed(shape[1:-1]):
        strides.insert(0, strides[0] * size)
    return (*(s * channels for s in strides), 1) if len(shape) > 1 else (1,)


def _group_terms(terms: list[_Term], group: int, channels: int, groups: int) -> list[_Term]:
    """The rows of one group, all terms dense there, so that every group has the same sections."""
    if groups == 1:
        return terms
    result: list[_Term] = []
    for term in terms:
        mine = term.rows // channels == group
        codes = np.zeros((channels, *term.codes.shape[1:]), np.int8)
        scale = np.zeros(channels, np.float32)
        codes[term.rows[mine] % channels], scale[term.rows[mine] % channels] = (
            term.codes[mine],
            term.scale[mine],
        )
        result.append(_Term(codes, np.arange(channels), scale, None))
    return result


def _taps_first(term: _Term, kernel: tuple[int, int], depth: int, pitch: int, joined: bool) -> _Term:
    """Codes (rows, depth, kh, kw) as (rows, taps * run), channels fastest, padded to the pitch of a pixel."""
    codes = term.codes.reshape(term.codes.shape[0], depth, *kernel).transpose(0, 2, 3, 1)
    if joined and pitch != depth:
        codes = np.pad(codes, ((0, 0), (0, 0), (0, 0), (0, pitch - depth)))
    return replace(term, codes=np.ascontiguousarray(codes).reshape(codes.shape[0], -1))


def _join_groups(packs: list[Packed]) -> Packed:
    """Panels of all groups, one after another."""
    if len(packs) == 1:
        return packs[0]
    first = packs[0]
    return replace(
        first,
        weights=np.concatenate([p.weights for p in packs]),
        column_sums=np.concatenate([p.column_sums for p in packs]),
        scales=np.concatenate([p.scales for p in packs]),
    )
