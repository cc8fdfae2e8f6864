"""Put an error profile right by measurement, where calibration data is at hand.

For every layer the divergence of the output is measured with only its activations on each offered width, and
with only its weights on each plain width (and on the coarsest expansion); the network runs in float otherwise.
Activation errors are replaced by what was measured. The error of a weight option, which the Fisher information
ranks well within one layer, is multiplied by what measurement said of the options nearest to it: the factor is
interpolated over the logarithm of the estimate. The cost is about half a forward pass for each layer, width and
sample.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hwsim.stages.error_profile import ErrorProfile, LayerErrors, WeightError
from quant.scheme import Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from hwsim.model.graph import Layer
    from hwsim.model.load import LoadedModel
    from quant.activation import ActRanges
    from quant.measured import Trial

LEAST = 1e-9  # nats: below this a measured divergence is rounding noise of float32


def measure_errors(
    model: "LoadedModel", profile: ErrorProfile, batches: "Sequence[tuple[Tensor, ...]]"
) -> ErrorProfile:
    """The profile with activation errors as measured and weight errors scaled to what was measured."""
    from quant.measured import measure_alone

    layers = {layer.name: layer for layer in model.graph.products()}
    weights = model.module.state_dict()
    ranges = {bits: _ranges(model, bits, batches) for bits in _act_bits(profile)}

    def trials(name: str) -> "list[Trial]":
        layer = layers[name]
        weight = None if layer.weight is None else weights[layer.weight].detach()
        return _trials(layer, weight, profile.layers[name], ranges)

    found = measure_alone(model.module, batches, trials)
    corrected = {name: _corrected(errors, found.get(name, {})) for name, errors in profile.layers.items()}
    samples = sum(len(batch[0]) for batch in batches)
    basis = f"{profile.basis}; each layer alone measured on {samples} of the samples"
    return replace(profile, layers=corrected, basis=basis)


def anchors(errors: LayerErrors) -> list[Scheme]:
    """The weight options to measure: every width alone, and the expansion with the largest error."""
    plain = [scheme for scheme in errors.weights if scheme.order == 1]
    expanded = [scheme for scheme in errors.weights if scheme.order > 1 and scheme.axis == "rows"]
    coarsest = max(expanded, key=lambda scheme: errors.weights[scheme].loss, default=None)
    return plain if coarsest is None else [*plain, coarsest]


def _act_bits(profile: ErrorProfile) -> list[int]:
    return sorted({bits for errors in profile.layers.values() for bits in errors.activations if bits})


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

    found: list[Trial] = []
    operands = 1 if weight is not None else 2
    for bits in filter(None, errors.activations):
        ends = [ranges[bits].of(f"{layer.name}.in{index}") for index in range(operands)]
        grids = tuple(AffineRange(min(low, 0.0), max(high, 0.0), bits) for low, high in ends)
        found.append(Trial(bits, ranges=grids))
    if weight is not None:
        found += [Trial(scheme, weight=expand(weight, scheme).weight()) for scheme in anchors(errors)]
    return found


def _corrected(errors: LayerErrors, measured: "Mapping[Hashable, float]") -> LayerErrors:
    activations = {
        bits: loss if bits is None else max(measured.get(bits, loss), LEAST)
        for bits, loss in errors.activations.items()
    }
    known = sorted(
        (math.log(max(error.loss, LEAST)), math.log(max(measured[scheme], LEAST) / max(error.loss, LEAST)))
        for scheme, error in errors.weights.items()
        if scheme in measured
    )
    if not known:
        return LayerErrors(errors.weights, activations)
    at, factor = zip(*known, strict=True)

    def scaled(error: WeightError) -> WeightError:
        ratio = float(np.interp(math.log(max(error.loss, LEAST)), at, factor))
        return replace(error, loss=error.loss * math.exp(ratio))

    return LayerErrors({scheme: scaled(e) for scheme, e in errors.weights.items()}, activations)
