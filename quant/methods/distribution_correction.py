"""PD-Quant's distribution correction (methods.md 3.4): nudge a unit's float input towards the batch norms' memory.

    L_DC = sum over BN [ mean_n |mu_BN - mu(x)_n|^2 + mean_n |sd_BN - sd(x)_n|^2 ] + L2(x_c, x) / lambda_c

The batch norms are folded in our graphs; a folded convolution's output is an affine map of the BN input,
``y = gamma (u - mu) / sqrt(var + eps) + beta``, so the statistics of u are recovered from y. Channels with
gamma = 0 carry no trace of u and are left out. LayerNorm networks have no such memory and are refused.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from quant.errors import QuantError
from quant.methods.graph_units import Unit
from quant.methods.interpret import GraphRunner
from quant.methods.prediction_loss import reconstruction

EPSILON = 1e-6


@dataclass(frozen=True, eq=False)
class BatchNormMemory:
    """Parameters of the batch norm that was folded into a convolution."""

    mean: Tensor
    variance: Tensor
    gamma: Tensor
    beta: Tensor
    epsilon: float = 1e-5

    @classmethod
    def of_output(cls, mean: Tensor, deviation: Tensor) -> Self:
        """Memory of a loader that kept only the folded output's own mean and deviation (beta and |gamma|).

        The statistics are then compared behind the batch norm instead of in front of it: every channel counts
        by what the next layer sees of it.
        """
        return cls(mean, deviation.square(), deviation, mean, 0.0)

    def input_of(self, folded_output: Tensor) -> tuple[Tensor, Tensor]:
        """BN input recovered from the folded output, and the mask of channels where that is possible."""
        live = self.gamma != 0
        gain = (
            torch.where(live, self.gamma, torch.ones_like(self.gamma)) / (self.variance + self.epsilon).sqrt()
        )
        view = (1, -1, 1, 1)
        return (folded_output - self.beta.view(view)) / gain.view(view) + self.mean.view(view), live


@dataclass(frozen=True)
class CorrectionOptions:
    """The authors' settings."""

    iterations: int = 500
    learning_rate: float = 1e-3
    minimum_rate: float = 1e-5
    patience: int = 100
    lambda_c: float = 0.02


def refuse_layer_norm(runner: GraphRunner) -> None:
    """DC needs batch-norm statistics; say so instead of doing nothing."""
    for node in runner.nodes:
        if "layer_norm" in str(node.target) or "rms_norm" in str(node.target):
            raise QuantError(
                "distribution correction: this network normalises by LayerNorm and keeps no batch statistics; "
                "run pd without batch-norm memory"
            )


def correction_loss(
    outputs: Sequence[tuple[Tensor, BatchNormMemory]], corrected: Tensor, original: Tensor, lambda_c: float
) -> Tensor:
    """L_DC of one batch; per-sample statistics, unbiased variance."""
    total = reconstruction(corrected, original) / lambda_c
    for folded, memory in outputs:
        values, live = memory.input_of(folded)
        flat = values.flatten(2)
        mean = flat.mean(2)
        deviation = (flat.var(2, unbiased=True) + EPSILON).sqrt()
        wanted = (memory.variance + EPSILON).sqrt()
        total = total + ((mean - memory.mean) * live).square().sum(1).mean()
        total = total + ((deviation - wanted) * live).square().sum(1).mean()
    return total


def correct_inputs(
    runner: GraphRunner,
    unit: Unit,
    original: Tensor,
    memory: Mapping[str, BatchNormMemory],
    options: CorrectionOptions,
) -> Tensor:
    """Corrected float input of a unit for one batch; exactly the original when the unit has no batch norm."""
    inside = {product.node: memory[product.name] for product in unit.products if product.name in memory}
    if not inside or options.iterations == 0 or options.lambda_c == 0:
        return original
    corrected = original.clone().requires_grad_()
    optimizer = torch.optim.Adam([corrected], lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=options.patience, min_lr=options.minimum_rate
    )
    with torch.enable_grad():
        for _ in range(options.iterations):
            env = {unit.entry: corrected}
            runner.run(env, unit.nodes, keep=frozenset(inside))
            found = [(env[node], inside[node]) for node in inside]
            loss = correction_loss(found, corrected, original, options.lambda_c)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step(loss.item())
    return corrected.detach()
