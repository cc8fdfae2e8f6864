"""Convolutions: implicit GEMM over a channels-last input with its border, and depthwise."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

from dataclasses import replace

import numpy as np

from hwsim.compile.depthwise import Depthwise
from hwsim.compile.expr import Node, leaf
from hwsim.compile.loops import epilogue_operands, group_loops, loops_over, own_strides, row_loops
from hwsim.compile.lower_packing import Accumulators, PackingLowering
from hwsim.compile.pack import Packed, Term, storage_bits
from hwsim.compile.product import Product
from hwsim.compile.program import constant
from hwsim.compile.values import Pending, View


class ConvolutionLowering(PackingLowering):
    """Mixin of `Lowering`."""

    def _convolution(self, acc: Accumulators, terms: list[Term], shape: tuple[int, ...]) -> Pending:
        x, emitter, layer, conv = acc.x, self.emitter, self.emitter.layer, acc.conv
        assert conv is not None
        codes = x.codes["conv"]
        _, _, high, wide = codes.strides
        channels, groups = shape[1] // conv.groups, conv.groups
        depth = x.shape[1] // groups
        joined = conv.dilation[1] == 1 and groups == 1  # a kernel row is one run of bytes, borders included
        pitch = wide if joined else depth
        split = [_group_terms(terms, g, channels, groups) for g in range(groups)]
        matrices = [[_taps_first(t, conv.kernel, depth, pitch, joined) for t in part] for part in split]
        taps = conv.kernel[0] if joined else conv.kernel[0] * conv.kernel[1]
        bits = max(storage_bits(t.codes) for t in terms)
        run = conv.kernel[1] * pitch if joined else depth
        machine = self._machine(x, run, taps)
        packs = [self._packed(part, channels, taps, machine, 2, bits) for part in matrices]
        packed = _join_groups(packs)
        steps = [(conv.kernel[0], high * conv.dilation[0])]
        if not joined:
            steps.append((conv.kernel[1], wide * conv.dilation[1]))
        macs = shape[0] * shape[2] * shape[3] * sum(t.codes.size for t in terms)

        def emit(node: Node, leaves: tuple[View, ...], destination: View) -> None:
            emitter.layer = layer
            leaves = emitter.fitted(leaves, 1)
            dims = row_loops(shape, conv.reading(codes), destination, leaves)
            batch = group_loops(groups, channels, depth, destination, leaves)
            product = Product(
                own_strides(dims), tuple(steps), run, packed.sections, channels,
                (codes.buffer.elements, destination.buffer.elements), batch=own_strides(batch),
                activation_offset=conv.corner(codes), epilogue=node,
                operands=epilogue_operands(leaves, 1, dims, batch),
            )  # fmt: skip
            self._emit_product(product, x, codes, packed, leaves, destination, macs)

        return Pending(shape, (0, 2, 3, 1), emit, leaf(0))

    def _depthwise(self, acc: Accumulators, terms: list[Term], shape: tuple[int, ...]) -> Pending:
        x, emitter, layer, conv = acc.x, self.emitter, self.emitter.layer, acc.conv
        assert conv is not None
        codes = x.codes["conv"]
        _, _, high, wide = codes.strides
        lanes, channels = self.isa.lanes, shape[1]
        padded = -(-channels // lanes) * lanes
        area = conv.kernel[0] * conv.kernel[1]
        weights = np.zeros((len(terms), area, padded), np.int8)
        scale = np.zeros((len(terms), padded), np.float32)
        for index, term in enumerate(terms):
            weights[index][:, term.rows] = term.codes.reshape(-1, area).T
            scale[index, term.rows] = term.scale
        initial = (-x.stored_zero * weights.sum(1, dtype=np.int64)).astype(np.int32)
        macs = shape[0] * shape[2] * shape[3] * sum(t.codes.size for t in terms)

        def emit(node: Node, leaves: tuple[View, ...], destination: View) -> None:
            emitter.layer = layer
            leaves = emitter.fitted(leaves, 1)
            dims = loops_over(shape, conv.reading(codes), destination, leaves)
            kernel = Depthwise(
                own_strides(dims),
                ((conv.kernel[0], high * conv.dilation[0]), (conv.kernel[1], wide * conv.dilation[1])),
                len(terms), channels, (codes.buffer.elements, destination.buffer.elements),
                conv.corner(codes), destination.offset, codes.buffer.dtype, destination.buffer.dtype, node,
                epilogue_operands(leaves, 1, dims), emitter.parallel,
            )  # fmt: skip
            name = f"{layer}.{len(emitter.program.steps)}"
            constants = [constant(f"{name}.weights", kernel.packed(weights, self.isa)),
                         constant(f"{name}.initial", initial), constant(f"{name}.scale", scale)]  # fmt: skip
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
        result.append(Term(codes, np.arange(channels), scale))
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
