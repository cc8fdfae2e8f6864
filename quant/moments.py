"""First and second moments of the inputs of every product without data (methods.md 2.1, 9.2, 9.4).

Batch norm makes channel c close to N(beta_c, gamma_c^2); layer norm makes it close to a distribution with mean
beta_c and deviation |gamma_c|. The moments pass through what stands between the norm and the product: views,
pooling and dropout leave them, ReLU clips a normal, GELU and friends are integrated numerically. Elsewhere
(inputs of the network, sums of branches) nothing is known and the product is left out of the answer.
"""
# pyright: basic
# torch.fx nodes are untyped in torch's stubs.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from quant.errors import QuantError

aten = torch.ops.aten
PRODUCTS = (aten.linear.default, aten.conv2d.default)
# Views and reductions that keep the channels where they are and, near enough, their moments.
KEEPING = {
    aten.dropout.default, aten.clone.default, aten.contiguous.default, aten.alias.default, aten.detach.default,
    aten.adaptive_avg_pool2d.default, aten.select.int, aten.slice.Tensor, aten.to.dtype, aten.expand.default,
}  # fmt: skip
UNARY: dict[Any, Callable[[Tensor], Tensor]] = {
    aten.relu.default: torch.relu, aten.relu_.default: torch.relu,
    aten.gelu.default: torch.nn.functional.gelu, aten.silu.default: torch.nn.functional.silu,
    aten.silu_.default: torch.nn.functional.silu, aten.hardtanh.default: lambda x: x.clamp(0, 6),
    aten.hardtanh_.default: lambda x: x.clamp(0, 6), aten.hardswish.default: torch.nn.functional.hardswish,
    aten.hardswish_.default: torch.nn.functional.hardswish, aten.sigmoid.default: torch.sigmoid,
    aten.tanh.default: torch.tanh,
}  # fmt: skip
NODES = 64


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Mean and second moment of each channel; `mean` and `deviation` of the normal before activations."""

    mean: Tensor
    second: Tensor

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each channel."""
        return (self.second - self.mean.square()).clamp_min(0).sqrt()


def normal_moments(mean: Tensor, deviation: Tensor) -> ChannelMoments:
    """Moments of independent normal channels."""
    wide, spread = mean.double(), deviation.double().abs()
    return ChannelMoments(wide, wide.square() + spread.square())


def through(moments: ChannelMoments, function: Callable[[Tensor], Tensor]) -> ChannelMoments:
    """Moments after an elementwise function of normal channels.

    ReLU has the closed form of the clipped normal; others are integrated by Gauss-Hermite quadrature.
    """
    if function is torch.relu:
        return rectified(moments)
    points, weights = _hermite()
    values = function(moments.mean[:, None] + moments.deviation[:, None] * points)
    return ChannelMoments(values @ weights, values.square() @ weights)


def rectified(moments: ChannelMoments) -> ChannelMoments:
    """Moments of max(x, 0) for normal x: beta Phi + sigma phi, and (beta^2 + sigma^2) Phi + beta sigma phi."""
    mean, sigma = moments.mean, moments.deviation.clamp_min(1e-30)
    ratio = mean / sigma
    below = 0.5 * (1 + torch.erf(ratio / 2**0.5))
    density = torch.exp(-0.5 * ratio.square()) / (2 * torch.pi) ** 0.5
    first = mean * below + sigma * density
    return ChannelMoments(first, (mean.square() + sigma.square()) * below + mean * sigma * density)


def _hermite() -> tuple[Tensor, Tensor]:
    import numpy as np

    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return torch.from_numpy(points), torch.from_numpy(weights / weights.sum())


def norm_range(beta: Tensor, gamma: Tensor, *, rectify: bool, width: float = 6.0) -> tuple[float, float]:
    """Data-free range behind a norm: beta +- `width` gamma, clipped by a ReLU, extended to 0 (methods.md 2.1)."""
    if beta.shape != gamma.shape:
        raise QuantError(f"norm range: beta {tuple(beta.shape)} and gamma {tuple(gamma.shape)} must agree")
    low = float((beta - width * gamma.abs()).min())
    high = float((beta + width * gamma.abs()).max())
    return (0.0 if rectify else min(low, 0.0)), max(high, 0.0)


def data_free_moments(
    module: fx.GraphModule, folded: Mapping[str, tuple[Tensor, Tensor]] | None = None
) -> dict[str, ChannelMoments]:
    """Moments of the input channels of each product that a norm determines.

    Args:
        module: exported graph whose products carry `meta["layer"]`.
        folded: (beta, gamma) by layer name of the batch norm that was folded into that product; without it
            `node.meta["batch_norm"]` is read where the loader has left it.
    """
    known: dict[fx.Node, ChannelMoments] = {}
    found: dict[str, ChannelMoments] = {}
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        name = node.meta.get("layer")
        if node.target in PRODUCTS and name is not None and source in known:
            moments = known[source]
            weight = _attribute(module, node.args[1])
            if weight is not None and weight.shape[1] == len(moments.mean):
                found[name] = moments
        made = _moments_of(module, node, source, known)
        norm = (folded or {}).get(str(name)) or node.meta.get("batch_norm")
        if norm is not None and node.target in PRODUCTS:
            made = normal_moments(*norm)
        if made is not None:
            known[node] = made
    return found


def _moments_of(
    module: fx.GraphModule, node: fx.Node, source: fx.Node | None, known: dict[fx.Node, ChannelMoments]
) -> ChannelMoments | None:
    if node.target is aten.layer_norm.default:
        gamma, beta = (_attribute(module, _argument(node, position)) for position in (2, 3))
        if gamma is None or gamma.dim() != 1:
            return None
        return normal_moments(torch.zeros_like(gamma) if beta is None else beta, gamma)
    if node.target is aten.rms_norm.default:
        gamma = _attribute(module, _argument(node, 2))
        return None if gamma is None or gamma.dim() != 1 else normal_moments(torch.zeros_like(gamma), gamma)
    if node.target is aten.batch_norm.default:
        gamma, beta = (_attribute(module, _argument(node, position)) for position in (1, 2))
        return None if gamma is None or beta is None else normal_moments(beta, gamma)
    if source not in known:
        return None
    if node.target in UNARY:
        return through(known[source], UNARY[node.target])
    return known[source] if node.target in KEEPING else None


def _argument(node: fx.Node, position: int) -> Any:
    return node.args[position] if len(node.args) > position else None


def _attribute(module: fx.GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.detach()
