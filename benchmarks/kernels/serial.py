"""Bit-serial products (AND and popcount) against the byte dot product of the same machine, weights of 1 and 2 bits.

    python benchmarks/kernels/serial.py [--isa host x86-avx2] [--rounds 9] [--output reports/kernels/serial.md]

Both kernels read codes in memory and write float32; the time of laying the codes out as bit planes counts. One thread,
random codes (seed 0), rounds interleaved, best of them.
"""

import argparse
from pathlib import Path

import numpy as np
from timing import interleaved, table
from tvm_ffi import from_dlpack

from hwsim.compile.build import aligned, host_kernel
from hwsim.compile.isa import named_isa
from hwsim.compile.pack import Term, pack_terms
from hwsim.compile.product import Product
from hwsim.compile.serial import BitPlanes, words

SHAPES = ((197, 768, 768), (197, 3072, 768), (197, 192, 192), (1, 3072, 768))
PAIRS = ((1, 2), (1, 3), (1, 4), (2, 2), (1, 8), (2, 4))


def call_of(kernel, isa, given):
    """A callable on these leading arrays; what the kernel wants beside them is 0."""
    arrays = [aligned(a) for a in given]
    arrays += [aligned(np.zeros(size, dtype)) for _, size, dtype in kernel.arguments(isa)[len(given) :]]
    function, tensors = host_kernel(kernel, isa), [from_dlpack(a) for a in arrays]
    return lambda: function(*tensors)


def candidates(m, n, k, isa, rng):
    """The dot product on packed 2-bit weights, and every pair of widths: planes, then their product."""

    def term(codes):
        return [Term(codes.astype(np.int8), np.arange(n), np.ones(n, np.float32))]

    codes = rng.integers(0, 4, (m, k)).astype(np.uint8).ravel()
    two, vectors = rng.integers(-2, 2, (n, k)), isa.panel_vectors(m)
    packed = pack_terms(term(two), n, 1, isa, vectors, 2)
    dot = Product(((m, k, n),), (), k, packed.sections, n, (m * k, m * n), packed_bits=2)
    calls = {"dot": call_of(dot, isa, [codes, packed.weights])}
    for planes, bits in PAIRS:
        packed = pack_terms(
            term(two if planes == 2 else two // 2 * 2 + 1), n, 1, isa.serial(), vectors, planes
        )
        row = bits * words(k)
        serial = Product(((m, row, n),), (), k, packed.sections, n, (m * row, m * n), activation_dtype="int32",
                         packed_bits=planes, serial=bits, row_terms=planes == 1)  # fmt: skip
        laid = call_of(BitPlanes(m, k, k, m * k, 0, bits, planes == 1), isa, [codes])
        product = call_of(serial, isa, [rng.integers(0, 1 << 31, m * row).astype(np.int32), packed.weights])
        calls[f"w{planes}a{bits}"] = lambda laid=laid, product=product: (laid(), product())
    return calls


def main():
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", nargs="+", default=["host", "x86-avx2", "x86-generic"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.isa:
        isa, rng = named_isa(name), np.random.default_rng(0)
        for m, n, k in SHAPES:
            times = interleaved(candidates(m, n, k, isa, rng), options.rounds, statistic=min)
            rates = [f"{m * n * k / seconds / 1e9:.0f}" for seconds in times.values()]
            rows.append([isa.name, f"{m}x{n}x{k}", *rates])
            print(*rows[-1], sep="  ", flush=True)
    text = "# Bit-serial products\n\nCommand: `python benchmarks/kernels/serial.py --rounds "
    text += f"{options.rounds}`; two-core x86-64 with AVX-512 VNNI, one thread. GMAC/s.\n"
    text += "`dot` is the byte dot product on weights packed in 2 bits, of whatever activations.\n\n"
    text += table(["machine", "M x N x K", "dot", *(f"w{w}a{a}" for w, a in PAIRS)], rows)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
