"""Products on an NVIDIA device: tensor cores and dp4a, checked bit by bit and timed, beside torch._int_mm.

    python benchmarks/kernels/cuda_products.py [--rounds 20] [--output reports/kernels/cuda.md]

Every product is compared with numpy in int64 before it is timed, on codes with both ends of their range, in shapes
that fill tiles and shapes that do not. Times are of launches one after another between two events of the host, the
best of the rounds, rounds interleaved; TOPS count a multiplication and an addition as two. Kernels write int32, as
`_int_mm` does. Without a device the program says so in one line and exits with code 2.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
from timing import table

from hwsim.compile.build import kernel_name
from hwsim.compile.cuda_source import compile_cuda, cuda_source
from hwsim.compile.isa import ISAS
from hwsim.compile.pack import Term, pack_terms
from hwsim.compile.product import Product
from hwsim.errors import UserError
from hwsim.runtime.cuda import Device, Parameters, image_for

TIMED = ((197, 768, 768), (197, 3072, 768), (1576, 3072, 768), (4096, 4096, 4096), (8192, 8192, 8192))
CHECKED = ((1, 1, 32), (37, 70, 100), (197, 1000, 770), (130, 257, 516), (65, 24, 3072))
FORMS = {
    "tensor cores w8a8": ("uint8", 8, 8, True),
    "tensor cores s8 x s8": ("int8", 8, 8, True),
    "tensor cores w4a8": ("uint8", 4, 8, True),
    "tensor cores w4a4": ("uint8", 4, 4, True),
    "dp4a w8a8": ("uint8", 8, 8, False),
    "dp4a w4a8": ("uint8", 4, 8, False),
}


def codes(rng, shape, low, high, dtype):
    """The whole range, both ends in one of eight places."""
    inner, ends = rng.integers(low, high + 1, shape), rng.choice([low, high], shape)
    return np.where(rng.random(shape) < 0.125, ends, inner).astype(dtype)


class Form:
    """One form of one shape: its kernel, its arguments, and what must come out."""

    def __init__(self, form, shape, seed=0):
        dtype, bits, activation_bits, tensor_cores = FORMS[form]
        (m, n, k), high = shape, 1 << (bits - 1)
        rng = np.random.default_rng([seed, *shape])
        low, top = (-128, 127) if dtype == "int8" else (0, (1 << activation_bits) - 1)
        pitch, self.zero = -(-k // 16) * 16, 0 if dtype == "int8" else 3
        self.isa = ISAS["cuda"] if tensor_cores else replace(ISAS["cuda"], matrix_depth=0)
        machine, self.k = self.isa.dense(k), k
        self.a, self.w = codes(rng, (m, pitch), low, top, dtype), codes(rng, (n, k), -high, high - 1, "int8")
        term = Term(self.w, np.arange(n), np.ones(n, np.float32))
        packed = pack_terms([term], n, 1, machine, machine.tile_vectors, bits)
        self.kernel = Product(
            ((m, pitch, n),), (), k, packed.sections, n, (m * pitch, m * n), packed_bits=bits, raw=True,
            out_dtype="int32", activation_dtype=dtype, activation_bits=activation_bits,
        )  # fmt: skip
        self.arrays = [self.a, packed.weights, packed.initial(self.zero, machine), np.zeros((m, n), np.int32)]

    def expected(self):
        """The same in numpy; float64 is exact up to 2 ** 53 and has a fast product."""
        a = self.a[:, : self.k].astype(np.float64) - self.zero
        return (a @ self.w.T.astype(np.float64)).astype(np.int64)


class OnDevice:
    """Kernels of some forms, compiled and loaded; their arguments in device memory."""

    def __init__(self, device, forms):
        self.device, self.forms, self.calls = device, forms, []
        modules = {isa: self._compiled(isa) for isa in dict.fromkeys(form.isa for form in forms)}
        for form in forms:
            module, launches = modules[form.isa]
            pointers = [device.allocate(array.nbytes) for array in form.arrays]
            for pointer, array in zip(pointers, form.arrays, strict=True):
                device.upload(pointer, np.ascontiguousarray(array))
            parts = [
                (
                    device.function(module, launch["symbol"]),
                    (launch["blocks"], launch["threads"]),
                    Parameters([pointers[i] for i in launch["arguments"]]),
                )
                for launch in launches[kernel_name(form.kernel, form.isa)]
            ]
            self.calls.append((parts, pointers))

    def _compiled(self, isa):
        """All kernels of one machine in one module, and their launches."""
        kernels = list(dict.fromkeys(form.kernel for form in self.forms if form.isa == isa))
        source, launches = cuda_source(kernels, isa)
        files = dict(compile_cuda(source))
        return self.device.load(files[image_for({"files": files}, self.device.capability)]), launches

    def launch(self, index):
        """Start one kernel."""
        for function, shape, parameters in self.calls[index][0]:
            self.device.launch(function, shape, parameters)

    def result(self, index):
        """What it computes."""
        self.launch(index)
        out = self.forms[index].arrays[-1]
        self.device.download(out, self.calls[index][1][-1])
        return out

    def close(self):
        """Give the memory back."""
        for _, pointers in self.calls:
            for pointer in pointers:
                self.device.free(pointer)


def seconds(launch, synchronize, inner):
    """One round: so many launches, then a wait."""
    synchronize()
    start = perf_counter()
    for _ in range(inner):
        launch()
    synchronize()
    return (perf_counter() - start) / inner


def torch_peer(m, n, k):
    """torch._int_mm and how to wait for it, where torch sees the device; else None."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    rng = np.random.default_rng(0)
    left, right = (
        torch.from_numpy(rng.integers(-128, 128, s).astype(np.int8)).cuda() for s in ((m, k), (n, k))
    )
    try:
        torch._int_mm(left, right.t())
    except RuntimeError:  # shapes that its library does not take
        return None
    return (lambda: torch._int_mm(left, right.t())), torch.cuda.synchronize


def check(device):
    """Shapes and forms that differ from numpy in any bit."""
    wrong = []
    for shape in (*CHECKED, *TIMED[:2]):
        loaded = OnDevice(device, [Form(name, shape) for name in FORMS])
        for index, name in enumerate(FORMS):
            if not np.array_equal(loaded.result(index), loaded.forms[index].expected()):
                wrong.append(f"{name} at {'x'.join(map(str, shape))}")
        loaded.close()
    return wrong


def measure(device, shape, rounds):
    """TOPS of every form at one shape."""
    m, n, k = shape
    loaded = OnDevice(device, [Form(name, shape) for name in FORMS])
    calls = {name: (lambda i=index: loaded.launch(i), device.synchronize) for index, name in enumerate(FORMS)}
    peer = torch_peer(m, n, k)
    if peer is not None:
        calls["torch._int_mm"] = peer
    inner = {name: max(1, int(2e-2 / seconds(*call, 2))) for name, call in calls.items()}
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = min(best[name], seconds(*call, inner[name]))
    loaded.close()
    return {
        name: 2 * m * n * k / best[name] / 1e12 if name in best else None
        for name in (*FORMS, "torch._int_mm")
    }


def main():
    """Check, measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    try:
        device = Device()
        wrong = check(device)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if wrong:
        print("differs from numpy: " + "; ".join(wrong), file=sys.stderr)
        return 1
    rows = []
    for shape in TIMED:
        found = measure(device, shape, options.rounds)
        rows.append(["x".join(map(str, shape)), *("-" if t is None else f"{t:.1f}" for t in found.values())])
        print(*rows[-1], sep="  ", flush=True)
    text = f"# Products on {device.name}\n\n"
    text += f"Command: `python benchmarks/kernels/cuda_products.py --rounds {options.rounds}`. "
    text += f"TOPS, int32 outputs; all {len(FORMS)} forms equal numpy at {len(CHECKED) + 2} shapes.\n\n"
    text += table(["M x N x K", *FORMS, "torch._int_mm"], rows)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
