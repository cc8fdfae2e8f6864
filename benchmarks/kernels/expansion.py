"""Price of the later terms of an expansion: one product kernel with all terms against the first term alone.

    python benchmarks/kernels/expansion.py [--rounds 15] [--output reports/kernels/expansion.md]

The later terms keep single rows drawn at random (seed 0), the least convenient choice. One thread, rounds
interleaved, the best CPU time of each: a share of a loaded machine's noise is left out that way.
"""

import argparse
from pathlib import Path

import numpy as np
from gemm import ours
from peak import peak_call
from timing import interleaved, table

SHAPES = ((197, 768, 768), (197, 3072, 768), (197, 768, 192))
SHARES = ((25,), (50,), (75,), (100,), (50, 25), (100, 100))


def candidates(m, n, k, bits, rng):
    """Order 1 and every expansion as callables."""
    high = 1 << (bits - 1)
    a = rng.integers(0, 256, (m, k), dtype=np.uint8)
    w = rng.integers(-high, high, (n, k)).astype(np.int8)
    everything = np.arange(n)
    calls = {"order 1": ours(a, [w], bits=bits)}
    for shares in SHARES:
        rows = [np.sort(rng.permutation(n)[: n * share // 100]) for share in shares]
        name = "γ=" + ", ".join(f"{share / 100:g}" for share in shares)
        calls[name] = ours(a, [w, *(w[r] for r in rows)], [everything, *rows], bits)
    return calls


def main():
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rng, rows = np.random.default_rng(0), []
    peak, peak_macs = peak_call()
    for m, n, k in SHAPES:
        for bits in (8, 4):
            calls = candidates(m, n, k, bits, rng)
            times = interleaved({"peak": peak, **calls}, options.rounds, statistic=min)
            base, top = times["order 1"], peak_macs / times["peak"]
            share = f"{m * n * k / base / 1e9:.0f} ({100 * m * n * k / base / top:.0f} %)"
            prices = [f"{times[name] / base:.2f}" for name in calls if name != "order 1"]
            rows.append([f"{m}x{n}x{k}", bits, share, *prices])
            print(*rows[-1], sep="  ", flush=True)
    names = [name for name in calls if name != "order 1"]
    text = "# Price of the later terms\n\nCommand: `python benchmarks/kernels/expansion.py --rounds "
    text += f"{options.rounds}`; two-core x86-64 with AVX-512 VNNI, one thread, 8-bit activations. Times of order 1.\n"
    text += "γ is the share of rows in order 2 (and 3), single rows drawn at random.\n\n"
    text += table(["M x N x K", "weight bits", "order 1 GMAC/s (of peak)", *names], rows)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
