"""Attention weights times values of ViT-B: uniform codes against log-sqrt2 codes with their two integer accumulators.

    python benchmarks/kernels/log_softmax.py [--rounds 15]

Both are the quantized network's own kernels, cut out with their quantizers: 12 heads, 197 tokens, 64 channels, values
of 8 bits. One thread, random inputs (seed 0), rounds interleaved, best CPU time of each kernel.
"""

import argparse

import numpy as np
import torch
from timing import interleaved, table
from torch import fx, nn
from tvm_ffi import from_dlpack

from hwsim.compile.build import aligned, host_kernel
from hwsim.compile.isa import host_isa
from hwsim.compile.lower import lower
from quant import model_pass as _model_pass  # noqa: F401  registers torch.ops.hwsim

HEADS, TOKENS, CHANNELS = 12, 197, 64
hwsim = torch.ops.hwsim


def product(levels):
    """Integer graph of one product; ``levels`` of log-sqrt2 codes, or 0 for uniform codes of 8 bits."""
    root, graph = nn.Module(), fx.Graph()

    def noted(node, value):
        node.meta.update(val=value.to("meta"), layer="product")
        return node

    def read(name, value, dtype=torch.float32):
        root.register_buffer(name, torch.tensor(value, dtype=dtype))
        return noted(graph.create_node("get_attr", name), getattr(root, name))

    def call(target, *args):
        values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in args]
        return noted(graph.call_function(target, args), target(*values))

    shapes = {"weights": (HEADS, TOKENS, TOKENS), "values": (HEADS, TOKENS, CHANNELS)}
    weights, values = (noted(graph.placeholder(name), torch.empty(shape)) for name, shape in shapes.items())
    scale, step = read("scale", 0.9 if levels else 1 / 255), read("step", 0.02)
    zero, middle = read("zero", 0, torch.int32), read("middle", 120, torch.int32)
    right = call(hwsim.quantize.default, values, step, middle, 8, False)
    if levels:
        left = call(hwsim.log_quantize.default, weights, scale, levels, 2)
        sums = call(hwsim.int_log_matmul.default, left, right, middle, levels, 2)
        result = call(hwsim.log_dequantize.default, sums, scale, step, levels, 2)
    else:
        left = call(hwsim.quantize.default, weights, scale, zero, 8, False)
        result = call(
            hwsim.dequantize.default, call(hwsim.int_matmul.default, left, zero, right, middle), scale, step
        )
    graph.output((result,))
    return fx.GraphModule(root, graph)


def steps_of(module, isa):
    """(kernel name, callable) of every step of the lowered graph, on random inputs."""
    program, rng = lower(module, isa), np.random.default_rng(0)
    arrays = {}
    for buffer in program.buffers():
        random = rng.random(buffer.elements) if buffer.kind == "input" else np.zeros(buffer.elements)
        given = random.astype(buffer.dtype) if buffer.data is None else buffer.data
        arrays[buffer] = from_dlpack(aligned(given))
    found = []
    for step in program.steps:
        function, operands = host_kernel(step.kernel, isa), [arrays[b] for b in step.buffers]
        function(*operands)
        found.append((type(step.kernel).__name__, lambda f=function, o=operands: f(*o)))
    return found


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    isa, calls = host_isa(), {}
    for form, levels in (("uniform, 8 bits", 0), ("log-sqrt2, 4 bits", 15), ("log-sqrt2, 8 bits", 32)):
        for index, (kernel, call) in enumerate(steps_of(product(levels), isa)):
            calls[form, index, kernel] = call
    times = interleaved(calls, options.rounds, statistic=min)
    rows = []
    for form in dict.fromkeys(key[0] for key in calls):
        own = {f"{key[2]} {key[1]}": 1e6 * times[key] for key in calls if key[0] == form}
        parts = ", ".join(f"{name.rpartition(' ')[0]} {value:.0f}" for name, value in own.items())
        rows.append([form, f"{sum(own.values()):.0f}", parts])
    print(table(["codes", "us", "kernels in order, us"], rows))


if __name__ == "__main__":
    main()
