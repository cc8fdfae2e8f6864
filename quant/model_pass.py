"""The graph pass: finds the products of an exported model and replaces them by integer operators.

One pass serves every family, because a product is a product: a `linear`, `conv2d` or `matmul` call with
`node.meta["layer"]`. Activation quantizers stand on tensors, not on layers: products that read the same
tensor at the same width share one.
"""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from quant import log_ops as _log_ops  # noqa: F401  registers torch.ops.hwsim
from quant import ops as _ops  # noqa: F401
from quant.activation import ActQuantizer
from quant.errors import QuantError
from quant.group_bias import GroupBias
from quant.log_codes import LogQuantizer
from quant.terms import Stack

Kind = Literal["linear", "conv2d", "matmul"]
_aten = torch.ops.aten
_KINDS: dict[Any, Kind] = {
    _aten.linear.default: "linear",
    _aten.conv2d.default: "conv2d",
    _aten.matmul.default: "matmul",
    _aten.bmm.default: "matmul",
    _aten.mm.default: "matmul",
}


@dataclass(frozen=True)
class Convolution:
    """Geometry of a convolution."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


@dataclass(frozen=True, eq=False)
class Product:
    """One product of the graph and what it multiplies."""

    node: fx.Node
    name: str
    kind: Kind
    inputs: tuple[fx.Node, ...]
    weight: str | None = None
    bias: str | None = None
    conv: Convolution | None = None

    @property
    def depth(self) -> int:
        """Length of the reduction of a product of two activations."""
        return int(self.inputs[0].meta["val"].shape[-1])


def attribute(module: torch.nn.Module, name: str) -> Any:
    """The parameter, buffer or submodule under a dotted name."""
    return operator.attrgetter(name)(module)


def find_products(module: fx.GraphModule) -> list[Product]:
    """All products of the graph that have a layer name, in execution order."""
    return [_read_product(module, node, str(node.meta["layer"])) for node in _product_nodes(module)]


def is_product(node: fx.Node) -> bool:
    """Whether a node is a product with a layer name."""
    return node.op == "call_function" and node.target in _KINDS and "layer" in node.meta


def _product_nodes(module: fx.GraphModule) -> Iterator[fx.Node]:
    return (node for node in module.graph.nodes if is_product(node))


def _read_product(module: fx.GraphModule, node: fx.Node, name: str) -> Product:
    """Read operands and geometry of a product node."""
    kind = _KINDS[node.target]
    if kind == "matmul":
        return Product(node, name, kind, (node.args[0], node.args[1]))  # type: ignore[arg-type]
    given: dict[str, Any] = dict(zip(_ARGUMENTS, node.args, strict=False)) | dict(node.kwargs)
    weight, bias = given["weight"], given.get("bias")
    if not _is_stored(weight) or not (bias is None or _is_stored(bias)):
        raise QuantError(f"{name}: the weight of this {kind} is computed, not stored; leave the layer in fp")
    conv = None
    if kind == "conv2d":
        conv = Convolution(
            tuple(attribute(module, str(weight.target)).shape[2:]),
            _pair(given.get("stride", 1)),
            _pair(given.get("padding", 0)),
            _pair(given.get("dilation", 1)),
            int(given.get("groups", 1)),
        )
    stored_bias = None if bias is None else str(bias.target)
    return Product(node, name, kind, (given["input"],), str(weight.target), stored_bias, conv)


_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def _is_stored(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr"


def _pair(value: Any) -> tuple[int, int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return (int(values[0]), int(values[-1]))


def copy_module(module: fx.GraphModule) -> fx.GraphModule:
    """A graph module with its own graph, over the same parameter tensors."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for old, new in zip(module.graph.nodes, graph.nodes, strict=True):
        new.meta = dict(old.meta)
    return fx.GraphModule(module, graph)


def store(module: fx.GraphModule, name: str, tensor: Tensor) -> None:
    """Register a buffer under a dotted name."""
    *path, last = name.split(".")
    holder: torch.nn.Module = module
    for part in path:
        if not hasattr(holder, part):
            holder.add_module(part, torch.nn.Module())
        holder = getattr(holder, part)
    holder.register_buffer(last, tensor)


def replace_tensor(module: fx.GraphModule, name: str, tensor: Tensor) -> None:
    """Put another tensor where a stored one is; shape and type must agree.

    Folded constants (masks, position tables) may repeat along a batch that was traced at another size; such a
    tensor is repeated or cut to the graph's size.
    """
    *path, last = name.split(".")
    holder: Any = module
    for part in path:
        holder = getattr(holder, part, None)
    old = getattr(holder, last, None)
    fitted = _fitted(tensor, old) if isinstance(old, Tensor) else None
    if not isinstance(old, Tensor) or fitted is None:
        raise QuantError(
            f"{name}: the saved model does not belong to this graph; load the model it was made from"
        )
    delattr(holder, last)
    if isinstance(old, torch.nn.Parameter):
        holder.register_parameter(last, torch.nn.Parameter(fitted, requires_grad=old.requires_grad))
    else:
        holder.register_buffer(last, fitted)


def _fitted(tensor: Tensor, like: Tensor) -> Tensor | None:
    """`tensor` in the shape of `like`; None unless they differ only in the length of equal slices."""
    if tensor.dtype != like.dtype or tensor.ndim != like.ndim:
        return None
    if tensor.shape == like.shape:
        return tensor
    for dim, size in enumerate(like.shape):
        if tensor.shape[dim] != size:
            first = tensor.narrow(dim, 0, 1)
            if not torch.equal(first.expand_as(tensor), tensor):
                return None
            tensor = first
    return tensor.expand(like.shape).contiguous()


class Writer:
    """Writes calls in front of one node, with shapes and the layer name noted on each."""

    def __init__(self, module: fx.GraphModule, before: fx.Node, layer: str) -> None:
        self.module, self.before, self.layer = module, before, layer

    def call(self, target: Callable[..., Any], *args: Any) -> fx.Node:
        """Append a call."""
        with self.module.graph.inserting_before(self.before):
            node = self.module.graph.call_function(target, args)
        return self._note(node, lambda: target(*map_arg(args, _shape_of)))

    def read(self, name: str, tensor: Tensor) -> fx.Node:
        """Store a tensor as a buffer and read it."""
        store(self.module, name, tensor)
        with self.module.graph.inserting_before(self.before):
            node = self.module.graph.create_node("get_attr", name)
        return self._note(node, lambda: tensor.to("meta"))

    def _note(self, node: fx.Node, shape: Callable[[], Any]) -> fx.Node:
        node.meta["layer"] = self.layer
        if self.before.meta.get("val") is not None:
            with torch.no_grad():
                node.meta["val"] = shape()
        return node


def _shape_of(node: fx.Node) -> Any:
    value = node.meta["val"]
    return value.to("meta") if isinstance(value, Tensor) else value


@dataclass(frozen=True, eq=False)
class Codes:
    """A quantized activation in the graph: nodes of its codes, scale and zero point; log codes have no zero point."""

    codes: fx.Node
    scale: fx.Node
    zero_point: fx.Node | None


def write_quantizer(writer: Writer, name: str, quantizer: ActQuantizer | LogQuantizer, x: fx.Node) -> Codes:
    """Quantize a tensor; static parameters become buffers, dynamic ones are computed per token."""
    hwsim = torch.ops.hwsim
    if isinstance(quantizer, LogQuantizer):
        scale = writer.read(f"activations.{name}.scale", torch.tensor(quantizer.scale))
        levels, steps = quantizer.integer_levels, quantizer.steps
        return Codes(writer.call(hwsim.log_quantize.default, x, scale, levels, steps), scale, None)
    if quantizer.kind == "dynamic":
        pair = writer.call(hwsim.dynamic_range.default, x, quantizer.bits)
        scale, zero_point = (writer.call(operator.getitem, pair, index) for index in range(2))
    else:
        scale = writer.read(f"activations.{name}.scale", torch.tensor(quantizer.scale))
        zero = torch.tensor(quantizer.zero_point, dtype=torch.int32)
        zero_point = writer.read(f"activations.{name}.zero_point", zero)
    codes = writer.call(hwsim.quantize.default, x, scale, zero_point, quantizer.bits, quantizer.signed)
    return Codes(codes, scale, zero_point)


def write_product(
    writer: Writer, product: Product, x: Codes, stack: Stack, bias: Tensor | None, shape: Sequence[int]
) -> fx.Node:
    """Replace a linear or convolution by integer products of the stacked terms and one rescaling."""
    prefix, channels = f"quantized.{product.name}", int(shape[0])
    rows = None if stack.rows is None else writer.read(f"{prefix}.rows", stack.rows)
    blocks: list[tuple[str, Tensor, Tensor | None]] = [("codes", stack.codes, None)]
    blocks += [(f"column_codes{i}", codes, cols) for i, (codes, cols) in enumerate(stack.columns)]
    parts: list[fx.Node] = []
    for name, codes, cols in blocks:
        index = None if cols is None else writer.read(f"{prefix}.{name}_cols", cols)
        if product.conv is None:
            weight = writer.read(f"{prefix}.{name}", codes)
            parts.append(
                writer.call(torch.ops.hwsim.int_linear.default, x.codes, x.zero_point, weight, index)
            )
        else:
            full = codes if cols is not None else codes.reshape(-1, *shape[1:])
            weight = writer.read(f"{prefix}.{name}", full)
            parts.append(_write_convolution(writer, product.conv, x, (weight, rows, index), channels))
    dim = -1 if product.conv is None else 1
    acc = parts[0] if len(parts) == 1 else writer.call(torch.ops.aten.cat.default, parts, dim)
    scale = writer.read(f"{prefix}.scale", stack.scale)
    added = None if bias is None else writer.read(f"{prefix}.bias", bias)
    return writer.call(
        torch.ops.hwsim.rescale.default,
        *(acc, scale, x.scale, rows, list(stack.parts), added, channels, dim),
    )


def _write_convolution(
    writer: Writer,
    conv: Convolution,
    x: Codes,
    operands: tuple[fx.Node, fx.Node | None, fx.Node | None],
    channels: int,
) -> fx.Node:
    weight, rows, cols = operands
    geometry = [list(conv.kernel), list(conv.stride), list(conv.padding), list(conv.dilation)]
    target = torch.ops.hwsim.int_conv2d.default
    return writer.call(target, x.codes, x.zero_point, weight, *geometry, conv.groups, channels, rows, cols)


def write_matmul(writer: Writer, left: Codes, right: Codes) -> fx.Node:
    """Replace a product of two activations."""
    hwsim = torch.ops.hwsim
    if left.zero_point is None:
        form = left.codes.args[2:4]  # levels and steps per octave
        operands = (left.codes, right.codes, right.zero_point, *form)
        acc = writer.call(hwsim.int_log_matmul.default, *operands)
        return writer.call(hwsim.log_dequantize.default, acc, left.scale, right.scale, *form)
    acc = writer.call(hwsim.int_matmul.default, left.codes, left.zero_point, right.codes, right.zero_point)
    return writer.call(hwsim.dequantize.default, acc, left.scale, right.scale)


def write_float(writer: Writer, product: Product, weight: Tensor, bias: Tensor | None) -> fx.Node:
    """Replace a weight-only product: the float operator over the values of its integer terms."""
    prefix = f"quantized.{product.name}"
    added = None if bias is None else writer.read(f"{prefix}.bias", bias)
    operands = (product.inputs[0], writer.read(f"{prefix}.weight", weight), added)
    if product.conv is None:
        return writer.call(_aten.linear.default, *operands)
    conv = product.conv
    geometry = [list(conv.stride), list(conv.padding), list(conv.dilation)]
    return writer.call(_aten.conv2d.default, *operands, *geometry, conv.groups)


def write_groups(writer: Writer, groups: GroupBias, made: fx.Node) -> fx.Node:
    """Add the biases of groups of positions: one multiply-add an output and group, no table of all positions."""
    prefix = f"quantized.{writer.layer}.group"
    for number, (mask, value) in enumerate(zip(groups.masks(), groups.values, strict=True), 1):
        parts = (
            writer.read(f"{prefix}{number}.positions", mask),
            writer.read(f"{prefix}{number}.bias", value),
        )
        made = writer.call(_aten.addcmul.default, made, *parts)
    return made


def finish(module: fx.GraphModule, replaced: Mapping[fx.Node, fx.Node]) -> fx.GraphModule:
    """Swap in the new nodes, drop dead ones and the parameters that only they read."""
    for old, new in replaced.items():
        old.replace_all_uses_with(new)
        module.graph.erase_node(old)
    for node in reversed(list(module.graph.nodes)):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)
    module.graph.lint()
    return fx.GraphModule(module, module.graph)
