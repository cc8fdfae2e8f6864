"""Last step of PD-Quant (ours, methods.md 9.6): polish scales and biases of the whole network on the prediction itself.

When every unit has its codes, what is left to choose are a few numbers a channel: the weight scale of each row, the
bias, and the scale of each activation grid. They are trained end to end against ``KL(float || quantized)`` itself, at
no temperature, with the whole network quantized and the codes fixed. So few variables hardly overfit. The held-out
samples decide between the start and the end, as the referee of a recipe does: the end stands unless the divergence grew
by more than noise. What lies between has a rate that is still high, and the best of many noisy states is luck.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quant.activation import ActQuantizer
from quant.methods.held_out import grew
from quant.methods.interpret import GraphRunner, PlacedLayer, Placement, value_of_terms
from quant.methods.learned_scale import SMALLEST_SCALE, LearnedScale
from quant.methods.pd_options import PdOptions
from quant.methods.pd_training import current_bias
from quant.methods.prediction_loss import prediction_difference, prediction_differences
from quant.predictions import output_power


@dataclass(frozen=True, eq=False)
class PolishData:
    """Inputs and float logits; the last ``held`` samples are only judged on."""

    inputs: tuple[Tensor, ...]
    logits: Tensor
    batch: int
    held: int

    def parts(self) -> tuple[Tensor, ...]:
        """Sample numbers of the held-out batches (of all batches where nothing is held out)."""
        start = len(self.logits) - self.held if self.held else 0
        return torch.arange(start, len(self.logits)).split(self.batch)


@dataclass(eq=False)
class _Variables:
    """Biases, and logarithms of the factors on row scales and activation scales."""

    rows: dict[str, Tensor]
    biases: dict[str, Tensor]
    scales: dict[str, Tensor]

    def all(self) -> list[Tensor]:
        return [*self.rows.values(), *self.biases.values(), *self.scales.values()]


def polish(
    runner: GraphRunner,
    placement: Placement,
    data: PolishData,
    options: PdOptions,
    after_step: Callable[[int], None],
) -> tuple[Placement, float, float]:
    """The polished placement and the held-out prediction difference before and after."""
    generator = torch.Generator().manual_seed(options.seed)
    variables = _variables(runner, placement)
    if not variables.all():  # a network in float
        return placement, 0.0, 0.0
    optimizer = torch.optim.Adam(variables.all(), lr=options.polish_rate)
    fit, power = len(data.logits) - data.held, output_power(data.logits)
    for step in range(options.polish):
        optimizer.param_groups[0]["lr"] = (
            options.polish_rate * 0.5 * (1 + math.cos(math.pi * step / options.polish))
        )
        pick = torch.randint(fit, (data.batch,), generator=generator)
        with torch.enable_grad():
            ours = runner.logits([tensor[pick] for tensor in data.inputs], _soft(placement, variables))
            loss = prediction_difference(data.logits[pick], ours, power=power)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        after_step(step + 1)
    polished = _hard(placement, variables)
    before, after = (_judge(runner, each, data) for each in (placement, polished))
    if grew(before, after, 0.0):
        return placement, float(before.mean()), float(before.mean())
    return polished, float(before.mean()), float(after.mean())


def _variables(runner: GraphRunner, placement: Placement) -> _Variables:
    rows: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for product in runner.products.values():
        layer = placement.layers.get(product.name)
        if layer is not None and layer.weight is not None:
            rows[product.name] = torch.zeros(layer.weight.shape[0], requires_grad=True)
            biases[product.name] = current_bias(runner, product, layer).requires_grad_()
    static = [key for key, grid in placement.activations.items() if isinstance(grid, ActQuantizer)]
    return _Variables(rows, biases, {key: torch.zeros((), requires_grad=True) for key in static})


def _soft(placement: Placement, variables: _Variables) -> Placement:
    layers = dict(placement.layers)
    for name, factor in variables.rows.items():
        weight = layers[name].weight
        assert weight is not None
        wide = factor.exp().reshape(-1, *[1] * (weight.dim() - 1))
        layers[name] = replace(layers[name], weight=weight * wide, bias=variables.biases[name])
    grids = {}
    for key, factor in variables.scales.items():
        grid = placement.activations[key]
        assert isinstance(grid, ActQuantizer)
        grids[key] = LearnedScale(grid, grid.scale * factor.exp(), 0.0, None)
    return Placement(layers, {**placement.activations, **grids})


@torch.no_grad()
def _hard(placement: Placement, variables: _Variables) -> Placement:
    layers: dict[str, PlacedLayer] = dict(placement.layers)
    for name, factor in variables.rows.items():
        layer, grow = layers[name], factor.detach().exp()
        terms = tuple(
            replace(term, scale=term.scale * (grow if term.rows is None else grow[term.rows.long()]))
            for term in layer.terms
        )
        assert layer.weight is not None
        weight = value_of_terms(terms, layer.weight.shape)
        layers[name] = replace(
            layer, terms=terms, weight=weight, bias=variables.biases[name].detach().clone()
        )
    grids = {}
    for key, factor in variables.scales.items():
        grid = placement.activations[key]
        assert isinstance(grid, ActQuantizer)
        grids[key] = replace(grid, scale=max(float(grid.scale * factor.detach().exp()), SMALLEST_SCALE))
    return Placement(layers, {**placement.activations, **grids})


@torch.no_grad()
def _judge(runner: GraphRunner, placement: Placement, data: PolishData) -> Tensor:
    """Prediction difference of the whole quantized network on every held-out sample."""
    power, found = output_power(data.logits), list[Tensor]()
    for part in data.parts():
        ours = runner.logits([tensor[part] for tensor in data.inputs], placement)
        values = prediction_differences(data.logits[part].double(), ours.double(), power=power)
        found.append(values.clamp(min=0).reshape(len(part), -1).mean(1))
    return torch.cat(found)
