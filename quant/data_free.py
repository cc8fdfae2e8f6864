"""Activation ranges without data: what the norms of a network say about the tensors behind them (methods.md 2.1).

A norm leaves channel c near N(beta_c, gamma_c^2); the range of its output is beta +- 6 gamma. Range and moments
move on through products (sums of independent channels), activations, sums of branches and views; a softmax stays
within 0 and 1, and averaging by it stays within what is averaged. Tensors that no norm determines (the input of
the network, embeddings) are left to the ranges observed on synthetic inputs.

Fewer than 8 bits cannot afford six deviations of the widest channel: there the least squared error on the synthetic
inputs decides (`reports/accuracy/data_free.md`).
"""
# pyright: basic
# torch.fx nodes are untyped in torch's stubs.

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from quant.activation import ActRanges
from quant.model_pass import find_products
from quant.moments import UNARY, channel_moments, norm_range
from quant.observe import observe_ranges
from quant.scheme import Scheme

Range = tuple[float, float]
aten = torch.ops.aten
VIEWS = {
    aten.reshape.default, aten.view.default, aten.permute.default, aten.transpose.int, aten.slice.Tensor,
    aten.select.int, aten.expand.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.default,
    aten.flatten.using_ints, aten.clone.default, aten.contiguous.default, aten.dropout.default,
    aten.to.dtype, aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default,
    aten.mean.dim,
}  # fmt: skip
PIECES = {aten.split.Tensor, aten.split.sizes, aten.chunk.default, aten.unbind.int}
SOFTMAX = {aten.softmax.int, aten._softmax.default}
POINTS = 4097
FULL_BITS = 8


def ranges_without_data(
    module: fx.GraphModule, assignment: Mapping[str, Scheme], inputs: Sequence[Sequence[Tensor]]
) -> ActRanges:
    """From 8 bits on what norms say, else the extremes of the synthetic ``inputs``; below, least squares on these."""
    seen = observe_ranges(
        module,
        assignment,
        inputs,
        method=lambda bits: "mse" if bits < FULL_BITS else "minmax",
        source="synthetic",
    )
    known = data_free_ranges(module, assignment, seen)
    bits = _bits_of_inputs(module, assignment)
    narrow = [key for key in known.ranges if bits.get(key, FULL_BITS) < FULL_BITS]
    if not narrow:
        return replace(known, method="minmax")
    ranges = {**known.ranges, **{key: seen.ranges[key] for key in narrow}}
    source = "synthetic" if len(narrow) == len(ranges) else known.source
    return ActRanges(ranges, source, "mse" if len(narrow) == len(ranges) else "minmax, mse below 8 bits")


def _bits_of_inputs(module: fx.GraphModule, assignment: Mapping[str, Scheme]) -> dict[str, int]:
    """Width of every operand that is quantized."""
    return {
        f"{product.name}.in{index}": bits
        for product in find_products(module)
        if product.name in assignment
        for index, bits in enumerate(
            (assignment[product.name].act_bits, assignment[product.name].weight_bits)
        )
        if bits is not None and index < len(product.inputs)
    }


def data_free_ranges(module: fx.GraphModule, assignment: Mapping[str, Scheme], other: ActRanges) -> ActRanges:
    """`other` with every range that norms determine in its place; its source says so where there is one."""
    known = node_ranges(module)
    ranges = dict(other.ranges)
    for product in find_products(module):
        if product.name not in assignment:
            continue
        for index, node in enumerate(product.inputs):
            found = known.get(node)
            if found is not None and f"{product.name}.in{index}" in ranges:
                ranges[f"{product.name}.in{index}"] = found
    return other if ranges == other.ranges else replace(other, ranges=ranges, source="data-free")


def node_ranges(module: fx.GraphModule) -> dict[fx.Node, Range]:
    """Range of every node that the norms of the network determine."""
    moments = channel_moments(module)
    known: dict[fx.Node, Range] = {}
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        made = _carried(node, known)
        if made is None and node in moments and moments[node].is_normal:
            made = norm_range(moments[node].mean, moments[node].deviation, rectify=False)
        if made is not None:
            known[node] = made
    return known


def _carried(node: fx.Node, known: Mapping[fx.Node, Range]) -> Range | None:
    """Range of a node from those of its operands, where its operator says enough."""
    operands = [known.get(arg) if isinstance(arg, fx.Node) else None for arg in node.args]
    first = operands[0] if operands else None
    if node.target in SOFTMAX:
        return 0.0, 1.0
    if node.target is aten.matmul.default and _averages(node.args[0]):
        return operands[1]
    if node.target is aten.cat.default:
        return _hull([known.get(part) for part in node.args[0]])  # type: ignore[union-attr]
    if first is None:
        return None
    if node.target in VIEWS or node.target in PIECES or getattr(node.target, "__name__", "") == "getitem":
        return first
    if node.target in UNARY:
        values = UNARY[node.target](torch.linspace(*first, POINTS, dtype=torch.float64))
        return min(0.0, float(values.min())), max(0.0, float(values.max()))
    if node.target is aten.mul.Tensor and isinstance(node.args[1], int | float):
        ends = sorted(end * float(node.args[1]) for end in first)
        return ends[0], ends[1]
    return None


def _averages(node: object) -> bool:
    """Whether the left factor of a product is a softmax: its rows then are weights that add up to 1."""
    while isinstance(node, fx.Node) and node.target in VIEWS:
        node = node.args[0]
    return isinstance(node, fx.Node) and node.target in SOFTMAX


def _hull(ranges: list[Range | None]) -> Range | None:
    inside = [item for item in ranges if item is not None]
    if len(inside) < len(ranges):
        return None
    return min(low for low, _ in inside), max(high for _, high in inside)
