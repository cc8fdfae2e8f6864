"""Handlers of the quantized products: quantize, int_linear, int_conv2d, int_matmul, rescale, dequantize.

Codes live in memory as unsigned bytes (signed codes are shifted by 128, and so is their zero point, which
changes no product). Their layout follows the reader: rows with a pitch for a linear layer, channels-last with
a border for a convolution, panels for the right operand of a product of two activations.
"""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import fx

from hwsim.compile.depthwise import Depthwise
from hwsim.compile.emit import Emitter, sink_of, source_of
from hwsim.compile.expr import Node, leaf, op, quantize
from hwsim.compile.isa import Isa
from hwsim.compile.operand import PackRight, RowTerms
from hwsim.compile.pack import Packed, pack_terms, storage_bits
from hwsim.compile.product import Operand, Product, sections_for
from hwsim.compile.program import Buffer, constant
from hwsim.compile.values import Pending, Value, View, collapse, normal
from hwsim.compile.vector import Gather
from hwsim.errors import UserError

_TILE_ONE_ROW = 8  # vectors of a panel when there is a single row: many columns hide the latency


@dataclass
class Quantized:
    """A quantized activation: the float value it comes from and, by layout, its codes in memory."""

    source: fx.Node
    scale: float
    zero_point: int
    bits: int
    signed: bool
    shape: tuple[int, ...]
    codes: dict[str, View] = field(default_factory=dict)

    @property
    def wide(self) -> bool:
        """More than 8 bits: codes are kept as int32."""
        return self.bits > 8

    @property
    def shift(self) -> int:
        """What is added to signed codes to store them unsigned."""
        return 128 if self.signed and not self.wide else 0

    @property
    def stored_zero(self) -> int:
        """Zero point of the codes as they are stored."""
        return self.zero_point + self.shift

    def tree(self, x: Node, leaves: tuple[View, ...], name: str) -> tuple[Node, tuple[View, ...]]:
        """The quantizer over ``x``; its scale and zero point join the leaves."""
        low, high = 0, 2**self.bits - 1
        if self.signed:
            high = 2 ** (self.bits - 1) - 1
            low = -high
        settings = constant(name, np.array([self.scale, self.stored_zero], np.float32))
        still = (0,) * len(self.shape)
        added = tuple(View(settings, offset, self.shape, still) for offset in range(2))
        scale, zero = leaf(len(leaves) + 1), leaf(len(leaves) + 2)
        tree = quantize(x, scale, zero, low + self.shift, high + self.shift)
        return tree, (*leaves, *added)


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
class PairAccumulators:
    """int32 accumulators of a product of two activations."""

    left: Quantized
    right: Quantized
    shape: tuple[int, ...]


class ProductLowering:
    """Mixin of `Lowering`."""

    emitter: Emitter
    values: dict[fx.Node, Any]
    stored: Callable[[fx.Node], View]
    _quantizers: int = 0

    @property
    def isa(self) -> Isa:
        """The machine."""
        return self.emitter.isa

    def _scalar(self, node: Any) -> float:
        tensor = getattr(self.values.get(node), "tensor", None)
        if tensor is None or tensor.numel() != 1:
            raise UserError(
                f"layer {self.emitter.layer}: activations quantized per token at run time have no kernel; "
                "use static activation quantizers (calibrated ranges)"
            )
        return tensor.item()

    def _hwsim_dynamic_range_default(self, node: fx.Node) -> tuple[None, None]:
        return (None, None)

    def _hwsim_quantize_default(self, node: fx.Node) -> Quantized:
        x, scale, zero_point, bits, signed = node.args
        shape = tuple(node.meta["val"].shape)
        made = Quantized(x, self._scalar(scale), int(self._scalar(zero_point)), bits, signed, shape)  # type: ignore[arg-type]
        kinds = {(_layout(user, node)) for user in node.users}
        conv = [user for user in node.users if _layout(user, node) == "conv"]
        padding = tuple(max((user.args[5][i] for user in conv), default=0) for i in range(2))  # type: ignore[index]
        fused = len(kinds) == 1 and len(x.users) == 1  # type: ignore[union-attr]
        if not fused:
            self.stored(x)  # type: ignore[arg-type]
        for kind in sorted(kinds):
            if kind == "right" and made.wide:
                raise UserError(
                    f"layer {self.emitter.layer}: a right operand of {bits} bits has no kernel; use 8"
                )
            made.codes[kind] = self._write_codes(made, kind, padding)
        return made

    def _write_codes(self, q: Quantized, kind: str, padding: tuple[int, ...]) -> View:
        """Codes in the layout that ``kind`` reads."""
        value, shape, dtype = self.values[q.source], q.shape, "int32" if q.wide else "uint8"
        if kind == "conv":
            images, channels, height, width = shape
            pitch = -(-channels // 4) * 4
            high, wide = height + 2 * padding[0], width + 2 * padding[1]
            strides = (high * wide * pitch, 1, wide * pitch, pitch)
            offset = padding[0] * strides[2] + padding[1] * strides[3]
            buffer = self.emitter.work(images * strides[0], dtype)
            if any(padding):
                self.emitter.fill(buffer, q.stored_zero)
        else:
            axes = list(range(len(shape)))
            if kind == "right" and not self._last_fast(value):
                axes[-1], axes[-2] = axes[-2], axes[-1]
            pitch = -(-shape[axes[-1]] // 4) * 4
            # The packing kernel reads whole vectors of columns: round the column axis up.
            rows = (
                shape[axes[-2]] if kind != "right" else -(-shape[axes[-2]] // self.isa.lanes) * self.isa.lanes
            )
            strides_list = [0] * len(shape)
            strides_list[axes[-1]] = 1
            strides_list[axes[-2]] = step = pitch
            step *= rows
            for axis in reversed(axes[:-2]):
                strides_list[axis] = step
                step *= shape[axis]
            strides, offset = tuple(strides_list), 0
            buffer = self.emitter.work(max(step, 1), dtype)
        destination = View(buffer, offset, shape, strides)
        self._into_codes(q, value, destination)
        return destination

    def _last_fast(self, value: Value) -> bool:
        """Whether the source of a right operand (..., K, N) has N contiguous."""
        if isinstance(value, Pending):
            return value.order[-1] == len(value.shape) - 1
        leaves = getattr(value, "leaves", None) or (value,)
        return isinstance(leaves[0], View) and leaves[0].strides[-1] == 1

    def _into_codes(self, q: Quantized, value: Value, destination: View) -> None:
        if isinstance(value, Pending) and destination.strides[value.order[-1]] != 1:
            value = self.emitter.view(value)
        self._quantizers += 1
        name = f"quantizer{self._quantizers}.{self.emitter.layer}"
        if isinstance(value, Pending):
            value.emit(*q.tree(value.node, value.leaves, name), destination)
            return
        lazy = self.emitter.lazy(value)
        leaves = tuple(view.broadcast(q.shape) for view in lazy.leaves)
        self.emitter.elementwise(*q.tree(lazy.node, leaves, name), destination)

    def _hwsim_int_linear_default(self, node: fx.Node) -> Accumulators:
        q, _, codes, cols = node.args
        block = (self._array(codes), None if cols is None else self._array(cols))
        return Accumulators(self.values[q], (block,), tuple(node.meta["val"].shape))  # type: ignore[index]

    def _hwsim_int_conv2d_default(self, node: fx.Node) -> Accumulators:
        q, _, codes, kernel, stride, padding, dilation, groups = node.args[:8]
        cols = node.args[10]
        pairs = [tuple(int(v) for v in pair) for pair in (kernel, stride, padding, dilation)]  # type: ignore[union-attr]
        block = (self._array(codes), None if cols is None else self._array(cols))
        geometry = Geometry(*pairs, int(groups))  # type: ignore[arg-type]
        return Accumulators(self.values[q], (block,), tuple(node.meta["val"].shape), geometry)  # type: ignore[index]

    def _join_accumulators(self, parts: list[Accumulators]) -> Accumulators:
        return replace(parts[0], blocks=tuple(block for part in parts for block in part.blocks))

    def _hwsim_int_matmul_default(self, node: fx.Node) -> PairAccumulators:
        left, _, right, _ = node.args
        return PairAccumulators(self.values[left], self.values[right], tuple(node.meta["val"].shape))  # type: ignore[index]

    def _array(self, node: Any) -> np.ndarray:
        array = self.values[node].tensor.detach().cpu().numpy()
        if array.dtype == np.int16:
            raise UserError(
                f"layer {self.emitter.layer}: weights of more than 8 bits have no kernel; use 8 or less"
            )
        return array

    def _hwsim_rescale_default(self, node: fx.Node) -> Pending:
        acc, weight_scale, act_scale, rows, parts, bias, channels, _ = node.args
        accumulators: Accumulators = self.values[acc]  # type: ignore[index]
        scale = self._array(weight_scale) * np.float32(self._scalar(act_scale))
        everything = np.arange(channels, dtype=np.int64)  # type: ignore[arg-type]
        table = None if rows is None else self._array(rows).astype(np.int64)
        terms: list[_Term] = []
        start = 0
        for block_codes, cols in accumulators.blocks:
            used = 0
            while used < block_codes.shape[0]:
                count = int(parts[len(terms)])  # type: ignore[index]
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
            view = self.stored(bias)  # type: ignore[arg-type]
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
        return [*buffers, constant(f"{layer}.table", packed.table)] if table else buffers

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
                packed_bits=packed.packed_bits, activation_dtype=codes.buffer.dtype,  # type: ignore[arg-type]
                activation_offset=codes.offset, out_offset=destination.offset,
                out_dtype=_result_type(destination), epilogue=node,
                operands=_epilogue_operands(leaves, [(None, s[2:]) for _, s in dims], len(shape) - 1),
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
                packed_bits=packed.packed_bits, activation_dtype=codes.buffer.dtype,  # type: ignore[arg-type]
                activation_offset=origin, out_offset=destination.offset,
                out_dtype=_result_type(destination), epilogue=node,
                operands=_epilogue_operands(leaves, [*loops, *((None, s[2:]) for _, s in dims)], 1),
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
                origin, destination.offset, codes.buffer.dtype, _result_type(destination), node,  # type: ignore[arg-type]
                _epilogue_operands(leaves, rows, 1), emitter.parallel,
            )  # fmt: skip
            name = f"{layer}.{len(emitter.program.steps)}"
            constants = [constant(f"{name}.weights", weights), constant(f"{name}.initial", initial),
                         constant(f"{name}.scale", scale)]  # fmt: skip
            operands = [codes.buffer, *constants, *(v.buffer for v in leaves), destination.buffer]
            emitter.step(kernel, operands, macs=macs)

        return Pending(shape, (0, 2, 3, 1), emit, leaf(0))

    def _hwsim_dequantize_default(self, node: fx.Node) -> Pending:
        """A product of two activations: pack the right operand, then the same kernel as for weights."""
        pair: PairAccumulators = self.values[node.args[0]]  # type: ignore[index]
        scale = np.float32(self._scalar(node.args[1])) * np.float32(self._scalar(node.args[2]))
        emitter, layer, shape, isa = self.emitter, self.emitter.layer, pair.shape, self.isa
        left, right = pair.left.codes["left"], pair.right.codes["right"]
        if pair.left.wide:
            raise UserError(f"layer {layer}: attention products of more than 8 bits have no kernel; use 8")
        depth, columns = pair.left.shape[-1], shape[-1]
        batch = math.prod(shape[:-2])
        if pair.left.shape[:-2] != shape[:-2] or pair.right.shape[:-2] != shape[:-2]:
            raise UserError(f"layer {layer}: a broadcast product of two activations has no kernel")
        zero = pair.right.stored_zero - 128
        packing = PackRight(
            batch, columns, depth, sections_for(columns, isa.lanes, isa.tile_vectors), right.buffer.elements,
            right.strides[-3] if len(shape) > 2 else right.buffer.elements,
            (right.strides[-1], right.strides[-2]),
        )  # fmt: skip
        sizes = [elements for _, elements, _ in packing.arguments(isa)]
        initial, panels = emitter.work(sizes[2], "int32"), emitter.work(sizes[3], "int8")
        zeros = np.array([pair.left.stored_zero, -zero], np.int32)
        settings = constant(f"{layer}.{len(emitter.program.steps)}.zeros", zeros)
        emitter.step(packing, [right.buffer, settings, initial, panels], (2, 3))
        row_terms: list[Buffer] = []
        if zero:
            rows = batch * shape[-2]
            sums = RowTerms(rows, depth, left.strides[-2], left.buffer.elements)
            row_terms.append(emitter.work(rows, "int32"))
            emitter.step(sums, [left.buffer, settings, row_terms[0]])

        def emit(node: Node, leaves: tuple[View, ...], destination: View) -> None:
            emitter.layer = layer
            leaves = emitter.fitted(leaves, len(shape) - 1)
            batch_axes = [
                (shape[a], (left.strides[a], destination.strides[a], *(v.strides[a] for v in leaves)))
                for a in range(len(shape) - 2)
            ]
            loops = collapse(batch_axes)
            row = len(shape) - 2
            operands = [(s[2:], None) for _, s in loops] + [(None, tuple(v.strides[row] for v in leaves))]
            product = Product(
                ((shape[row], left.strides[row], destination.strides[row]),), (), depth, packing.sections, columns,
                (left.buffer.elements, destination.buffer.elements),
                batch=tuple((n, s[0], s[1]) for n, s in loops), activation_offset=left.offset,
                out_offset=destination.offset, out_dtype=_result_type(destination), epilogue=node,
                operands=_epilogue_operands(leaves, operands, len(shape) - 1), row_terms=bool(zero),
                vectorized_scale=False, parallel=emitter.parallel,
            )  # fmt: skip
            name = f"{layer}.{len(emitter.program.steps)}.scale"
            scales = constant(name, np.full(isa.lanes, scale, np.float32))
            buffers = [left.buffer, panels, initial, scales, *row_terms]
            operands = [*buffers, *(v.buffer for v in leaves), destination.buffer]
            emitter.step(product, operands, macs=math.prod(shape) * depth)

        return Pending(shape, tuple(range(len(shape))), emit, leaf(0))


@dataclass(frozen=True)
class _Term:
    """Codes of one part, their output channels and scales; ``cols`` where it reads few input columns."""

    codes: np.ndarray
    rows: np.ndarray
    scale: np.ndarray
    cols: np.ndarray | None


def _layout(user: fx.Node, q: fx.Node) -> Literal["rows", "conv", "left", "right"]:
    name = str(user.target)
    if name == "hwsim.int_linear.default":
        return "rows"
    if name == "hwsim.int_conv2d.default":
        return "conv"
    return "left" if user.args[0] is q else "right"


def _result_type(destination: View) -> Any:
    return destination.buffer.dtype


def _reshaped(shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """Row-major strides of (..., channels)."""
    strides = [1]
    for size in reversed(shape[1:-1]):
        strides.insert(0, strides[0] * size)
    return (*(s * channels for s in strides), 1) if len(shape) > 1 else (1,)


def _epilogue_operands(
    leaves: tuple[View, ...], loops: list[tuple[Any, Any]], column: int
) -> tuple[Operand, ...]:
    """Operands of the epilogue; ``loops`` lists (batch strides, row strides) by loop, one of them None."""
    return tuple(
        Operand(
            view.buffer.elements, view.offset,
            tuple(b[i] for b, _ in loops if b is not None),
            tuple(r[i] for _, r in loops if r is not None),
            normal((view.shape[column],), (view.strides[column],))[0],
        )
        for i, view in enumerate(leaves)
    )  # fmt: skip


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
