"""Term split of a linear layer: groups of its terms on different cores, in one kernel (`together`)."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from dataclasses import replace

import numpy as np

from hwsim.compile.expr import Node, leaf, op, remap
from hwsim.compile.loops import own_strides, row_loops
from hwsim.compile.lower_packing import Accumulators, PackingLowering
from hwsim.compile.pack import Term
from hwsim.compile.product import Product
from hwsim.compile.program import Buffer
from hwsim.compile.together import Together, balanced
from hwsim.compile.values import Lazy, View, row_major


class TermLowering(PackingLowering):
    """Mixin of `Lowering`."""

    def _by_terms(self, acc: Accumulators, terms: list[Term], tree: Node, leaves: list[View]) -> Lazy:
        """Term split: groups of terms on different cores, each with sums of its own, added afterwards."""
        costs = [t.codes.size for t in terms]
        branches: list[tuple[Product, ...]] = []
        buffers: list[Buffer] = []
        written: list[int] = []
        sums: dict[int, View] = {}
        for group in balanced(costs, self.emitter.units):
            # A run of terms from the first on may be added in registers: the order of the sum stays.
            start = sum(1 for place, term in enumerate(group) if place == term)
            parts = [group[:start]] if start else []
            parts += [[term] for term in group[start:]]
            branch: list[Product] = []
            for part in parts:
                product, operands, view = self._partial(acc, [terms[t] for t in part])
                branch.append(product)
                buffers += operands
                written.append(len(buffers) - 1)
                sums[part[0]] = view
            branches.append(tuple(branch))
        macs = math.prod(acc.shape[:-1]) * sum(costs)
        self.emitter.step(Together(tuple(branches)), buffers, written, macs)
        total, shift = leaf(1), len(sums)
        for index in range(1, shift):
            total = op("add", total, leaf(index + 1))
        views = [sums[first] for first in sorted(sums)] + leaves
        moved = remap(tree, lambda index: total if index == 0 else leaf(index + shift))
        return Lazy(acc.shape, moved, tuple(views))

    def _partial(self, acc: Accumulators, terms: list[Term]) -> tuple[Product, list[Buffer], View]:
        """Some terms of a linear layer as float sums; a term with few rows writes only those, the others stay 0."""
        x, shape, emitter = acc.x, acc.shape, self.emitter
        codes, rows, channels = x.codes["rows"], math.prod(shape[:-1]), shape[-1]
        machine = self._machine(x, x.shape[-1])
        view = View(emitter.work(rows * channels), 0, shape, row_major(shape))
        places, own = terms[0].rows, len(terms[0].rows)
        if own == channels:
            packed = self._packed(terms, channels, 1, machine, rows)
        else:
            emitter.fill(view.buffer, 0)
            packed = self._packed([replace(terms[0], rows=np.arange(own))], own, 1, machine, rows)
            table = np.zeros(-(-own // machine.lanes) * machine.lanes, np.int32)
            table[:own] = places
            packed = replace(packed, table=table, permuted=True)
        dims = row_loops(shape, dict(enumerate(codes.strides[: len(shape) - 1])), view, ())
        product = Product(
            own_strides(dims), (), x.shape[-1], packed.sections, own,
            (codes.buffer.elements, view.buffer.elements), packed_bits=packed.packed_bits,
            activation_dtype=codes.buffer.dtype, activation_offset=codes.offset, permuted=packed.permuted,
        )  # fmt: skip
        constants = self._operands_of(packed, x.stored_zero, machine, not product.direct)
        for made in constants:
            made.name += f".{view.buffer.name}"
        return product, [codes.buffer, *constants, view.buffer], view
