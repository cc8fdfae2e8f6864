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


@torch.enable_grad()
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

    def loss_of(sample: Tensor, bounds: tuple[Tensor, Tensor]) -> Tensor:
        error = sample - fake_quantize(sample, *bounds, bits)
        return ((error @ gram) * error).sum() / len(sample)

    theta = torch.full((2, len(low)), THETA_START, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=options.learning_rate)
    with torch.no_grad():
        before = float(loss_of(fixed, (low, high)))
    best, chosen = before, (low, high)
    for step in range(options.steps):
        pick = torch.randint(len(tokens), (min(options.batch_tokens, len(tokens)),), generator=generator)
        factors = torch.sigmoid(theta)
        loss = loss_of(tokens[pick], clip_range(low, high, factors[0], factors[1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 24 or step == options.steps - 1:
            with torch.no_grad():
                factors = torch.sigmoid(theta)
                bounds = clip_range(low, high, factors[0], factors[1])
                now = float(loss_of(fixed, bounds))
            if now < best:
                best, chosen = now, bounds
    return ClippedRange(chosen[0], chosen[1], before, best)
