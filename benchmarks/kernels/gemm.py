"""u8 x s8 products at ViT-B shapes: our kernel against torch (oneDNN), onnxruntime (MLAS) and OpenVINO.

    python benchmarks/kernels/gemm.py [--rounds 40] [--rows 1 8 197 1576] [--output reports/kernels/gemm.md]

Interleaved rounds in one process, medians of CPU time, one thread. Our kernel and the peers that offer it
write rescaled float32; `_int_mm` and MatMulInteger write bare int32.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from peak import peak_call
from peers import all_peers
from timing import interleaved, table
from tvm_ffi import from_dlpack

from hwsim.compile.build import aligned, host_kernel
from hwsim.compile.isa import host_isa
from hwsim.compile.pack import Term, pack_terms
from hwsim.compile.product import Product

SHAPES = ((768, 768), (2304, 768), (768, 3072), (3072, 768))


def ours(a, terms, rows=None, bits=8):
    """A callable of our kernel on these codes; ``terms`` beyond the first keep the output rows in ``rows``."""
    isa, (m, k), n = host_isa(), a.shape, terms[0].shape[0]
    rows = rows or [np.arange(n)]
    parts = [
        Term(codes, places, np.full(len(places), 0.01, np.float32))
        for codes, places in zip(terms, rows, strict=True)
    ]
    machine = isa.dense(k)
    packed = pack_terms(parts, n, 1, machine, machine.panel_vectors(m), bits)
    product = Product(
        ((m, k, n),),
        (),
        k,
        packed.sections,
        n,
        (m * k, m * n),
        packed_bits=packed.packed_bits,
        permuted=packed.permuted,
    )
    arrays = [a.ravel(), packed.weights, packed.initial(119, machine), packed.scales]
    if not product.direct:
        arrays.append(packed.table)
    if packed.lanes is not None:
        arrays += [packed.lanes, packed.later_scale]
    tensors = [from_dlpack(aligned(x)) for x in [*arrays, np.zeros(m * n, np.float32)]]
    kernel = host_kernel(product, isa)
    return lambda: kernel(*tensors)


def main():
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 197, 1576])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    peak, peak_macs = peak_call()
    lines, ratios = [], []
    for m in options.rows:
        for n, k in SHAPES:
            a = rng.integers(0, 256, (m, k), dtype=np.uint8)
            w = rng.integers(-127, 128, (n, k)).astype(np.int8)
            times = interleaved({"hwsim": ours(a, [w]), "peak": peak, **all_peers(a, w)}, options.rounds)
            speed = {name: m * n * k / t / 1e9 for name, t in times.items()}
            top = peak_macs / times["peak"] / 1e9
            rivals = {p: s for p, s in speed.items() if p not in ("hwsim", "peak", "torch fp32")}
            best = max(rivals, key=rivals.get)
            ratios.append(speed["hwsim"] / rivals[best])
            own, peer = speed["hwsim"], f"{rivals[best]:.1f} ({best})"
            cells = [f"{own:.1f}", f"{100 * own / top:.0f} %", peer, f"{ratios[-1]:.2f}"]
            lines.append([f"{m}x{n}x{k}", *cells, f"{speed['torch fp32']:.1f}"])
            print(*lines[-1], sep="  ", flush=True)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    head = ["M x N x K", "hwsim GMAC/s", "of peak", "best peer GMAC/s", "ratio", "torch fp32"]
    text = "# Integer products against peers\n\nCommand: "
    text += f"`python benchmarks/kernels/gemm.py --rounds {options.rounds}`. "
    text += f"{host_isa().name}, one thread, medians of CPU time over interleaved rounds.\n\n"
    text += "torch qlinear writes codes of 8 bits, a quarter of what the others write.\n\n"
    text += table(head, lines)
    text += f"\nGeometric mean of the ratios {mean:.2f}, smallest {min(ratios):.2f}.\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
