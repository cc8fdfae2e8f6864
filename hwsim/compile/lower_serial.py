"""Linear layers with weights of 1 or 2 bits as bit-serial products, where they are the faster ones (`serial`)."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math

from hwsim.compile.expr import Node, leaf
from hwsim.compile.loops import epilogue_operands, own_strides, row_loops
from hwsim.compile.lower_codes import Quantized
from hwsim.compile.lower_packing import Accumulators, PackingLowering
from hwsim.compile.pack import Term, pack_terms
from hwsim.compile.product import Product
from hwsim.compile.program import Buffer
from hwsim.compile.serial import BitPlanes, weight_planes, words
from hwsim.compile.values import Pending, View, row_major


class SerialLowering(PackingLowering):
    """Mixin of `Lowering`."""

    def _weight_planes(self, x: Quantized, terms: list[Term]) -> int:
        """Planes of the weights of a bit-serial product; 0: multiply bytes."""
        return 0 if x.signed or x.wide else weight_planes(self.isa, [t.codes for t in terms], x.bits)

    def _serial_linear(
        self, acc: Accumulators, terms: list[Term], shape: tuple[int, ...], planes: int
    ) -> Pending:
        x, emitter, layer, rows = acc.x, self.emitter, self.emitter.layer, math.prod(shape[:-1])
        vectors = self.isa.panel_vectors(rows)
        packed = pack_terms(terms, shape[-1], 1, self.isa.serial(), vectors, planes)
        bits, sums = self._bit_planes(x, planes == 1)
        macs = rows * sum(t.codes.size for t in terms)

        def emit(node: Node, leaves: tuple[View, ...], destination: View) -> None:
            emitter.layer = layer
            leaves = emitter.fitted(leaves, len(shape) - 1)
            dims = row_loops(shape, dict(enumerate(bits.strides[:-1])), destination, leaves)
            product = Product(
                own_strides(dims), (), x.shape[-1], packed.sections, shape[-1],
                (bits.buffer.elements, destination.buffer.elements), epilogue=node,
                operands=epilogue_operands(leaves, len(shape) - 1, dims), serial=x.bits, row_terms=planes == 1,
            )  # fmt: skip
            self._emit_product(product, x, bits, packed, leaves, destination, macs, sums)

        return Pending(shape, tuple(range(len(shape))), emit, leaf(0))

    def _bit_planes(self, x: Quantized, sums: bool) -> tuple[View, tuple[Buffer, ...]]:
        """The planes of all rows, and minus their sums; made once for all readers that want the same."""
        kind = "bits and sums" if sums else "bits"
        rows, columns, codes = math.prod(x.shape[:-1]), x.shape[-1], x.codes["rows"]
        if kind not in x.codes:
            pitch = -(-columns // 4) * 4
            kernel = BitPlanes(
                rows, columns, pitch, codes.buffer.elements, codes.offset, x.bits, sums, self.emitter.parallel
            )
            made = [self.emitter.work(size, dtype) for _, size, dtype in kernel.arguments(self.isa)[1:]]
            self.emitter.step(kernel, [codes.buffer, *made], tuple(range(1, 1 + len(made))))
            shape = (*x.shape[:-1], x.bits * words(columns))
            x.codes[kind] = View(made[-1], 0, shape, row_major(shape))
            if sums:
                x.codes["sums"] = View(made[0], 0, x.shape[:-1], row_major(x.shape[:-1]))
        return x.codes[kind], (x.codes["sums"].buffer,) if sums else ()
