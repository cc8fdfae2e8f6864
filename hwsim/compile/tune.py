"""Search over the block sizes of product kernels, by measuring them here; what was found is kept.

Two parameters decide the code of a product and not its packing: rows of the register tile and rows of the cache
block. For every distinct product of a program a handful of values is compiled and timed against the default,
interleaved, and the fastest is taken if it gains at least two per cent. The database is one JSON file beside
the kernel cache, keyed by everything that decides the code, the machine and the processor; a second run
measures nothing.
"""
# pyright: basic

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hwsim.compile.build import aligned, cache_directory, host_kernel, kernel_name
from hwsim.compile.isa import Isa
from hwsim.compile.product import Product
from hwsim.compile.program import Program
from hwsim.files import write_text

_ROUNDS = 9
_GAIN = 0.98
_SECONDS = 1e-3  # of one measurement: short kernels are called often enough to fill it


def candidates(product: Product, isa: Isa) -> Iterator[Product]:
    """Other block sizes worth a try: the accumulators of a tile must still fit the registers."""
    vectors = product.planes[0] * max(section.vectors for section in product.sections)
    most = max(1, (31 - vectors) // vectors) if isa.lanes > 8 else max(1, isa.tile_rows)
    tiles = {rows for rows in (most, most - 1, most - 2, most // 2) if 1 <= rows <= product.rows}
    blocks = {0} if product.taps or product.rows < 200 else {0, product.rows, 96, 192}
    for tile_rows in sorted(tiles):
        for row_block in sorted(blocks):
            yield replace(product, tile_rows=tile_rows, row_block=row_block)


def measure(products: list[Product], isa: Isa) -> list[float]:
    """Best seconds of one call of each, rounds interleaved, on random data."""
    from tvm_ffi import from_dlpack

    rng, calls = np.random.default_rng(0), list[Callable[[], Any]]()
    tensors = []
    for _, size, dtype in products[0].arguments(isa):
        kind = np.dtype(dtype)
        data = rng.integers(0, 2, size).astype(kind) if kind.kind == "f" else rng.integers(0, 100, size, kind)
        # Tables name places in other buffers: 0 is always inside.
        tensors.append(from_dlpack(aligned(np.zeros(size, kind) if kind == np.int32 else data)))
    for product in products:
        kernel = host_kernel(product, isa)
        calls.append(lambda kernel=kernel: kernel(*tensors))
    best = [float("inf")] * len(calls)
    start = time.perf_counter()
    calls[0]()
    repeats = max(1, int(_SECONDS / (time.perf_counter() - start)))
    for _ in range(_ROUNDS):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            best[index] = min(best[index], (time.perf_counter() - start) / repeats)
    return best


class Database:
    """Block sizes by kernel, machine and processor."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_directory().with_name("tuning.json")
        try:
            self._entries: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._entries = {}

    def key(self, product: Product, isa: Isa) -> str:
        """Name of the default kernel (it hashes product, machine and generator) and of the processor."""
        text = Path("/proc/cpuinfo")
        lines = text.read_text(encoding="utf-8").splitlines() if text.exists() else [platform.processor()]
        model = next((line for line in lines if line.startswith("model name")), lines[0])
        return f"{kernel_name(product, isa)}.{hashlib.sha256(model.encode()).hexdigest()[:8]}"

    def find(self, product: Product, isa: Isa) -> Product | None:
        """The tuned kernel, if this one was measured before."""
        entry = self._entries.get(self.key(product, isa))
        if entry is None:
            return None
        return replace(product, tile_rows=int(entry["tile_rows"]), row_block=int(entry["row_block"]))

    def keep(self, product: Product, isa: Isa, chosen: Product, seconds: tuple[float, float]) -> None:
        """Remember a result; ``seconds`` of the default and of the chosen one."""
        self._entries[self.key(product, isa)] = {
            "tile_rows": chosen.tile_rows, "row_block": chosen.row_block,
            "default_us": round(1e6 * seconds[0], 2), "us": round(1e6 * seconds[1], 2),
        }  # fmt: skip
        write_text(self.path, json.dumps(self._entries, indent=1, sort_keys=True) + "\n")


def tuned_product(product: Product, isa: Isa, database: Database) -> Product:
    """The product with its best block sizes, measured now if they are not known."""
    known = database.find(product, isa)
    if known is not None:
        return known
    tried = [product, *candidates(product, isa)]
    seconds = measure(tried, isa)
    fastest = min(range(len(tried)), key=lambda index: seconds[index])
    index = fastest if seconds[fastest] < _GAIN * seconds[0] else 0
    database.keep(product, isa, tried[index], (seconds[0], seconds[index]))
    return tried[index]


def tune(
    program: Program,
    isa: Isa,
    database: Database | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Give every product of ``program`` its best block sizes; returns how many distinct ones changed."""
    database = database or Database()
    products = [kernel for kernel in program.kernels() if isinstance(kernel, Product)]
    chosen: dict[Any, Product] = {}
    for index, product in enumerate(products):
        chosen[product] = tuned_product(product, isa, database)
        if progress is not None:
            progress(index + 1, len(products))
    program.steps = [replace(step, kernel=chosen.get(step.kernel, step.kernel)) for step in program.steps]
    return sum(before != after for before, after in chosen.items())
