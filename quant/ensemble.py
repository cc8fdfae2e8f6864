"""Telescoped ensemble of an expanded network (methods.md 2.5, form E2).

P networks run without talking to each other; network m holds the first order and the residual orders of its
group, and together with the base network (first order alone)

    F = sum_m F_(1 + G_m) - (P - 1) F_1

A finite difference of whole networks: exact for P = 1, otherwise wrong only in the cross terms between groups
(second order), and sound for layer norm, softmax and GELU, where sums of disjoint networks are not.
"""
# pyright: basic
# torch.nn modules hand out untyped attributes.

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from quant.errors import QuantError
from quant.qlayer import QuantizedLayer
from quant.qmodel import Holds, QuantizedModel


def split_orders(order: int, predictors: int) -> Holds:
    """Orders (from 1) of each of P networks: the residual orders in consecutive groups, large terms first."""
    residual = list(range(2, order + 1))
    borders = [round(index * len(residual) / predictors) for index in range(predictors + 1)]
    return tuple((1, *residual[a:b]) for a, b in pairwise(borders))


def predictor_count(model: QuantizedModel) -> int:
    """Networks of the model's ensemble; 1 where it has none."""
    counts = {len(holds) for holds in model.holds.values()}
    if len(counts) > 1:
        raise QuantError(f"ensemble: layers are split over {sorted(counts)} networks; use one number for all")
    return counts.pop() if counts else 1


def networks(model: QuantizedModel) -> list[QuantizedModel]:
    """The base network and the P expanded ones."""
    count = predictor_count(model)

    def choose(layer: QuantizedLayer, index: int | None) -> Sequence[int]:
        held = (1,) if index is None else model.holds.get(layer.name, ((1,),) * count)[index]
        return [order - 1 for order in sorted(held) if order <= len(layer.terms)]

    return [model.select(lambda layer, m=m: choose(layer, m)) for m in (None, *range(count))]


class Ensemble(nn.Module):
    """Base and expanded networks side by side; the outputs are combined, nothing else is exchanged."""

    def __init__(self, base: nn.Module, expanded: Sequence[nn.Module]) -> None:
        super().__init__()
        self.base, self.expanded = base, nn.ModuleList(expanded)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Sum of the expanded networks minus P - 1 times the base, output by output."""
        runs = [_outputs(network(*inputs)) for network in self.expanded]
        if len(runs) == 1:
            return runs[0]
        base = _outputs(self.base(*inputs))
        return tuple(
            torch.stack(parts).sum(0) - (len(runs) - 1) * ground
            for ground, *parts in zip(base, *runs, strict=True)
        )


def _outputs(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def runnable(model: QuantizedModel) -> nn.Module:
    """What the model computes as deployed: the ensemble where it has one, else the integer module."""
    if predictor_count(model) == 1:
        return model.integer()
    base, *expanded = (network.integer() for network in networks(model))
    return Ensemble(base, expanded)


def with_ensemble(model: QuantizedModel, holds: Mapping[str, Holds] | None = None) -> QuantizedModel:
    """The model with its ensemble: `holds` from a plan, else split by each layer's scheme."""
    if holds is None:
        wanted = max((layer.scheme.predictors for layer in model.layers.values()), default=1)
        chosen = {
            name: split_orders(len(layer.terms), wanted)
            for name, layer in model.layers.items()
            if wanted > 1 and layer.terms
        }
    else:
        chosen = {
            name: tuple(tuple(sorted(held)) for held in groups) for name, groups in holds.items() if groups
        }
    made = replace(model, holds=chosen)
    for name, groups in chosen.items():
        _check_holds(made, name, groups)
    predictor_count(made)
    return made


def _check_holds(model: QuantizedModel, name: str, groups: Holds) -> None:
    """Every network holds order 1, and every residual order stands in exactly one network."""
    if name not in model.layers:
        raise QuantError(f"ensemble: {name} is not a quantized layer")
    residual = sorted(order for held in groups for order in held if order > 1)
    expected = list(range(2, len(model.layers[name].terms) + 1))
    if any(1 not in held for held in groups) or residual != expected:
        raise QuantError(
            f"ensemble, {name}: {groups} must hold order 1 everywhere and each of {expected} exactly once"
        )
