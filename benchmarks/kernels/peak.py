"""The machine's integer peak: independent dot products on registers, nothing loaded in the loop."""

import time

import numpy as np

from hwsim.compile.build import aligned
from hwsim.compile.builder import Code, compile_functions, vector
from hwsim.compile.isa import dot, host_isa


def peak_call(turns=20000):
    """A callable that runs ``turns * 24`` dot products, and its multiply-accumulates."""
    from tvm import tirx
    from tvm_ffi import from_dlpack

    isa, code = host_isa(), Code("peak")
    a = code.parameter("a", 64, "int32")
    w = code.parameter("w", 64, "int8")
    out = code.parameter("out", 24 * isa.lanes, "int32")
    kind = vector("int32", isa.lanes)
    acc = code.scratch("acc", 24, kind)
    for i in range(24):
        code.store(acc, i, out.vload([i * isa.lanes], kind))
    x = code.bind("x", a.vload([0]))
    weights = code.bind("b", w.vload([0], vector("int8", isa.lanes * isa.depth)))
    with code.loop(turns):
        for i in range(24):
            code.store(acc, i, dot(isa, acc.vload([i]), x, weights))
    for i in range(24):
        code.store(out, i * isa.lanes, acc.vload([i]))
    del tirx
    function = compile_functions({"peak": code.function()}, isa.target_dict()).jit()["peak"]
    arrays = [np.ones(64, np.int32), np.ones(64, np.int8), np.zeros(24 * isa.lanes, np.int32)]
    tensors = [from_dlpack(aligned(x)) for x in arrays]
    return (lambda: function(*tensors)), turns * 24 * isa.lanes * isa.depth


if __name__ == "__main__":
    call, macs = peak_call()
    call()
    start = time.process_time()
    for _ in range(20):
        call()
    print(f"peak {20 * macs / (time.process_time() - start) / 1e9:.1f} GMAC/s")
