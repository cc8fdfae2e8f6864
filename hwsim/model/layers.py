"""From the exported graph to the layer graph: each product and each piece of vector work as one ``Layer``."""

import logging
import math
from collections import Counter
from typing import Any

from torch import fx

from hwsim.model import operators, rewrite
from hwsim.model.graph import UNCOUNTED, ConvShape, Layer, LayerGraph, Shape

log = logging.getLogger(__name__)


def layer_graph(module: fx.GraphModule, model: str, parameters: int) -> LayerGraph:
    """Describe a named graph module."""
    nodes = [node for node in module.graph.nodes if "layer" in node.meta]
    groups = _groups(nodes)
    layers = tuple(_layer(node, groups.get(node)) for node in nodes)
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    output = next(node for node in module.graph.nodes if node.op == "output")
    return LayerGraph(
        model=model,
        layers=layers,
        inputs=tuple(str(node.target) for node in placeholders),
        outputs=tuple(name for item in output.all_input_nodes if (name := producer(item)) is not None),
        parameters=parameters,
        input_shapes=tuple(rewrite.shape(node) for node in placeholders),
    )


def producer(node: fx.Node) -> str | None:
    """Name of the layer or input behind a node, views skipped that move nothing; None for stored tensors."""
    while operators.is_view(node) and "layer" not in node.meta:
        node = node.all_input_nodes[0]
    if node.op == "placeholder":
        return f"input:{node.target}"
    return node.meta.get("layer")


def _layer(node: fx.Node, group: str | None) -> Layer:
    sources = [
        (name, rewrite.shape(item)) for item in _operands(node) if (name := producer(item)) is not None
    ]
    op = "copy" if operators.is_view(node) else operators.op_name(node)
    if op.startswith(UNCOUNTED):
        log.warning("%s: MACs of %s are not counted; it stays in float", node.meta["layer"], op)
    common: dict[str, Any] = {
        "name": node.meta["layer"],
        "kind": node.meta["kind"],
        "op": op,
        "inputs": tuple(name for name, _ in sources),
        "input_shapes": tuple(shape for _, shape in sources),
        "output_shape": rewrite.shape(node),
        "elements": sum(tensor.numel() for tensor in rewrite.tensors(node)),
        "params": sum(_parameters(item) for item in node.all_input_nodes),
        "group": group,
    }
    if common["kind"] == "conv2d":
        return Layer(**common, **_convolution(node))
    if common["kind"] == "linear":
        return Layer(**common, **_linear(node))
    if common["kind"] == "matmul":
        return Layer(**common, **_matmul(node))
    weight = next((item for item in node.all_input_nodes if item.meta.get("parameter", False)), None)
    return Layer(**common, weight=None if weight is None else str(weight.target))


def _operands(node: fx.Node) -> list[fx.Node]:
    """Every tensor operand as often as it is read (``x * x`` reads ``x`` twice)."""
    found: list[fx.Node] = []

    def collect(item: fx.Node) -> fx.Node:
        found.append(item)
        return item

    fx.node.map_arg((node.args, node.kwargs), collect)  # type: ignore[attr-defined]
    return found


def _parameters(node: fx.Node) -> int:
    if node.op != "get_attr" or not node.meta.get("parameter", False):
        return 0
    return sum(tensor.numel() for tensor in rewrite.tensors(node))


def _stored(node: Any) -> str | None:
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def _linear(node: fx.Node) -> dict[str, Any]:
    *lead, k = rewrite.shape(node.args[0])  # type: ignore[arg-type]
    n = rewrite.shape(node)[-1]
    m = math.prod(lead)
    return {
        "m": m, "n": n, "k": k, "macs": m * n * k,
        "weight": _stored(node.args[1]), "bias": _stored(rewrite.argument(node, 2, "bias")),
    }  # fmt: skip


def _matmul(node: fx.Node) -> dict[str, Any]:
    left, right = (rewrite.shape(item) for item in node.args)  # type: ignore[arg-type]
    k = left[-1]
    m = left[-2] if len(left) > 1 else 1
    n = right[-1] if len(right) > 1 else 1
    batch = _broadcast(left[:-2], right[:-2])
    return {
        "batch": batch, "m": m, "n": n, "k": k, "macs": batch * m * n * k,
        "weight": _stored(node.args[1]) or _stored(node.args[0]),
    }  # fmt: skip


def _broadcast(left: Shape, right: Shape) -> int:
    size = max(len(left), len(right))
    pairs = zip((1,) * (size - len(left)) + left, (1,) * (size - len(right)) + right, strict=True)
    return math.prod(max(pair) for pair in pairs)


def _convolution(node: fx.Node) -> dict[str, Any]:
    image, weight, bias, stride, padding, dilation, groups = node.args
    channels = rewrite.shape(image)[-3]  # type: ignore[arg-type]
    outputs, k_channels, *kernel = rewrite.shape(weight)  # type: ignore[arg-type]
    shape = rewrite.shape(node)
    conv = ConvShape(
        kernel=_pair(kernel), stride=_pair(stride), padding=_pair(padding), dilation=_pair(dilation),
        in_channels=channels, out_channels=outputs,
        in_hw=_pair(rewrite.shape(image)[-2:]), out_hw=_pair(shape[-2:]),  # type: ignore[arg-type]
    )  # fmt: skip
    assert isinstance(groups, int)
    m = math.prod(shape) // outputs
    n, k = outputs // groups, k_channels * math.prod(kernel)
    return {
        "conv": conv, "groups": groups, "m": m, "n": n, "k": k, "macs": groups * m * n * k,
        "weight": _stored(weight), "bias": _stored(bias),
    }  # fmt: skip


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


def _groups(nodes: list[fx.Node]) -> dict[fx.Node, str]:
    """Products that read one and the same tensor, called by the layer that made it."""
    products = [node for node in nodes if operators.is_product(node) and node.meta["kind"] != "matmul"]
    readers = Counter(node.args[0] for node in products)
    return {
        node: producer(node.args[0]) or "constant"  # type: ignore[arg-type]
        for node in products
        if readers[node.args[0]] > 1
    }
