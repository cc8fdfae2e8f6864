"""The machine's integer peak: independent products on registers, nothing loaded in the loop."""

import time
from functools import partial

import numpy as np
from tvm_ffi import from_dlpack

from hwsim.compile.build import aligned, host_kernel
from hwsim.compile.isa import host_isa
from hwsim.measure.machine import Peak, TilePeak


def peak_call():
    """A callable that multiplies on registers, and its multiply-accumulates."""
    isa = host_isa()
    kernel = TilePeak() if isa.tiles else Peak()
    arrays = [np.ones(size, dtype) for _, size, dtype in kernel.arguments(isa)]
    return partial(host_kernel(kernel, isa), *[from_dlpack(aligned(x)) for x in arrays]), kernel.macs(isa)


if __name__ == "__main__":
    call, macs = peak_call()
    call()
    start = time.process_time()
    for _ in range(20):
        call()
    print(f"peak {20 * macs / (time.process_time() - start) / 1e9:.1f} GMAC/s")
