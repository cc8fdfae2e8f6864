"""What the referee looks at: the divergence of the quantized network's predictions from the float one's."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from quant.methods.calibrate import Calibrated
from quant.methods.interpret import GraphRunner
from quant.methods.prediction_loss import prediction_differences
from quant.predictions import comparable, mean_squares, output_power

ROUND_OFF = 1e-9
"""Differences of divergences that say nothing."""


def float_predictions(module: fx.GraphModule, batches: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Outputs of the float network, by batch."""
    runner = GraphRunner(module)
    with torch.no_grad():
        return [runner.predictions(batch) for batch in batches]


def divergence(
    calibrated: Calibrated, batches: Sequence[Sequence[Tensor]], reference: Sequence[Sequence[Tensor]]
) -> float:
    """Mean of what all samples diverge by."""
    return float(divergences(calibrated, batches, reference).mean())


def divergences(
    calibrated: Calibrated, batches: Sequence[Sequence[Tensor]], reference: Sequence[Sequence[Tensor]]
) -> Tensor:
    """KL(float || quantized) of every sample, float64; relative squared errors where there are no classes.

    Those of all outputs but the first are added: a network with a head that is lost is not like the float one.
    Summed in float64 and never below 0: of two networks that hardly differ from the float one, round-off would choose.
    """
    power = output_power(torch.cat([torch.atleast_1d(first) for first, *_ in reference]))
    powers = mean_squares(reference)[1:]
    return torch.cat(
        [
            _divergences(exact, calibrated.predictions(batch), power, powers)
            for batch, exact in zip(batches, reference, strict=True)
        ]
    )


def _divergences(
    exact: Sequence[Tensor], found: Sequence[Tensor], power: float | None, powers: Sequence[float]
) -> Tensor:
    """Of the samples of one batch."""
    values = prediction_differences(exact[0].double(), found[0].double(), power=power).clamp(min=0)
    total = values.reshape(len(values) if values.dim() else 1, -1).mean(1)
    for wanted, other, scale in zip(exact[1:], found[1:], powers, strict=True):
        if not wanted.numel():
            continue
        errors = ((other.double() - wanted.double()).square() / scale).where(comparable(wanted, other), 0.0)
        by_sample = errors.dim() > 0 and len(errors) == len(total)
        total = total + (errors.reshape(len(total), -1).mean(1) if by_sample else errors.mean())
    return total


def standard_error(difference: Tensor) -> float:
    """Of the mean of paired differences; 0 for a single one and for a network that blew up."""
    error = float(difference.std() / len(difference) ** 0.5) if len(difference) > 1 else 0.0
    return error if math.isfinite(error) else 0.0


def grew(before: Tensor, after: Tensor, tolerance: float) -> bool:
    """Whether divergences grew by more than noise: their mean and the mean of their roots, each by a standard error.

    Five samples of a hundred may carry most of the mean, and then its error says little; roots weigh samples evenly.
    """
    rise, roots = after - before, after.sqrt() - before.sqrt()
    allowed = float(before.mean()) * tolerance + standard_error(rise) + ROUND_OFF
    within = float(rise.mean()) <= allowed or float(roots.mean()) <= standard_error(roots)
    return not within  # a network that blew up is within nothing
