"""Bias Compensation: the constant that best repairs the mean error a quantized layer makes.

``B* = mean(Y - Q)`` over the axes that are averaged out minimises ``|Y - (Q + B)|^2`` and lowers it by
exactly ``mean(B*^2)``. Sums and counts run in float64, so ragged batches and masks weigh every element alike.
With few samples B* adds more noise than it removes; `Compensation.bias` is therefore shrunk by the estimated
variance of the mean (James-Stein style), which is measured between samples, not between tokens of one sample.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quant.errors import QuantError

Shrinkage = Literal["none", "layer", "coordinate"]
BiasPath = Literal["quantized", "local", "float"]
"""Whose mean error is repaired: all that has come together on the quantized path; what the layer adds to it, float
against quantized product of the same inputs; or what it adds to float inputs (the authors' form)."""
BiasAxes = Literal["channel", "groups", "position"]
"""One value a channel (folds into the layer's bias at no cost), one a channel for each of a few groups of positions
(position_groups.py), or one for every output element of a sample."""


@dataclass(frozen=True)
class Compensation:
    """A fitted bias and the evidence it rests on."""

    bias: Tensor  # float32, shape of the kept axes, after shrinkage
    mean: Tensor  # float64, B* itself
    variance: Tensor  # float64, estimated variance of the mean
    samples: int
    factor: Tensor  # shrink factor(s) in [0, 1]
    mse_before: float
    mse_after: float  # with `bias`, on the same data; equals mse_before - mean(B*^2) without shrinkage


class MeanErrorAccumulator:
    """Streaming sums of ``Y - Q`` over everything but the kept axes; axis 0 is always the sample axis."""

    def __init__(self, keep_axes: tuple[int, ...]) -> None:
        self.keep_axes = keep_axes
        self._total: Tensor | None = None  # sum of errors
        self._count: Tensor | None = None
        self._square = 0.0  # sum of squared errors
        self._sample_square: Tensor | None = None  # sum over samples of S_i^2, S_i C_i, C_i^2
        self._sample_cross: Tensor | None = None
        self._count_square: Tensor | None = None
        self.samples = 0

    def update(self, target: Tensor, output: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch; ``mask`` (broadcastable, 1 = count) drops padding."""
        if target.shape != output.shape:
            raise QuantError(
                f"bias compensation: outputs {tuple(output.shape)} against {tuple(target.shape)}"
            )
        rank = target.dim()
        kept = {axis % rank for axis in self.keep_axes}
        if 0 in kept:
            raise QuantError("bias compensation: axis 0 holds the samples and cannot be kept")
        axes = [axis for axis in range(1, rank) if axis not in kept]
        if mask is None:
            self._add(target, output, axes)
        else:
            mask = mask.expand_as(target)
            for wanted, found, weights in in_cache(target, output, mask):
                self._add_masked(wanted, found, weights, axes)
        self.samples += len(target)

    def _add(self, target: Tensor, output: Tensor, axes: list[int]) -> None:
        """A batch of which every coordinate of every sample counts alike."""
        shape = [size for axis, size in enumerate(target.shape[1:], 1) if axis not in axes]
        total, squares = torch.zeros(2, *shape, dtype=torch.float64)
        square = total.new_zeros(())
        for wanted, found in in_cache(target, output):
            error = wanted.double() - found.double()
            if axes:
                flat = error.flatten()
                square += torch.dot(flat, flat)
            for sample in error.sum(axes) if axes else error:
                total += sample
                squares.addcmul_(sample, sample)
        count = float(math.prod(target.shape[axis] for axis in axes))
        self._square += float(square if axes else squares.sum())
        self._total = _sum(self._total, total)
        self._count = _sum(self._count, total.new_tensor(count * len(target)))
        self._sample_square = _sum(self._sample_square, squares)
        self._sample_cross = _sum(self._sample_cross, total * count)
        self._count_square = _sum(self._count_square, total.new_tensor(count * count * len(target)))

    def _add_masked(self, target: Tensor, output: Tensor, mask: Tensor, axes: list[int]) -> None:
        weights = mask.double()
        error = (target.double() - output.double()) * weights
        per_sample = error.sum(axes) if axes else error
        counts = weights.sum(axes) if axes else weights
        self._square += float(torch.linalg.vector_norm(error).square())
        self._total = _sum(self._total, per_sample.sum(0))
        self._count = _sum(self._count, counts.sum(0))
        self._sample_square = _sum(self._sample_square, per_sample.square().sum(0))
        self._sample_cross = _sum(self._sample_cross, (per_sample * counts).sum(0))
        self._count_square = _sum(self._count_square, counts.square().sum(0))

    def solve(self, shrinkage: Shrinkage = "layer") -> Compensation:
        """Closed-form bias with its shrinkage."""
        total, count = self._total, self._count
        cross, squares, count_squares = self._sample_cross, self._sample_square, self._count_square
        if total is None or count is None or cross is None or squares is None or count_squares is None:
            raise QuantError("bias compensation: no samples were given")
        safe = count.clamp_min(1.0)
        mean = total / safe
        spread = squares - 2 * mean * cross + mean.square() * count_squares
        variance = spread.clamp_min(0) / safe.square() * (self.samples / max(self.samples - 1, 1))
        if self.samples < 2 and shrinkage != "none":
            variance = torch.full_like(variance, math.inf)  # one sample says nothing about its own noise
        factor = shrink_factor(mean, variance, shrinkage)
        bias = factor * mean
        elements = float(count.expand_as(total).sum())
        # sum of squares around any B: S2 - 2 B.T + B.B.count
        after = self._square + float((bias * bias * count - 2 * bias * total).sum())
        return Compensation(
            bias.float(), mean, variance, self.samples, factor, self._square / elements, after / elements
        )


def _sum(left: Tensor | None, right: Tensor) -> Tensor:
    return right if left is None else left + right


def in_cache(*values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A batch in parts of a few samples, to be widened to float64 while they are in the cache."""
    step = samples_at_a_time(values[0])
    return zip(*(value.split(step) for value in values), strict=True)


def samples_at_a_time(values: Tensor) -> int:
    """How many samples to widen to float64 together: what stays in the cache costs little."""
    return max(1, (1 << 17) * len(values) // max(1, values.numel()))


def shrink_factor(mean: Tensor, variance: Tensor, shrinkage: Shrinkage) -> Tensor:
    """``max(0, 1 - v / B^2)``, for the layer as a whole or for each coordinate."""
    if shrinkage == "none":
        return torch.ones((), dtype=mean.dtype)
    energy, noise = mean.square(), variance
    if shrinkage == "layer":
        energy, noise = energy.sum(), noise.sum()
    positive = energy > 0
    ratio = torch.where(positive, noise / torch.where(positive, energy, torch.ones_like(energy)), energy + 1)
    return (1 - ratio).clamp(0, 1)


def mean_error(pairs: Iterable[tuple[Tensor, Tensor]], keep_axes: tuple[int, ...]) -> MeanErrorAccumulator:
    """The sums over batches of (wanted, quantized) outputs."""
    accumulator = MeanErrorAccumulator(keep_axes)
    for target, output in pairs:
        accumulator.update(target, output)
    return accumulator


def fit_bias(
    target: Tensor, output: Tensor, keep_axes: tuple[int, ...], shrinkage: Shrinkage = "layer"
) -> Compensation:
    """The bias of one batch."""
    return mean_error([(target, output)], keep_axes).solve(shrinkage)


def data_free_bias(weight: Tensor, quantized: Tensor, input_mean: Tensor) -> Tensor:
    """``(W - W_hat) E[x]`` for weights (O, I) or (O, I/groups, kh, kw) and a mean per input channel.

    The convolution form takes the mean as constant over the window: exact away from padded borders.
    """
    delta = (weight - quantized).double()
    if delta.dim() == 2:
        return (delta @ input_mean.double()).float()
    rows, width = delta.shape[0], delta.shape[1]
    groups = input_mean.numel() // width
    means = input_mean.double().reshape(groups, 1, width).expand(groups, rows // groups, width)
    return (delta.flatten(2).sum(2) * means.reshape(rows, width)).sum(1).float()


def mean_after_batch_norm(beta: Tensor, gamma: Tensor, *, relu: bool, ceiling: float | None = None) -> Tensor:
    """E[x] of a channel ~ N(beta, gamma^2), after ReLU (clipped at ``ceiling`` if given)."""
    mean, sigma = beta.double(), gamma.double().abs()
    if not relu:
        return mean
    return _rectified_mean(mean, sigma) - (
        _rectified_mean(mean - ceiling, sigma) if ceiling is not None else torch.zeros_like(mean)
    )


def _rectified_mean(mean: Tensor, sigma: Tensor) -> Tensor:
    """E[max(0, N(mean, sigma^2))] = sigma phi(mean/sigma) + mean Phi(mean/sigma)."""
    safe = torch.where(sigma > 0, sigma, torch.ones_like(sigma))
    t = mean / safe
    density = torch.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    smooth = safe * density + mean * torch.special.ndtr(t)
    return torch.where(sigma > 0, smooth, mean.clamp_min(0))


def channel_axis(rank: int, *, convolution: bool) -> int:
    """Where a product keeps its output channels."""
    return 1 if convolution else rank - 1
