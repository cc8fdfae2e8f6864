"""First and second moments of the inputs of every product without data (methods.md 2.1, 9.2, 9.4).

Batch norm makes channel c close to N(beta_c, gamma_c^2); layer norm makes it close to a distribution with mean
beta_c and deviation |gamma_c|. The moments pass through what stands between the norm and the product: views,
pooling and dropout leave them, ReLU clips a normal, GELU and friends are integrated numerically. Elsewhere
(inputs of the network, embeddings) nothing is known and the product is left out of the answer.

Behind a product that no batch norm followed, channels are sums of independent inputs, hence normal: mean W m + b,
variance W^2 v; so are sums of two branches.
"""
# pyright: basic
# torch.fx nodes are untyped in torch's stubs.

from collections.abc import Callable, Mapping, Sequence
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
    """Mean and second moment of each channel; `is_normal` where no activation came in between."""

    mean: Tensor
    second: Tensor
    is_normal: bool = False

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each channel."""
        return (self.second - self.mean.square()).clamp_min(0).sqrt()


def normal_moments(mean: Tensor, deviation: Tensor) -> ChannelMoments:
    """Moments of independent normal channels."""
    wide, spread = mean.double(), deviation.double().abs()
    return ChannelMoments(wide, wide.square() + spread.square(), is_normal=True)


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


def data_free_moments(module: fx.GraphModule) -> dict[str, ChannelMoments]:
    """Moments of the input channels of each product that a norm determines, by layer name.

    Products are those with `meta["layer"]`; `meta["batch_norm"]`, where the loader has left it, is mean and
    deviation behind the batch norm that was folded into the product. Grouped convolutions are left out: a
    column of their weight meets another channel in every group.
    """
    known = channel_moments(module)
    found: dict[str, ChannelMoments] = {}
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in PRODUCTS and "layer" in node.meta:
            weight, moments = _attribute(module, node.args[1]), known.get(node.args[0])
            if moments is not None and weight is not None and weight.shape[1] == len(moments.mean):
                found[str(node.meta["layer"])] = moments
    return found


def channel_moments(module: fx.GraphModule) -> dict[fx.Node, ChannelMoments]:
    """Moments of the channels of every node that a norm determines."""
    known: dict[fx.Node, ChannelMoments] = {}
    for node in module.graph.nodes:
        if node.op == "call_function":
            made = _moments_of(module, node, known)
            if made is not None:
                known[node] = made
    return known


def _moments_of(
    module: fx.GraphModule, node: fx.Node, known: Mapping[fx.Node, ChannelMoments]
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
    inputs = [known.get(arg) for arg in node.args if isinstance(arg, fx.Node)]
    if node.target in PRODUCTS:
        norm = node.meta.get("batch_norm")
        return normal_moments(*norm) if norm is not None else _behind_product(module, node, inputs[0])
    if not inputs or inputs[0] is None:
        return None
    if node.target is aten.add.Tensor:
        return _sum_of(inputs)
    if node.target in UNARY:
        return through(inputs[0], UNARY[node.target])
    return inputs[0] if node.target in KEEPING else None


def _behind_product(
    module: fx.GraphModule, node: fx.Node, inputs: ChannelMoments | None
) -> ChannelMoments | None:
    weight, bias = (_attribute(module, _argument(node, position)) for position in (1, 2))
    if weight is None or inputs is None:
        return None
    taps = weight.double().flatten(2) if weight.dim() > 2 else weight.double()[:, :, None]
    groups = len(inputs.mean) // taps.shape[1]
    if groups * taps.shape[1] != len(inputs.mean) or len(taps) % groups:
        return None
    taps = taps.reshape(groups, -1, *taps.shape[1:])
    mean = torch.einsum("goik,gi->go", taps, inputs.mean.reshape(groups, -1)).flatten()
    spread = inputs.deviation.square().reshape(groups, -1)
    variance = torch.einsum("goik,gi->go", taps.square(), spread).flatten()
    return normal_moments(mean if bias is None else mean + bias.double(), variance.sqrt())


def _sum_of(branches: Sequence[ChannelMoments | None]) -> ChannelMoments | None:
    known = [branch for branch in branches if branch is not None]
    if len(branches) != 2 or len(known) != 2 or known[0].mean.shape != known[1].mean.shape:
        return None
    left, right = known
    spread = (left.deviation.square() + right.deviation.square()).sqrt()
    return normal_moments(left.mean + right.mean, spread)


def _argument(node: fx.Node, position: int) -> Any:
    return node.args[position] if len(node.args) > position else None


def _attribute(module: fx.GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.detach()
