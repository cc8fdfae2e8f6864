"""What the referee looks at: the divergence of the quantized network's predictions from the float one's."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from quant.methods.calibrate import Calibrated
from quant.methods.interpret import GraphRunner
from quant.methods.prediction_loss import prediction_difference


def float_logits(module: fx.GraphModule, batches: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """First output of the float network, by batch."""
    runner = GraphRunner(module)
    with torch.no_grad():
        return [runner.logits(batch) for batch in batches]


def divergence(
    calibrated: Calibrated, batches: Sequence[Sequence[Tensor]], reference: Sequence[Tensor]
) -> float:
    """Mean KL(float || quantized) per prediction."""
    values = [
        float(prediction_difference(exact, calibrated.logits(batch)))
        for batch, exact in zip(batches, reference, strict=True)
    ]
    return sum(values) / len(values)
