"""The quantized model: integer terms for every product of one graph, and the modules that run them.

`quantize` places activation quantizers and makes the terms; `QuantizedModel.integer()` is a graph module of
real integer operators (quant/ops.py says what each computes), `.fake()` its differentiable twin.
"""
# pyright: basic
# torch.fx modules and tensors are untyped in torch's stubs.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, fx

from quant import model_pass, qstore
from quant.activation import ActKind, ActQuantizer, ActRanges, quantizer_of
from quant.data_free import ranges_without_data
from quant.errors import QuantError
from quant.expansion import make_terms
from quant.fake import fake_module
from quant.log_codes import LogQuantizer
from quant.methods import norm_sites
from quant.model_pass import Product
from quant.observe import synthetic_inputs
from quant.qlayer import Holds, QuantizedLayer, check_accumulator
from quant.scheme import Scheme
from quant.terms import Term, stack_terms

TermMaker = Callable[[str, Tensor, Scheme, Tensor | None], Sequence[Term]]
"""(layer name, weight (O, I, *kernel), scheme, second moments of the I inputs or None) -> terms."""


@dataclass(frozen=True)
class QuantizeOptions:
    """What the assignment leaves open."""

    act_kind: ActKind = "static"
    terms: TermMaker | None = None
    biases: Mapping[str, Tensor] = field(default_factory=dict)
    """Replacement biases by layer (bias correction)."""
    seed: int = 0
    """Of the synthetic inputs, where no ranges are given."""


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """A float graph, the integer layers that replace its products, and their activation quantizers.

    Invariants (`check`): every layer passes `QuantizedLayer.check` and is a product of `module`; products of
    two activations fit 32-bit accumulators at the traced sizes. Immutable: methods make a new model.
    """

    module: fx.GraphModule
    layers: dict[str, QuantizedLayer]
    activations: dict[str, ActQuantizer | LogQuantizer]
    range_source: str = "calibration"
    holds: dict[str, Holds] = field(default_factory=dict)
    """Where the model is an ensemble (quant/ensemble.py): orders of each layer in each network."""

    def check(self) -> None:
        """Raise `QuantError` on the first broken invariant."""
        products = {product.name: product for product in model_pass.find_products(self.module)}
        for name, layer in self.layers.items():
            if name not in products:
                raise QuantError(f"{name}: the graph has no such product")
            layer.check(self.activations)
            if layer.kind == "matmul":
                spans = [self.activations[key].span for key in layer.inputs]
                check_accumulator(name, products[name].depth * spans[0] * spans[1])

    def integer(self) -> fx.GraphModule:
        """The model in integer operators (`torch.ops.hwsim`); vector work stays in float."""
        module = model_pass.copy_module(self.module)
        placed: dict[str, model_pass.Codes] = {}
        replaced: dict[fx.Node, fx.Node] = {}
        for product in model_pass.find_products(module):
            layer = self.layers.get(product.name)
            if layer is not None:
                replaced[product.node] = self._write(module, product, layer, placed)
        return model_pass.finish(module, replaced)

    def _write(
        self,
        module: fx.GraphModule,
        product: Product,
        layer: QuantizedLayer,
        placed: dict[str, model_pass.Codes],
    ) -> fx.Node:
        writer = model_pass.Writer(module, product.node, product.name)
        for key, x in zip(layer.inputs, product.inputs, strict=False):
            if key not in placed:
                placed[key] = model_pass.write_quantizer(writer, key, self.activations[key], x)
        codes = [placed[key] for key in layer.inputs]
        if layer.kind == "matmul":
            return model_pass.write_matmul(writer, *codes)
        if not codes:
            made = model_pass.write_float(writer, product, layer.weight(), layer.bias)
        else:
            stack = stack_terms(layer.terms, layer.matrix)
            made = model_pass.write_product(writer, product, codes[0], stack, layer.bias, layer.shape)
        return made if layer.groups is None else model_pass.write_groups(writer, layer.groups, made)

    def fake(self) -> fx.GraphModule:
        """The differentiable twin (quant/fake.py)."""
        return fake_module(self.module, self.layers, self.activations)

    def save(self, directory: Path) -> str:
        """Write `quantized.json` and `weights.safetensors`; returns the sha256 of the former."""
        parts = qstore.Parts(self.layers, self.activations, self._floats(), self.range_source, self.holds)
        return qstore.write(directory, parts)

    @classmethod
    def load(cls, directory: Path, module: fx.GraphModule) -> Self:
        """Read a saved model onto the graph it was made from; the module's own weights do not matter."""
        parts = qstore.read(directory)
        graph = model_pass.copy_module(module)
        norm_sites.restore(graph, parts.floats)
        names = _float_names(graph, parts.layers)
        if set(names) != set(parts.floats):
            odd = sorted(set(names) ^ set(parts.floats))[0]
            raise QuantError(
                f"{odd}: is in only one of the saved model and this graph; load the model it was made from"
            )
        for key, tensor in parts.floats.items():
            model_pass.replace_tensor(graph, names[key], tensor)
        model = cls(graph, parts.layers, parts.activations, parts.range_source, parts.holds)
        model.check()
        return model

    def _floats(self) -> dict[str, Tensor]:
        """What stays in float."""
        names = _float_names(self.module, self.layers)
        return {key: model_pass.attribute(self.module, name).detach() for key, name in names.items()}

    def select(self, choose: Callable[[QuantizedLayer], Sequence[int]]) -> Self:
        """The model with only some terms of each layer; `choose` gives their indices, 0 among them."""
        layers = {
            name: replace(layer, terms=tuple(layer.terms[index] for index in choose(layer)))
            if layer.terms
            else layer
            for name, layer in self.layers.items()
        }
        return replace(self, layers=layers, holds={})


def _float_names(module: fx.GraphModule, layers: Mapping[str, QuantizedLayer]) -> dict[str, str]:
    """Stored tensors that the quantized model still reads in float: key in the file -> name in the module.

    Parameters keep their names, as does what a reparameterization of norms added. Constants that export folded are
    numbered in the order of the graph, because their names depend on the traced batch size.
    """
    replaced = {
        node
        for product in model_pass.find_products(module)
        if product.name in layers
        for node in product.node.all_input_nodes
        if node.op == "get_attr" and all(_is_replaced(user, layers) for user in node.users)
    }
    read = [n for n in module.graph.nodes if n.op == "get_attr" and n.users and n not in replaced]
    names = list(dict.fromkeys(str(node.target) for node in read))
    is_parameter = {n: isinstance(model_pass.attribute(module, n), torch.nn.Parameter) for n in names}
    named = [name for name in names if is_parameter[name] or norm_sites.is_own(name)]
    constants = [name for name in names if name not in named]
    return {n: n for n in named} | {f"constant.{i}": n for i, n in enumerate(constants)}


def _is_replaced(node: fx.Node, layers: Mapping[str, QuantizedLayer]) -> bool:
    return node.meta.get("layer") in layers and model_pass.is_product(node)


def quantize(
    module: fx.GraphModule,
    assignment: Mapping[str, Scheme],
    *,
    ranges: ActRanges | None,
    moments: Mapping[str, Tensor] | None = None,
    options: QuantizeOptions | None = None,
) -> QuantizedModel:
    """Quantize the products named in `assignment`; layers absent or `fp` stay in float.

    Without `ranges` none are calibrated: they come from the statistics of the norms and, where no norm reaches,
    from seeded synthetic inputs; `QuantizedModel.range_source` says so.
    """
    options = options or QuantizeOptions()
    products = {product.name: product for product in model_pass.find_products(module)}
    unknown = sorted(set(assignment) - set(products))
    if unknown:
        raise QuantError(f"{unknown[0]}: not a product of this model, so it cannot be quantized")
    if ranges is None:
        inputs = synthetic_inputs(module, seed=options.seed)
        ranges = ranges_without_data(module, assignment, inputs)
    layers: dict[str, QuantizedLayer] = {}
    activations: dict[str, ActQuantizer | LogQuantizer] = {}
    shared: dict[tuple[fx.Node, int], str] = {}
    for name, product in products.items():
        scheme = assignment.get(name)
        if scheme is None or scheme.is_float:
            continue
        inputs = _place(product, scheme, ranges, options, (activations, shared))
        moment = None if moments is None else moments.get(name)
        layers[name] = _quantize_layer(module, product, scheme, (inputs, moment), options)
    model = QuantizedModel(module, layers, activations, ranges.source)
    model.check()
    return model


def _place(
    product: Product,
    scheme: Scheme,
    ranges: ActRanges,
    options: QuantizeOptions,
    state: tuple[dict[str, ActQuantizer | LogQuantizer], dict[tuple[fx.Node, int], str]],
) -> tuple[str, ...]:
    """Names of the quantizers of a product's inputs; new ones are made, shared ones found."""
    activations, shared = state
    if product.kind == "matmul" and scheme.act_bits is None:
        raise QuantError(f"{product.name}: a product of two activations needs both widths, not {scheme}")
    widths = (scheme.act_bits, scheme.weight_bits)
    names: list[str] = []
    for index, (x, bits) in enumerate(zip(product.inputs, widths, strict=False)):
        if bits is None:
            continue
        key = f"{product.name}.in{index}"
        found = shared.setdefault((x, bits), key)
        if found == key:
            activations[key] = _make_quantizer(product, key, bits, ranges, options)
        names.append(found)
    return tuple(names)


def _make_quantizer(
    product: Product, key: str, bits: int, ranges: ActRanges, options: QuantizeOptions
) -> ActQuantizer:
    if product.kind == "linear" and options.act_kind == "dynamic":
        return ActQuantizer(bits, "dynamic")
    return quantizer_of(*ranges.of(key), bits)


def _quantize_layer(
    module: fx.GraphModule,
    product: Product,
    scheme: Scheme,
    inputs: tuple[tuple[str, ...], Tensor | None],
    options: QuantizeOptions,
) -> QuantizedLayer:
    names, moment = inputs
    if product.weight is None:
        return QuantizedLayer(product.name, product.kind, scheme, (), inputs=names)
    weight: Tensor = model_pass.attribute(module, product.weight).detach()
    maker = options.terms or make_terms
    terms = tuple(maker(product.name, weight, scheme, moment))
    if product.conv is not None and product.conv.groups > 1:
        matrix = (weight.shape[0], weight[0].numel())
        terms = tuple(term.dense(matrix) if term.cols is not None else term for term in terms)
    bias = options.biases.get(product.name)
    if bias is None and product.bias is not None:
        bias = model_pass.attribute(module, product.bias).detach().to(torch.float32)
    return QuantizedLayer(product.name, product.kind, scheme, tuple(weight.shape), terms, bias, names)
