"""Bit equality, product by product: every compiled product against the torch operators, tolerance 0.

A whole network is compared within a tolerance, because exp, erf and 1/sqrt differ by ulps. Each product is not:
it is cut out of the graph together with its quantizers, compiled alone, and run on codes that fill the whole
range, extremes included. What follows a product in its kernel is then only the rescaling, which is exact too.
"""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import fx

from hwsim.compile.build import aligned, host_kernel
from hwsim.compile.isa import Isa
from hwsim.compile.lower import lower
from hwsim.compile.program import Program, plan_memory
from quant.ops import code_range

_QUANTIZE, _LOG = "hwsim.quantize.default", "hwsim.log_quantize.default"
_ENDS = ("hwsim.rescale.default", "hwsim.dequantize.default", "hwsim.log_dequantize.default")


def run_program(program: Program, isa: Isa, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Execute a program in this process, without writing an artifact."""
    from tvm_ffi import from_dlpack

    offsets, size = plan_memory(program)
    arena = aligned(np.zeros(size, np.uint8))
    arrays: dict[Any, np.ndarray] = {}
    for buffer in program.buffers():
        if buffer.kind == "work":
            arrays[buffer] = arena[offsets[buffer] : offsets[buffer] + buffer.bytes].view(buffer.dtype)
        else:
            empty = np.zeros(buffer.elements, buffer.dtype)
            arrays[buffer] = aligned(empty if buffer.data is None else buffer.data)
    for port, array in zip(program.inputs, inputs, strict=True):
        arrays[port.buffer][:] = array.reshape(-1)
    for step in program.steps:
        host_kernel(step.kernel, isa)(*[from_dlpack(arrays[buffer]) for buffer in step.buffers])
    return [arrays[port.buffer].reshape(port.shape).copy() for port in program.outputs]


def single_products(module: fx.GraphModule) -> Iterator[tuple[str, fx.GraphModule]]:
    """Each product of an integer graph as a graph of its own: float inputs, quantizers, product, rescaling."""
    for end in module.graph.nodes:
        if str(end.target) in _ENDS:
            yield str(end.meta.get("layer", end.name)), _cut(module, end)


def _cut(module: fx.GraphModule, end: fx.Node) -> fx.GraphModule:
    """``end`` and all it depends on, up to the values that quantizers read, which become inputs."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()

    def copy(node: fx.Node) -> fx.Node:
        if node in copies:
            return copies[node]
        if str(node.target) in (_QUANTIZE, _LOG) and node.args[0] not in copies:
            source: Any = node.args[0]
            copies[source] = graph.placeholder(f"x{len(copies)}")
            copies[source].meta = dict(source.meta)
        for argument in node.all_input_nodes:
            copy(argument)
        copies[node] = graph.node_copy(node, lambda n: copies[n])
        return copies[node]

    graph.output((copy(end),))
    # Inputs come first whatever the order in which they were met.
    first = next(iter(graph.nodes))
    for node in [n for n in graph.nodes if n.op == "placeholder"]:
        first.prepend(node)
    return fx.GraphModule(module, graph)


def spread_inputs(module: fx.GraphModule, generator: torch.Generator) -> list[torch.Tensor]:
    """Float inputs whose codes are uniform over the whole range, one in eight at or beyond its ends."""
    found: list[torch.Tensor] = []
    for node in module.graph.nodes:
        if node.op != "placeholder":
            continue
        reader: Any = next(user for user in node.users if str(user.target) in (_QUANTIZE, _LOG))
        if str(reader.target) == _LOG:
            found.append(_spread_weights(module, reader, tuple(node.meta["val"].shape), generator))
            continue
        scale, zero = (operator.attrgetter(str(a.target))(module) for a in reader.args[1:3])
        low, high = code_range(int(reader.args[3]), bool(reader.args[4]))
        shape = tuple(node.meta["val"].shape)
        codes = torch.randint(low, high + 1, shape, generator=generator)
        ends = torch.where(torch.rand(shape, generator=generator) < 0.5, low - 3, high + 3)
        codes = torch.where(torch.rand(shape, generator=generator) < 0.125, ends, codes)
        found.append((codes - zero).to(torch.float32) * scale)
    return found


def _spread_weights(
    module: fx.GraphModule, reader: Any, shape: tuple[int, ...], generator: torch.Generator
) -> torch.Tensor:
    """Attention weights whose log codes are uniform over all levels; one in eight is zero or above the scale."""
    scale = operator.attrgetter(str(reader.args[1].target))(module)
    levels, steps = (int(a) for a in reader.args[2:4])
    codes = torch.rand(shape, generator=generator) * (levels + 1) - 0.5
    ends = torch.where(torch.rand(shape, generator=generator) < 0.5, torch.inf, -3.0)
    codes = torch.where(torch.rand(shape, generator=generator) < 0.125, ends, codes)
    return torch.exp2(-codes / steps) * scale


def unequal_products(
    module: fx.GraphModule, isa: Isa, seed: int = 0, progress: Callable[[int], None] | None = None
) -> tuple[int, list[str]]:
    """How many products were compared, and the names of those that differ in any bit."""
    generator, wrong, count = torch.Generator().manual_seed(seed), list[str](), 0
    for name, single in single_products(module):
        inputs = spread_inputs(single, generator)
        with torch.no_grad():
            expected = single(*inputs)[0].numpy()
        found = run_program(lower(single, isa), isa, [x.numpy() for x in inputs])[0]
        if not np.array_equal(found, expected):
            wrong.append(name)
        count += 1
        if progress is not None:
            progress(count)
    return count, wrong
