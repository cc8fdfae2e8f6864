"""What a machine's cores and memories do at best, by kernels that do nothing else.

* peak: dot products on registers, nothing loaded in the loop; of tile registers as well where there are some;
* rate of a width: one large product (384 × 512 · 512 × 512), whose panels lie in the caches;
* bandwidth of a memory: a product of one row, whose weights fill that memory and are read once a call.
"""
# pyright: basic
# TVM ships no type stubs.

from dataclasses import dataclass

import numpy as np

from hwsim.compile.builder import Code, PrimFunc, constant, vector
from hwsim.compile.isa import Isa, dot
from hwsim.compile.pack import Term, pack_terms
from hwsim.compile.panels import sections_for
from hwsim.compile.product import Product
from hwsim.compile.tiles import TILE_MACS, TILE_ROWS, configure, instruction, multiply
from hwsim.measure.device import Device, Sample

ROWS, COLUMNS, DEPTH = 384, 512, 512
COLD_ROWS, COLD_DEPTH = 64, 768
ACCUMULATORS = 24
TURNS = 20000
_PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of tile registers


@dataclass(frozen=True)
class Peak:
    """Independent multiply-accumulates of one kind on registers."""

    turns: int = TURNS
    floating: bool = False

    @property
    def dtypes(self) -> tuple[str, str, str]:
        """Types of activations, weights and results."""
        return ("float32", "float32", "float32") if self.floating else ("int32", "int8", "int32")

    def machine(self, isa: Isa) -> Isa:
        """The variant of the machine that multiplies this kind."""
        return isa.floating() if self.floating else isa

    def macs(self, isa: Isa) -> int:
        """Multiply-accumulates of one call."""
        isa = self.machine(isa)
        return self.turns * ACCUMULATORS * isa.lanes * isa.depth

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        isa, (a, w, out) = self.machine(isa), self.dtypes
        return [("a", 64, a), ("w", 64, w), ("out", ACCUMULATORS * isa.lanes, out)]

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        isa, code = self.machine(isa), Code(name)
        a, w, out = (code.parameter(*argument) for argument in self.arguments(isa))
        kind = vector(self.dtypes[2], isa.lanes)
        acc = code.scratch("acc", ACCUMULATORS, kind)
        for i in range(ACCUMULATORS):
            code.store(acc, i, constant(0, self.dtypes[2], isa.lanes))
        x = code.bind("x", a.vload([0]))
        weights = code.bind("b", w.vload([0], vector(self.dtypes[1], isa.lanes * isa.depth)))
        with code.loop(self.turns):
            for i in range(ACCUMULATORS):
                code.store(acc, i, dot(isa, acc.vload([i]), x, weights))
        for i in range(ACCUMULATORS):
            code.store(out, i * isa.lanes, acc.vload([i]))
        return code.function()


@dataclass(frozen=True)
class TilePeak:
    """The same on tile registers (AMX)."""

    turns: int = TURNS // 4

    def macs(self, _isa: Isa) -> int:
        """Multiply-accumulates of one call."""
        return self.turns * len(_PAIRS) * TILE_MACS

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        return [("out", isa.lanes, "int32")]

    def build(self, name: str, isa: Isa) -> PrimFunc:
        """The kernel for ``isa``."""
        code = Code(name)
        (out,) = (code.parameter(*argument) for argument in self.arguments(isa))
        configure(code, TILE_ROWS)
        for register in range(8):
            instruction(code, "tilezero", register)
        with code.loop(self.turns):
            multiply(code, _PAIRS)
        instruction(code, "tilerelease")
        code.store(out, 0, constant(0, "int32", isa.lanes))
        return code.function()


def peak_rate(device: Device, kernel: Peak | TilePeak | None = None) -> tuple[float, Sample]:
    """Multiply-accumulates a second on registers, of the integer dot product where no kernel is named."""
    kernel = kernel or Peak()
    arrays = [np.ones(size, dtype) for _, size, dtype in kernel.arguments(device.isa)]
    sample = device.kernel(kernel, arrays)
    return kernel.macs(device.isa) / sample.median, sample


def product_kernel(
    isa: Isa, m: int, n: int, k: int, weight_bits: int | None = 8, act_bits: int = 8
) -> tuple[Product, list[np.ndarray]]:
    """A linear layer's kernel and its arrays; weights of ``None`` bits are float."""
    random = np.random.default_rng(0)
    if weight_bits is None:
        machine = isa.floating()
        product = Product(
            ((m, k, n),), (), k, sections_for(n, machine.lanes, machine.tile_vectors), n, (m * k, m * n),
            activation_dtype="float32",
        )  # fmt: skip
        return product, [np.ones(size, dtype) for _, size, dtype in product.arguments(isa)]
    machine = isa.dense(k) if act_bits <= 8 else isa.wide()
    high = 2 ** (weight_bits - 1) - 1
    codes = random.integers(-high, high + 1, (n, k)).astype(np.int8)
    term = Term(codes, np.arange(n), np.full(n, 0.01, np.float32))
    packed = pack_terms([term], n, 1, machine, machine.panel_vectors(m))
    dtype = "uint8" if act_bits <= 8 else "int32"
    product = Product(
        ((m, k, n),), (), k, packed.sections, n, (m * k, m * n), packed_bits=packed.packed_bits,
        activation_dtype=dtype,
    )  # fmt: skip
    activations = random.integers(0, 2**act_bits, m * k).astype(dtype)
    return product, [
        activations,
        packed.weights,
        packed.initial(1, machine),
        packed.scales,
        np.zeros(m * n, np.float32),
    ]


def product_rate(device: Device, weight_bits: int | None, act_bits: int) -> tuple[float, Sample]:
    """Multiply-accumulates a second of a large product."""
    kernel, arrays = product_kernel(device.isa, ROWS, COLUMNS, DEPTH, weight_bits, act_bits)
    sample = device.kernel(kernel, arrays)
    return ROWS * COLUMNS * DEPTH / sample.median, sample


def exposed_share(device: Device, size: int, bandwidth: float, rate: float) -> tuple[float, Sample]:
    """Share of the traffic's time by which a product with ``size`` bytes of weights takes longer than its compute."""
    columns = size // COLD_DEPTH // device.isa.lanes * device.isa.lanes
    kernel, arrays = product_kernel(device.isa, COLD_ROWS, columns, COLD_DEPTH)
    sample = device.kernel(kernel, arrays)
    moved = sum(array.nbytes for array in arrays)
    waited = sample.median - COLD_ROWS * columns * COLD_DEPTH / rate
    return min(1.0, max(0.0, waited * bandwidth / moved)), sample


def read_bandwidth(device: Device, size: int) -> tuple[float, Sample]:
    """Bytes a second read from a working set of ``size`` bytes."""
    depth = 1024 if size >= 1 << 20 else 128
    columns = max(device.isa.lanes, size // depth // device.isa.lanes * device.isa.lanes)
    kernel, arrays = product_kernel(device.isa, 1, columns, depth)
    sample = device.kernel(kernel, arrays)
    return columns * depth / sample.median, sample
