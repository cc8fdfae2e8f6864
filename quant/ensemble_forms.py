"""The ways to spread the terms of an expanded network over predictors that do not talk (methods.md 2.5).

E0, the paper-literal reading, gives disjoint orders to every predictor in every layer: its later predictors
are products of small factors and carry nothing. E1 splits only the first layer. E2, the telescoped form, adds
finite differences of whole networks and is the one that works; `quant.ensemble` builds it for real models. The
exact form sums the terms of every layer before its activation. All are here for chains of layers, so that
their errors can be compared.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from quant.errors import QuantError
from quant.expansion import Expansion

Groups = Sequence[Sequence[int]]
"""Orders (from 0) of each group; the first group holds order 0."""


@dataclass(frozen=True, eq=False)
class Member:
    """One predictor: the orders it holds in each layer, whether it adds biases, its weight in the sum."""

    orders: tuple[tuple[int, ...], ...]
    biased: bool
    weight: float


def exact_members(depth: int, order: int) -> list[Member]:
    """One predictor with everything: the plain expansion, terms summed in every layer."""
    return [Member((tuple(range(order)),) * depth, True, 1.0)]


def disjoint_members(depth: int, groups: Groups) -> list[Member]:
    """E0: predictor m holds group m in every layer; only the first adds biases."""
    _check(groups)
    return [Member((tuple(group),) * depth, index == 0, 1.0) for index, group in enumerate(groups)]


def first_layer_members(depth: int, groups: Groups) -> list[Member]:
    """E1: predictor m holds group m in the first layer and all orders in the others."""
    _check(groups)
    everything = tuple(sorted(order for group in groups for order in group))
    return [
        Member((tuple(group), *(everything,) * (depth - 1)), index == 0, 1.0)
        for index, group in enumerate(groups)
    ]


def telescoped_members(depth: int, groups: Groups) -> list[Member]:
    """E2: base plus one residual group each, and the base network with weight -(P - 1).

    The weights add up to one, so that whatever the predictors have in common (biases, norms) counts once.
    """
    _check(groups)
    base, *residual = groups
    if not residual:
        return [Member((tuple(base),) * depth, True, 1.0)]
    members = [Member(((*base, *group),) * depth, True, 1.0) for group in residual]
    if len(residual) > 1:
        members.append(Member((tuple(base),) * depth, True, -(len(residual) - 1.0)))
    return members


def run_members(
    members: Sequence[Member],
    layers: Sequence[Expansion],
    biases: Sequence[Tensor | None],
    activation: Callable[[Tensor], Tensor],
    inputs: Tensor,
) -> Tensor:
    """Weighted sum of the predictors' outputs for a chain of layers; no activation after the last."""
    total = None
    for member in members:
        value = inputs
        for index, (layer, bias) in enumerate(zip(layers, biases, strict=True)):
            held = [layer.terms[order] for order in member.orders[index] if order < len(layer.terms)]
            value = sum(
                (value @ term.value(layer.matrix).T.to(value.dtype) for term in held), start=0 * inputs[:, :1]
            )
            if bias is not None and member.biased:
                value = value + bias
            value = activation(value) if index + 1 < len(layers) else value
        total = member.weight * value if total is None else total + member.weight * value
    if total is None:
        raise QuantError("ensemble: no predictor given")
    return total


def _check(groups: Groups) -> None:
    orders = [order for group in groups for order in group]
    if not groups or 0 not in groups[0] or sorted(orders) != list(range(len(orders))):
        raise QuantError(f"ensemble groups {groups}: every order once, order 0 in the first group")
