"""The differentiable twin of the integer model, for calibration by gradient.

It computes in the domain of codes: an activation becomes integer-valued floats c = round(x/s) clamped (minus
the zero point) with straight-through gradients, and a product is the float product with each term's codes,
rescaled in the same order as `hwsim.rescale`. While the sums stay below 2^24 every float32 is exact and the
twin equals the integer path bit for bit; beyond, to float32 rounding.
"""
# pyright: basic
# torch.nn modules hand out untyped attributes.

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from quant import model_pass
from quant.activation import ActQuantizer
from quant.log_codes import LogQuantizer
from quant.model_pass import Convolution
from quant.ops import code_range
from quant.qlayer import QuantizedLayer

Coded = tuple[Tensor, Tensor]
"""Integer-valued codes without their zero point, and the scale."""


class RoundThrough(torch.autograd.Function):
    """Round half to even with the identity as gradient; the value is exact, unlike x + (round(x) - x)."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # noqa: D102
        return x.round()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # noqa: D102
        return gradient


class FakeActivation(nn.Module):
    """Activation quantizer with a learnable scale; gradients as in LSQ (in range: straight through)."""

    def __init__(self, quantizer: ActQuantizer) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.scale = nn.Parameter(torch.tensor(quantizer.scale))
        self.enabled = True

    def forward(self, x: Tensor) -> Coded:
        """Codes minus zero point, and the scale; float values over scale 1 while disabled."""
        if not self.enabled:
            return x, torch.ones((), dtype=x.dtype, device=x.device)
        low, high = code_range(self.quantizer.bits, self.quantizer.signed)
        if self.quantizer.kind == "dynamic":
            scale, zero_point = torch.ops.hwsim.dynamic_range(x.detach(), self.quantizer.bits)
            centred = torch.maximum(torch.minimum(_rounded(x, scale), high - zero_point), low - zero_point)
            return centred, scale
        zero = self.quantizer.zero_point
        return _rounded(x, self.scale).clamp(low - zero, high - zero), self.scale


def _rounded(x: Tensor, scale: Tensor) -> Tensor:
    """round(x / scale), half to even; the gradient passes as if nothing had been rounded."""
    return cast(Tensor, RoundThrough.apply(x / scale))


class FakeLog(nn.Module):
    """Log quantizer of attention weights; its values over scale 1, gradient passed straight through."""

    def __init__(self, quantizer: LogQuantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Coded:
        """Powers of the base times the scale."""
        return self.quantizer.fake(x), torch.ones((), dtype=x.dtype, device=x.device)


class FakeProduct(nn.Module):
    """A linear or convolution over the codes of its terms; row scales and bias are learnable.

    `codes` are buffers shaped like the whole weight (sparse terms hold zeros elsewhere); a method that learns
    the rounding puts a float tensor that requires gradients in their place.
    """

    def __init__(self, layer: QuantizedLayer, conv: Convolution | None) -> None:
        super().__init__()
        self.conv, self.shape, self.count = conv, layer.shape, len(layer.terms)
        self.scales = nn.ParameterList()
        for index, term in enumerate(layer.terms):
            full = term.dense(layer.matrix)
            self.register_buffer(f"codes{index}", full.codes.to(torch.float32).reshape(layer.shape))
            self.scales.append(nn.Parameter(full.scale.clone()))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.clone())
        self.register_buffer("offset", None if layer.groups is None else layer.groups.table())

    def term_codes(self, index: int) -> Tensor:
        """Codes of one term, in the shape of the weight."""
        return cast(Tensor, getattr(self, f"codes{index}"))

    def weight(self) -> Tensor:
        """The float weight that the terms stand for."""
        shape = (-1, *(1,) * (len(self.shape) - 1))
        return sum(
            (self.term_codes(k) * self.scales[k].view(shape) for k in range(self.count)), torch.zeros(())
        )

    def forward(self, coded: Coded) -> Tensor:
        """Sum of rescaled products of all terms, then the bias, once."""
        codes, scale = coded
        shape = (-1, 1, 1) if self.conv is not None else (-1,)
        total: Tensor | None = None
        for k in range(self.count):
            part = self._product(codes, self.term_codes(k)) * (self.scales[k].view(shape) * scale)
            total = part if total is None else total + part
        assert total is not None
        total = total if self.bias is None else total + self.bias.view(shape)
        return total if self.offset is None else total + cast(Tensor, self.offset)

    def _product(self, codes: Tensor, weight: Tensor) -> Tensor:
        conv = self.conv
        if conv is None:
            return functional.linear(codes, weight)
        geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
        return functional.conv2d(codes, weight, None, *geometry)


class FakeMatmul(nn.Module):
    """Product of two quantized activations."""

    def forward(self, left: Coded, right: Coded) -> Tensor:
        """Product of the codes, rescaled once."""
        return torch.matmul(left[0], right[0]) * (left[1] * right[1])


class FloatInput(nn.Module):
    """Stands where a weight-only product reads a float activation."""

    def forward(self, x: Tensor) -> Coded:
        """The activation itself, over scale 1."""
        return x, torch.ones((), dtype=x.dtype, device=x.device)


def fake_module(
    source: fx.GraphModule,
    layers: Mapping[str, QuantizedLayer],
    activations: Mapping[str, ActQuantizer | LogQuantizer],
) -> fx.GraphModule:
    """The twin as a graph module; submodules `activations_<i>` and `products_<i>`, found by `meta["layer"]`.

    `fake_parts` lists them by quantizer and layer name.
    """
    module = model_pass.copy_module(source)
    placed: dict[str, fx.Node] = {}
    replaced: dict[fx.Node, fx.Node] = {}
    for product in model_pass.find_products(module):
        layer = layers.get(product.name)
        if layer is None:
            continue
        keys = layer.inputs or (f"{layer.name}.float",)
        for key, x in zip(keys, product.inputs, strict=False):
            if key not in placed:
                unit = _fake_activation(activations[key]) if layer.inputs else FloatInput()
                placed[key] = _call(module, product, f"activations_{len(placed)}", unit, (x,))
                placed[key].meta["quantizer"] = key
        unit = FakeMatmul() if layer.kind == "matmul" else FakeProduct(layer, product.conv)
        operands = tuple(placed[key] for key in keys)
        replaced[product.node] = _call(module, product, f"products_{len(replaced)}", unit, operands)
    return model_pass.finish(module, replaced)


def _fake_activation(quantizer: ActQuantizer | LogQuantizer) -> nn.Module:
    return FakeLog(quantizer) if isinstance(quantizer, LogQuantizer) else FakeActivation(quantizer)


def _call(
    module: fx.GraphModule, product: model_pass.Product, name: str, unit: nn.Module, args: tuple[fx.Node, ...]
) -> fx.Node:
    module.add_submodule(name, unit)
    with module.graph.inserting_before(product.node):
        node = module.graph.call_module(name, args)
    node.meta["layer"] = product.name
    if isinstance(unit, FakeProduct | FakeMatmul) and "val" in product.node.meta:
        node.meta["val"] = product.node.meta["val"]
    return node


def fake_parts(module: fx.GraphModule) -> tuple[dict[str, FakeActivation], dict[str, FakeProduct]]:
    """Activation quantizers by quantizer name and weighted products by layer name of a twin."""
    activations: dict[str, FakeActivation] = {}
    products: dict[str, FakeProduct] = {}
    for node in module.graph.nodes:
        unit = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(unit, FakeActivation):
            activations[node.meta["quantizer"]] = unit
        elif isinstance(unit, FakeProduct):
            products[node.meta["layer"]] = unit
    return activations, products
