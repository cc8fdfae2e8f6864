"""What the referee looks at: the divergence of the quantized network's predictions from the float one's."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from quant.methods.calibrate import Calibrated
from quant.methods.interpret import GraphRunner
from quant.methods.prediction_loss import prediction_differences
from quant.predictions import output_power

ROUND_OFF = 1e-9
"""Differences of divergences that say nothing."""


def float_logits(module: fx.GraphModule, batches: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """First output of the float network, by batch."""
    runner = GraphRunner(module)
    with torch.no_grad():
        return [runner.logits(batch) for batch in batches]


def divergence(
    calibrated: Calibrated, batches: Sequence[Sequence[Tensor]], reference: Sequence[Tensor]
) -> float:
    """Mean KL(float || quantized) per prediction."""
    return float(divergences(calibrated, batches, reference).mean())


def divergences(
    calibrated: Calibrated, batches: Sequence[Sequence[Tensor]], reference: Sequence[Tensor]
) -> Tensor:
    """KL(float || quantized) of every sample, float64; relative squared errors where there are no classes.

    Summed in float64 and never below 0: of two networks that hardly differ from the float one, round-off would choose.
    """
    power = output_power(torch.cat(list(reference)))
    values = [
        prediction_differences(exact.double(), calibrated.logits(batch).double(), power=power)
        .clamp(min=0)
        .reshape(len(exact), -1)
        .mean(1)
        for batch, exact in zip(batches, reference, strict=True)
    ]
    return torch.cat(values)


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
