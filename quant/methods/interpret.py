"""Run an exported graph node by node with quantizers in place: the float simulation all methods calibrate on.

`Placement` says how each product is quantized; it is plain data, replaced rather than changed. `evaluate_node`
computes one node under a placement, so the same few lines serve the sequential calibration walk (two
streams side by side), whole-network evaluation, and the unit and tail runs of reconstruction methods.
"""
# pyright: basic
# torch.fx nodes and metadata are untyped in torch's stubs.

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from quant.activation import ActQuantizer
from quant.errors import QuantError
from quant.group_bias import GroupBias
from quant.log_codes import LogQuantizer
from quant.model_pass import Product, attribute, find_products
from quant.qlayer import QuantizedLayer
from quant.qmodel import QuantizedModel
from quant.scheme import Scheme
from quant.terms import Term, weight_of

LearnedActivation = Callable[[Tensor], Tensor]
"""An activation quantizer under training."""
ActivationGrid = ActQuantizer | LogQuantizer | LearnedActivation
Env = MutableMapping[fx.Node, Any]


@dataclass(frozen=True, eq=False)
class PlacedLayer:
    """One quantized product: its terms, its compensated bias and the keys of its input quantizers."""

    scheme: Scheme
    terms: tuple[Term, ...] = ()
    weight: Tensor | None = None  # value of the terms, shaped like the original weight
    bias: Tensor | None = None
    inputs: tuple[str | None, ...] = ()
    offset: Tensor | None = None  # positional compensation, shaped like the output of one sample
    groups: GroupBias | None = None  # what `offset` is made of, where an integer operator can carry it


@dataclass(frozen=True)
class Placement:
    """Quantizers of a graph: layers by product name, activation grids by key ``layer.in0``."""

    layers: Mapping[str, PlacedLayer] = field(default_factory=dict)
    activations: Mapping[str, ActivationGrid] = field(default_factory=dict)

    def with_layer(self, name: str, layer: PlacedLayer) -> Self:
        """The placement with one layer added or replaced."""
        return replace(self, layers={**self.layers, name: layer})

    def with_activation(self, key: str, grid: ActivationGrid) -> Self:
        """The placement with one activation quantizer added or replaced."""
        return replace(self, activations={**self.activations, key: grid})


def fake_activation(x: Tensor, grid: ActivationGrid) -> Tensor:
    """Quantize and dequantize an activation, gradient passed straight through inside the range."""
    if isinstance(grid, LogQuantizer):
        return grid.fake(x)
    if not isinstance(grid, ActQuantizer):
        return grid(x)
    if grid.kind == "dynamic":
        raise QuantError(
            "calibration methods need static activation ranges: set the activation kind to static"
        )
    low, high = (
        (0, 2**grid.bits - 1) if not grid.signed else (-(2 ** (grid.bits - 1)) + 1, 2 ** (grid.bits - 1) - 1)
    )
    if not torch.is_grad_enabled():
        codes = (x / grid.scale).round_().clamp_(low - grid.zero_point, high - grid.zero_point)
        return codes.mul_(grid.scale)
    scaled = x / grid.scale
    rounded = scaled + (scaled.round() - scaled).detach()
    return rounded.clamp(low - grid.zero_point, high - grid.zero_point) * grid.scale


class GraphRunner:
    """Evaluates nodes of one graph; products follow a placement where it names them."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.products: dict[fx.Node, Product] = {p.node: p for p in find_products(module)}
        self.nodes: list[fx.Node] = list(module.graph.nodes)

    def evaluate(self, node: fx.Node, env: Mapping[fx.Node, Any], placement: Placement | None = None) -> Any:
        """Value of one call, given the values of what it reads."""
        if node.op != "call_function":
            raise QuantError(
                f"{node.name}: cannot evaluate a {node.op} node; export the model with torch.export"
            )
        product = self.products.get(node)
        layer = placement.layers.get(product.name) if placement is not None and product is not None else None
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: self.read(n, env))
        if layer is not None and product is not None and placement is not None:
            args = quantized_operands(args, product, layer, placement)
        value = node.target(*args, **kwargs)  # type: ignore[operator]
        return value if layer is None or layer.offset is None else _moved(value, layer.offset, node.name)

    def read(self, node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
        """A value; stored tensors are read anew each time, because passes replace them."""
        return attribute(self.module, str(node.target)).detach() if node.op == "get_attr" else env[node]

    def feed(self, inputs: Sequence[Tensor]) -> dict[fx.Node, Any]:
        """Environment with the graph inputs set."""
        holders = [node for node in self.nodes if node.op == "placeholder"]
        if len(holders) != len(inputs):
            raise QuantError(
                f"the model takes {len(holders)} inputs, the calibration data gives {len(inputs)}"
            )
        return dict(zip(holders, inputs, strict=True))

    def run(
        self,
        env: Env,
        nodes: Iterable[fx.Node],
        placement: Placement | None = None,
        keep: frozenset[fx.Node] = frozenset(),
    ) -> None:
        """Evaluate nodes in order, dropping values nobody among them reads any more."""
        todo = [node for node in nodes if node.op == "call_function"]
        last: dict[fx.Node, fx.Node] = {}
        for node in todo:
            for source in node.all_input_nodes:
                last[source] = node
        for node in todo:
            env[node] = self.evaluate(node, env, placement)
            for source in node.all_input_nodes:
                if last[source] is node and source not in keep:
                    env.pop(source, None)

    @property
    def output(self) -> fx.Node:
        """The node of the first graph output that holds fractions; where none does, of the first."""
        return (_floating(self.nodes[-1].all_input_nodes) or [first_tensor_node(self.nodes[-1].args[0])])[0]

    @property
    def outputs(self) -> list[fx.Node]:
        """All graph outputs that predict, those that hold fractions; where none does, the first."""
        return _floating(self.nodes[-1].all_input_nodes) or [self.output]

    def predictions(self, inputs: Sequence[Tensor], placement: Placement | None = None) -> list[Tensor]:
        """Values of `outputs`."""
        env = self.feed(inputs)
        self.run(env, self.nodes, placement, frozenset(self.outputs))
        return [self.read(node, env) for node in self.outputs]

    def logits(self, inputs: Sequence[Tensor], placement: Placement | None = None) -> Tensor:
        """First output of the whole graph."""
        env = self.feed(inputs)
        output = self.output
        self.run(env, self.nodes, placement, frozenset({output}))
        return env[output]


def _moved(value: Tensor, offset: Tensor, name: str) -> Tensor:
    """An output with its positional bias, which fits one size of sample only."""
    if value.shape[1:] != offset.shape:
        raise QuantError(
            f"{name}: a positional bias of shape {tuple(offset.shape)} does not fit outputs of shape "
            f"{tuple(value.shape[1:])}; fit it at this length or set the axes of bc to channel"
        )
    return value + offset


def _floating(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    return [n for n in nodes if isinstance(v := n.meta.get("val"), Tensor) and v.is_floating_point()]


def first_tensor_node(value: Any) -> fx.Node:
    """First node in a nest of graph outputs."""
    while not isinstance(value, fx.Node):
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    return value


def quantized_operands(
    args: Any, product: Product, layer: PlacedLayer, placement: Placement
) -> tuple[Any, ...]:
    """Arguments of a product call with its activations and weight quantized and its bias replaced."""
    new = list(args)
    for index, key in enumerate(layer.inputs):
        if key is not None:
            new[index] = fake_activation(new[index], placement.activations[key])
    if product.kind != "matmul":
        if layer.weight is not None:
            new[1] = layer.weight
        if layer.bias is not None:
            new += [None] * (3 - len(new))
            new[2] = layer.bias
    return tuple(new)


def integer_model(
    module: fx.GraphModule, placement: Placement, source: str = "calibration"
) -> QuantizedModel:
    """The placement as real integer layers; refuses quantizers that have no integer operator."""
    products = {product.name: product for product in find_products(module)}
    activations: dict[str, ActQuantizer | LogQuantizer] = {}
    for key, grid in placement.activations.items():
        if not isinstance(grid, ActQuantizer | LogQuantizer):
            raise QuantError(f"{key}: this activation quantizer is still being trained")
        activations[key] = grid
    layers: dict[str, QuantizedLayer] = {}
    for name, layer in placement.layers.items():
        if layer.offset is not None and layer.groups is None:
            raise QuantError(
                f"{name}: one bias a position has no integer operator; set the axes of bc to groups or channel"
            )
        product = products[name]
        shape = () if product.weight is None else tuple(attribute(module, product.weight).shape)
        bias = layer.bias
        if bias is None and product.bias is not None:
            bias = attribute(module, product.bias).detach().float()
        keys = tuple(key for key in layer.inputs if key is not None)
        layers[name] = QuantizedLayer(
            name, product.kind, layer.scheme, shape, layer.terms, bias, keys, layer.groups
        )
    model = QuantizedModel(module, layers, activations, source)
    model.check()
    return model


def value_of_terms(terms: Sequence[Term], shape: Sequence[int]) -> Tensor:
    """Float weight of terms in the original shape."""
    rows = int(shape[0])
    return weight_of(terms, (rows, int(torch.Size(shape[1:]).numel()))).reshape(tuple(shape))
