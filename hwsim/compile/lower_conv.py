"""Convolutions: implicit GEMM over a channels-last input with its border, and depthwise."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

from dataclasses import replace

import numpy as np

from hwsim.compile.depthwise import Depthwise
from hwsim.compile.expr import Node, leaf
from hwsim.compile.lower_codes import epilogue_operands, result_type
from hwsim.compile.lower_packing import Accumulators, PackingLowering, Term
from hwsim.compile.pack import Packed, storage_bits
from hwsim.compile.product import Product
from hwsim.compile.program import constant
from hwsim.compile.values import Pending, View, collapse


class ConvolutionLowering(PackingLowering):
    """Mixin of `Lowering`."""

    def _convolution(self, acc: Accumulators, terms: list[Term], shape: tuple[int, ...]) -> Pending:
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
                units=emitter.units, permuted=packed.permuted,
            )  # fmt: skip
            product, leaves = self._permute_constants(product, leaves, packed)
            constants = self._operands_of(packed, x.stored_zero, machine, not product.direct)
            operands = [codes.buffer, *constants, *(v.buffer for v in leaves), destination.buffer]
            emitter.step(product, operands, macs=macs)

        return Pending(shape, (0, 2, 3, 1), emit, leaf(0))

    def _depthwise(self, acc: Accumulators, terms: list[Term], shape: tuple[int, ...]) -> Pending:
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


def _group_terms(terms: list[Term], group: int, channels: int, groups: int) -> list[Term]:
    """The rows of one group, all terms dense there, so that every group has the same sections."""
    if groups == 1:
        return terms
    result: list[Term] = []
    for term in terms:
        mine = term.rows // channels == group
        codes = np.zeros((channels, *term.codes.shape[1:]), np.int8)
        scale = np.zeros(channels, np.float32)
        codes[term.rows[mine] % channels], scale[term.rows[mine] % channels] = (
            term.codes[mine],
            term.scale[mine],
        )
        result.append(Term(codes, np.arange(channels), scale, None))
    return result


def _taps_first(term: Term, kernel: tuple[int, int], depth: int, pitch: int, joined: bool) -> Term:
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
