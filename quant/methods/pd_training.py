"""Training of one unit in PD-Quant: rounding variables and activation scales against the block and the logits."""
# pyright: basic
# tensor methods are untyped in torch's stubs.

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from quant.activation import ActQuantizer
from quant.methods.adaround import RoundingVariable, rounding_variable
from quant.methods.graph_units import Unit
from quant.methods.interpret import GraphRunner, PlacedLayer, Placement, value_of_terms
from quant.methods.learned_scale import SMALLEST_SCALE, LearnedScale, drop_mix
from quant.methods.pd_options import PdOptions
from quant.methods.prediction_loss import (
    prediction_difference,
    reconstruction,
    rounding_regulariser,
    rounding_temperature,
)
from quant.model_pass import Product, attribute
from quant.predictions import output_power


@dataclass(eq=False)
class UnitTraining:
    """Everything that changes while one unit is trained; `state` and `restore` carry it across a kill."""

    unit: Unit
    options: PdOptions
    rounding: dict[str, RoundingVariable]
    scales: dict[str, LearnedScale]
    biases: dict[str, Tensor]
    generator: torch.Generator
    optimizers: tuple[torch.optim.Adam, ...]
    iteration: int = 0
    carried: list[Tensor] = field(default_factory=list[Tensor])
    """Last gradient of the prediction difference; it stands until the next evaluation."""

    @property
    def has_variables(self) -> bool:
        """Whether there is anything to train: a unit in float has nothing."""
        return bool(self.rounding or self.scales or self.biases)

    def state(self) -> dict[str, Tensor]:
        """Tensors that, with the iteration number, continue the run bit for bit."""
        tensors = {f"alpha.{name}": variable.alpha.detach() for name, variable in self.rounding.items()}
        tensors |= {f"scale.{key}": scale.scale.detach() for key, scale in self.scales.items()}
        tensors |= {f"bias.{name}": bias.detach() for name, bias in self.biases.items()}
        tensors |= {f"carried.{index}": gradient for index, gradient in enumerate(self.carried)}
        tensors["generator"] = self.generator.get_state()
        for number, optimizer in enumerate(self.optimizers):
            for index, parameter in enumerate(_parameters(optimizer)):
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"adam{number}.{index}.{key}"] = value
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def restore(self, iteration: int, tensors: Mapping[str, Tensor]) -> None:
        """Continue where `state` was taken."""
        self.iteration = iteration
        count = sum(name.startswith("carried.") for name in tensors)
        self.carried = [tensors[f"carried.{index}"].clone() for index in range(count)]
        with torch.no_grad():
            for name, variable in self.rounding.items():
                variable.alpha.copy_(tensors[f"alpha.{name}"])
            for key, scale in self.scales.items():
                scale.scale.copy_(tensors[f"scale.{key}"])
            for name, bias in self.biases.items():
                bias.copy_(tensors[f"bias.{name}"])
        self.generator.set_state(tensors["generator"])
        for number, optimizer in enumerate(self.optimizers):
            for index, parameter in enumerate(_parameters(optimizer)):
                prefix = f"adam{number}.{index}."
                found = {
                    k.removeprefix(prefix): v.clone() for k, v in tensors.items() if k.startswith(prefix)
                }
                if found:
                    optimizer.state[parameter] = found


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def start_training(
    runner: GraphRunner, unit: Unit, placement: Placement, done: set[str], options: PdOptions
) -> UnitTraining:
    """Fresh variables of a unit; activation quantizers an earlier unit trained (``done``) stay as they are."""
    seed = options.seed * 1_000_003 + sum(ord(letter) * (i + 1) for i, letter in enumerate(unit.name))
    generator = torch.Generator().manual_seed(seed)
    rounding: dict[str, RoundingVariable] = {}
    scales: dict[str, LearnedScale] = {}
    biases: dict[str, Tensor] = {}
    relative = options.relative_scale_rate
    for product in unit.products:
        layer = placement.layers.get(product.name)
        if layer is None:
            continue
        if layer.terms:
            rounding[product.name] = rounding_variable(
                attribute(runner.module, str(product.weight)), layer.terms
            )
        if options.learning_rate_bias > 0 and layer.terms:
            biases[product.name] = current_bias(runner, product, layer).requires_grad_()
        for key in layer.inputs:
            grid = placement.activations.get(key) if key is not None else None
            if key is not None and isinstance(grid, ActQuantizer) and key not in done:
                scale = torch.tensor(grid.scale, requires_grad=True)
                scales[key] = LearnedScale(grid, scale, options.drop_inside, generator)
    optimizers: list[torch.optim.Adam] = []
    if rounding:
        rate = options.learning_rate_rounding
        optimizers.append(torch.optim.Adam([v.alpha for v in rounding.values()], lr=rate))
    groups = [
        {"params": [s.scale], "initial_lr": options.learning_rate_scale * (s.grid.scale if relative else 1.0)}
        for s in scales.values()
    ]
    groups += [{"params": [bias], "initial_lr": options.learning_rate_bias} for bias in biases.values()]
    if groups:
        optimizers.append(torch.optim.Adam(groups))
    return UnitTraining(unit, options, rounding, scales, biases, generator, tuple(optimizers))


def current_bias(runner: GraphRunner, product: Product, layer: PlacedLayer) -> Tensor:
    """A copy of the bias a layer has now, zeros where it has none."""
    if layer.bias is not None:
        return layer.bias.detach().clone()
    if product.bias is not None:
        return attribute(runner.module, product.bias).detach().float().clone()
    assert layer.weight is not None
    return torch.zeros(layer.weight.shape[0])


def add_gradients(training: UnitTraining, local: Tensor, difference: Tensor | None) -> None:
    """Gradients of ``local + difference``; on the rounding, the difference's is held to its share of the local one.

    The prediction difference reaches the rounding through the whole rest of the network. Its gradient is 5 to 25
    times the reconstruction's there and spans few directions (mostly one shift of the logits that all samples
    want), so in Adam's quotient it drowns the rest for the few hundred iterations of a fast preset. Scales and
    biases, which can express such a shift without harm to the reconstruction, receive all of it.
    """
    local.backward(retain_graph=difference is not None)
    rounding = [variable.alpha for variable in training.rounding.values()]
    learned = [*rounding, *(scale.scale for scale in training.scales.values()), *training.biases.values()]
    if difference is not None:
        found = torch.autograd.grad(difference, learned, allow_unused=True)
        training.carried = [
            torch.zeros_like(v) if g is None else g for v, g in zip(learned, found, strict=True)
        ]
    if not training.carried:
        return
    size, share, factor = _norm(training.carried[: len(rounding)]), training.options.difference_share, 1.0
    if math.isfinite(share) and size > 0:
        factor = min(1.0, share * _norm([v.grad for v in rounding if v.grad is not None]) / size)
    for index, (variable, gradient) in enumerate(zip(learned, training.carried, strict=True)):
        part = gradient * factor if index < len(rounding) else gradient
        variable.grad = part if variable.grad is None else variable.grad + part


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))


def soft_placement(placement: Placement, training: UnitTraining) -> Placement:
    """Placement with differentiable weights and activation scales of the unit under training."""
    layers = dict(placement.layers)
    for name, variable in training.rounding.items():
        layers[name] = replace(layers[name], weight=variable.soft_weight())
    for name, bias in training.biases.items():
        layers[name] = replace(layers[name], bias=bias)
    return Placement(layers, {**placement.activations, **training.scales})


def hard_placement(placement: Placement, training: UnitTraining) -> Placement:
    """Placement with rounding decided and scales frozen."""
    layers: dict[str, PlacedLayer] = dict(placement.layers)
    for name, variable in training.rounding.items():
        terms = variable.hard_terms()
        layers[name] = replace(layers[name], terms=terms, weight=value_of_terms(terms, variable.shape))
    for name, bias in training.biases.items():
        layers[name] = replace(layers[name], bias=bias.detach().clone())
    grids = {
        key: replace(scale.grid, scale=max(float(scale.scale.detach()), SMALLEST_SCALE))
        for key, scale in training.scales.items()
    }
    return Placement(layers, {**placement.activations, **grids})


@dataclass(frozen=True, eq=False)
class UnitData:
    """Aligned samples of one unit: sample i has the same index everywhere."""

    quantized: Tensor  # x_q
    corrected: Tensor  # x_c
    target: Tensor  # f(x_c)
    logits: Tensor  # z_fp of the original sample
    side: Callable[[Tensor], dict[fx.Node, object]] = field(repr=False)
    """Values that depend on inputs alone, for given sample numbers."""


def train_unit(
    runner: GraphRunner,
    training: UnitTraining,
    placement: Placement,
    data: UnitData,
    tail: tuple[fx.Node, ...],
    after_step: Callable[[int], None],
) -> None:
    """Run the remaining iterations (methods.md 3.7); the unit sees samples of the graph's own batch size."""
    options, unit = training.options, training.unit
    channel = 1 if data.target.dim() in (2, 4) else -1
    power = output_power(data.logits)
    with torch.enable_grad():
        while training.iteration < options.iterations:
            pick = torch.randint(len(data.quantized), (options.batch,), generator=training.generator)
            side = data.side(pick)
            mixed = drop_mix(
                data.quantized[pick], data.corrected[pick], options.drop_input, training.generator
            )
            soft = soft_placement(placement, training)
            output = _run(runner, unit, mixed, side, soft)
            fit = reconstruction(output, data.target[pick], channel)
            beta = rounding_temperature(training.iteration, options.iterations, options.warmup)
            rounding = torch.zeros(())
            if beta is not None:
                for variable in training.rounding.values():
                    rounding = rounding + rounding_regulariser(variable.soft(), beta)
            for optimizer in training.optimizers:
                optimizer.zero_grad()
            local = fit + options.rounding_weight * rounding
            difference = None
            asked = options.difference_every > 0 and math.isfinite(options.lambda_r)
            if asked and training.iteration % options.difference_every == 0:
                pure = _run(runner, unit, data.quantized[pick], side, soft)
                env = {**side, unit.exit: pure}
                runner.run(env, tail, None, frozenset({runner.output, *side}))
                difference = prediction_difference(
                    data.logits[pick], env[runner.output], options.temperature, power
                )
                difference = difference / options.lambda_r
            add_gradients(training, local, difference)
            cosine = 0.5 * (1 + math.cos(math.pi * training.iteration / options.iterations))
            for optimizer in training.optimizers:
                for group in optimizer.param_groups:
                    if "initial_lr" in group:  # the rounding keeps its rate
                        group["lr"] = group["initial_lr"] * cosine
            for optimizer in training.optimizers:
                optimizer.step()
            with torch.no_grad():
                for scale in training.scales.values():
                    scale.scale.clamp_(min=SMALLEST_SCALE)
            training.iteration += 1
            after_step(training.iteration)


def _run(
    runner: GraphRunner, unit: Unit, x: Tensor, side: dict[fx.Node, object], placement: Placement
) -> Tensor:
    env = {**side, unit.entry: x}
    runner.run(env, unit.nodes, placement, frozenset({unit.exit, *side}))
    return env[unit.exit]
