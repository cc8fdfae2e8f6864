"""RepQuant's per-channel dual clipping: learn how far to cut each channel's lower and upper end.

``l' = a l``, ``u' = b u`` with ``a, b = sigmoid(theta)``; minimise the output error of the layer that reads
the channel, ``|X W^T - Q(X) W^T|^2``, over calibration tokens. A channel whose range does not straddle zero
would *widen* under ``a l``; there the two factors move the ends towards the centre of the range instead.
Objective and optimizer are ours (the paper's are not public): Adam, best state kept, min-max if not better.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

THETA_START = 4.0


@dataclass(frozen=True)
class DualClippingOptions:
    """Optimizer settings of the clipping factors."""

    steps: int = 200
    learning_rate: float = 1e-2
    batch_tokens: int = 1024
    input_weight: float = 0.0  # mu: weight of |X - Q(X)|^2 beside the output error
    seed: int = 0


@dataclass(frozen=True)
class ClippedRange:
    """Chosen channel ranges and the loss before and after (same tokens)."""

    low: Tensor
    high: Tensor
    loss_before: float
    loss_after: float


def affine_grid(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and integer zero point of ranges; a channel of width zero gets scale 0."""
    scale = (high - low) / (2**bits - 1)
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, torch.round(-low / safe)


def _round_through(values: Tensor) -> Tensor:
    return values + (torch.round(values) - values).detach()


def fake_quantize(inputs: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """Asymmetric fake quantization with gradients to the inputs and both range ends."""
    scale = ((high - low) / (2**bits - 1)).clamp_min(1e-12)
    zero = _round_through(-low / scale)
    codes = torch.clamp(_round_through(inputs / scale) + zero, 0, 2**bits - 1)
    return (codes - zero) * scale


def clip_range(
    low: Tensor, high: Tensor, lower_factor: Tensor, upper_factor: Tensor
) -> tuple[Tensor, Tensor]:
    """Apply factors in (0, 1]: towards zero where the range straddles it, towards the centre elsewhere."""
    straddles = (low <= 0) & (high >= 0)
    centre = (low + high) / 2
    anchor = torch.where(straddles, torch.zeros_like(centre), centre)
    return anchor + lower_factor * (low - anchor), anchor + upper_factor * (high - anchor)


def channel_mse_range(inputs: Tensor, bits: int, candidates: int = 24) -> tuple[Tensor, Tensor]:
    """Least-squares range of every channel of (N, D) among common shrinkages of its minimum and maximum.

    The authors' percentiles do the same job; at 4 bits the best Gaussian range is far inside min-max.
    """
    low, high = inputs.amin(0), inputs.amax(0)
    best = torch.full_like(low, torch.inf)
    chosen = (low, high)
    for factor in torch.linspace(1.0, 0.35, candidates):
        bounds = clip_range(low, high, factor, factor)
        error = (fake_quantize(inputs, *bounds, bits) - inputs).square().mean(0)
        better = error < best
        best = torch.where(better, error, best)
        chosen = (torch.where(better, bounds[0], chosen[0]), torch.where(better, bounds[1], chosen[1]))
    return chosen


def output_error(
    inputs: Tensor, gram: Tensor, bounds: tuple[Tensor, Tensor], bits: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``tr(E G E^T) / N`` of ``E = X - Q(X)``, and its gradients to both range ends.

    By hand, in a third of the time that autograd takes: rounding passes gradients straight through, so a code inside
    the range moves with x / s and one outside stands still (the test compares with autograd on `fake_quantize`).
    """
    low, high = bounds
    levels = 2**bits - 1
    wide = (high - low) / levels
    scale = wide.clamp_min(1e-12)
    zero = torch.round(-low / scale)
    ratio = inputs / scale
    shifted = torch.round(ratio).add_(zero)
    codes = shifted.clamp(0, levels)
    inside = shifted == codes
    centred = codes.sub_(zero)
    error = torch.addcmul(inputs, centred, scale, value=-1)
    weighted = error @ gram
    loss = (weighted * error).sum() / len(inputs)
    slope = weighted.mul_(-2 / len(inputs))  # of the loss to Q
    to_scale = (slope * centred.sub_(ratio.mul_(inside))).sum(0)
    to_zero = -scale * slope.masked_fill_(inside, 0.0).sum(0)
    to_scale = torch.where(wide >= 1e-12, to_scale + to_zero * low / scale.square(), torch.zeros_like(scale))
    return loss, -to_scale / levels - to_zero / scale, to_scale / levels


@torch.no_grad()
def learn_dual_clipping(
    inputs: Tensor,
    weight: Tensor,
    bits: int,
    options: DualClippingOptions | None = None,
    start: tuple[Tensor, Tensor] | None = None,
) -> ClippedRange:
    """Ranges for channels of ``inputs`` (N, D) read by ``weight`` (O, D); all consumers stacked on O.

    Starts at min-max, or at ``start``; the result is never worse than that on the tokens it is judged by.
    """
    options = options or DualClippingOptions()
    tokens, weight = inputs.detach().float(), weight.detach().float()
    low, high = (tokens.amin(0), tokens.amax(0)) if start is None else start
    gram = weight.T @ weight  # |E W^T|^2 = E G E^T: O drops out of every step
    gram = gram + options.input_weight * torch.eye(len(low))
    generator = torch.Generator().manual_seed(options.seed)
    fixed = tokens[torch.randperm(len(tokens), generator=generator)[: 4 * options.batch_tokens]]
    anchor = torch.where((low <= 0) & (high >= 0), torch.zeros_like(low), (low + high) / 2)
    theta = torch.full((2, len(low)), THETA_START, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=options.learning_rate)
    before = float(output_error(fixed, gram, (low, high), bits)[0])
    best, chosen = before, (low, high)
    for step in range(options.steps):
        pick = torch.randint(len(tokens), (min(options.batch_tokens, len(tokens)),), generator=generator)
        factors = torch.sigmoid(theta)
        bounds = clip_range(low, high, factors[0], factors[1])
        _, to_low, to_high = output_error(tokens[pick], gram, bounds, bits)
        to_factors = torch.stack([to_low * (low - anchor), to_high * (high - anchor)])
        theta.grad = to_factors * factors * (1 - factors)
        optimizer.step()
        if step % 25 == 24 or step == options.steps - 1:
            factors = torch.sigmoid(theta)
            bounds = clip_range(low, high, factors[0], factors[1])
            now = float(output_error(fixed, gram, bounds, bits)[0])
            if now < best:
                best, chosen = now, bounds
    return ClippedRange(chosen[0], chosen[1], before, best)
