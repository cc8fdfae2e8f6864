"""Put an error profile right by measurement, where calibration data is at hand.

For every layer the divergence of the output is measured with only its activations on each offered width, and
with only its weights on the coarsest, the middle and the finest width; the network runs in float otherwise.
Activation errors move towards what was measured, the further the more samples there are. The error of a weight
option, which the Fisher information ranks well within one layer, is multiplied by what measurement said of the
options nearest to it: the factor is interpolated over the logarithm of the estimate. The cost is about half a
forward pass for each layer, width and sample.

Weights are measured with and without Bias Compensation (``+bc``), which costs nothing at run time: so the
planner may buy a bias before it buys a term, layer by layer.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hwsim.stages.error_profile import ErrorProfile, LayerErrors, WeightError, weight_part
from quant.scheme import Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from hwsim.model.graph import Layer
    from hwsim.model.load import LoadedModel
    from quant.activation import ActRanges
    from quant.measured import Trial

LEAST = 1e-9  # nats: below this a measured divergence is rounding noise of float32
PRIOR = (
    8.0  # samples that the estimate is worth: on few samples the mean of a divergence hangs on one of them
)


def measure_errors(
    model: "LoadedModel",
    profile: ErrorProfile,
    batches: "Sequence[tuple[Tensor, ...]]",
    *,
    compensation: bool = True,
    prior: float = PRIOR,
) -> ErrorProfile:
    """The profile with activation errors as measured and weight errors scaled to what was measured.

    With ``compensation`` it also holds every weight option with a corrected bias. Measurement and estimate meet at
    their geometric mean, weighted by the samples measured and by ``prior``.
    """
    from quant.measured import measure_alone

    layers = {layer.name: layer for layer in model.graph.products()}
    weights = model.module.state_dict()
    ranges = {bits: _ranges(model, bits, batches) for bits in _grid_widths(layers, profile)}

    def trials(name: str) -> "list[Trial]":
        layer = layers[name]
        weight = None if layer.packed_weight is None else weights[layer.packed_weight].detach()
        found = _trials(layer, weight, profile.layers[name], ranges)
        return [trial for trial in found if compensation or not trial.centred]

    results = measure_alone(model.module, batches, trials)
    samples = sum(len(batch[0]) for batch in batches)
    trust = samples / (samples + prior)
    corrected = {
        name: _corrected(errors, _trusted(errors, results.get(name, {}), trust))
        for name, errors in profile.layers.items()
    }
    basis = f"{profile.basis}; each layer alone measured on {samples} of the samples"
    return replace(profile, layers=corrected, basis=basis)


def anchors(errors: LayerErrors) -> list[Scheme]:
    """The weight options to measure: one term of the coarsest, the middle and the finest width."""
    plain = [scheme for scheme in errors.weights if scheme.order == 1 and not scheme.recipe]
    ordered = sorted(plain, key=lambda scheme: -errors.weights[scheme].loss)
    places = sorted({0, len(ordered) // 2, len(ordered) - 1}) if ordered else []
    return [ordered[place] for place in places]


def _grid_widths(layers: "Mapping[str, Layer]", profile: ErrorProfile) -> list[int]:
    """Widths of first operands, and of second ones where these are activations too."""
    widths = {bits for errors in profile.layers.values() for bits in errors.activations}
    for name, errors in profile.layers.items():
        if layers[name].packed_weight is None:
            widths |= {scheme.weight_bits for scheme in errors.weights}
    return sorted(bits for bits in widths if bits is not None)


def _ranges(model: "LoadedModel", bits: int, batches: "Sequence[tuple[Tensor, ...]]") -> "ActRanges":
    """The ranges that ``hwsim quantize`` would take from the same samples."""
    from quant.observe import observe_ranges

    assignment = {layer.name: Scheme(bits, bits) for layer in model.graph.products()}
    return observe_ranges(model.module, assignment, batches, method="mse")


def _trials(
    layer: "Layer", weight: "Tensor | None", errors: LayerErrors, ranges: "dict[int, ActRanges]"
) -> "list[Trial]":
    from quant.expansion import expand
    from quant.measured import Trial
    from quant.ranges import AffineRange

    def grid(operand: int, bits: int | None) -> AffineRange:
        assert bits is not None
        low, high = ranges[bits].of(f"{layer.name}.in{operand}")
        return AffineRange(min(low, 0.0), max(high, 0.0), bits)

    found = [Trial(bits, ranges=(grid(0, bits),)) for bits in filter(None, errors.activations)]
    if weight is None:
        return found + [Trial(s, ranges=(None, grid(1, s.weight_bits))) for s in errors.weights]
    for scheme in anchors(errors):
        expanded = expand(weight, scheme).weight()
        found += [Trial(scheme, expanded), Trial(compensated(scheme), expanded, centred=True)]
    return found


def _trusted(
    errors: LayerErrors, measured: "Mapping[Hashable, float]", trust: float
) -> dict[Hashable, float]:
    """Measured divergences drawn towards the estimates; what a compensation leaves of one keeps its ratio."""

    def meet(found: float, estimate: float) -> float:
        return max(found, LEAST) ** trust * max(estimate, LEAST) ** (1 - trust)

    trusted: dict[Hashable, float] = {
        bits: meet(measured[bits], loss) for bits, loss in errors.activations.items() if bits in measured
    }
    for scheme, error in errors.weights.items():
        if scheme in measured:
            trusted[scheme] = meet(measured[scheme], error.loss)
            ratio = measured.get(compensated(scheme), 0.0) / max(measured[scheme], LEAST)
            if compensated(scheme) in measured:
                trusted[compensated(scheme)] = ratio * trusted[scheme]
    return trusted


def _corrected(errors: LayerErrors, measured: "Mapping[Hashable, float]") -> LayerErrors:
    activations = {
        bits: loss if bits is None else max(measured.get(bits, loss), LEAST)
        for bits, loss in errors.activations.items()
    }
    weights = _scaled(errors.weights, {s: measured[s] for s in errors.weights if s in measured})
    centred = {s: measured[compensated(s)] for s in errors.weights if compensated(s) in measured}
    with_bias = {compensated(s): e for s, e in _scaled(errors.weights, centred).items()} if centred else {}
    return LayerErrors(weights | with_bias, activations)


def _scaled(
    errors: "Mapping[Scheme, WeightError]", measured: Mapping[Scheme, float]
) -> dict[Scheme, WeightError]:
    """Every estimate times the factor by which the nearest measured ones were off."""
    known = sorted(
        (
            math.log(max(errors[scheme].loss, LEAST)),
            math.log(max(found, LEAST) / max(errors[scheme].loss, LEAST)),
        )
        for scheme, found in measured.items()
    )
    if not known:
        return dict(errors)
    at, factor = zip(*known, strict=True)

    def scaled(error: WeightError) -> WeightError:
        ratio = float(np.interp(math.log(max(error.loss, LEAST)), at, factor))
        return replace(error, loss=error.loss * math.exp(ratio))

    return {scheme: scaled(error) for scheme, error in errors.items()}


def compensated(scheme: Scheme) -> Scheme:
    """The same scheme with Bias Compensation in its recipe."""
    return replace(scheme, recipe=("bc",))


def with_compensation(
    offered: "Sequence[Sequence[Scheme]]", profiles: Sequence[LayerErrors]
) -> list[list[Scheme]]:
    """The offered schemes, each also with the compensation whose error is known."""
    return [
        [*schemes, *(compensated(s) for s in schemes if weight_part(compensated(s)) in errors.weights)]
        for schemes, errors in zip(offered, profiles, strict=True)
    ]
