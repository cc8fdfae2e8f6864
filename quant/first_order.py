"""Operators for the first order of an expansion, each with the largest weight error it can leave.

The expansion is agnostic to the operator that makes its first term (methods.md 2.8): later orders take their
range from what it leaves. A bound in units of the step: round-to-nearest and power-of-two scales leave at most
1/2, SQuant-style flips at most 1, GPTQ any amount (its feedback moves weights away from where they were), so
there only the measured residual bounds the rest. Equalisation (DFQ) changes the weights, not the rounding.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from collections.abc import Callable

import torch
from torch import Tensor

FirstOrder = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(weight (O, I) float64, bits) -> (integer codes (O, I), scale of each row (O,))."""


def tiling_scale(weight: Tensor, bits: int) -> Tensor:
    """Step whose 2^b - 1 cells tile the range of each row; 1 for a zero row. Rounded to float32."""
    scale = 2 * weight.abs().amax(1) / (2.0**bits - 1)
    return torch.where(scale > 1e-30, scale, torch.ones_like(scale)).to(torch.float32).to(weight.dtype)


def round_to_nearest(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Nearest code; leaves at most half a step."""
    scale = tiling_scale(weight, bits)
    limit = 2 ** (bits - 1) - 1
    return torch.round(weight / scale[:, None]).clamp(-limit, limit), scale


def power_of_two(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Nearest code on a step that is a power of two; leaves at most half a step, a step up to twice as large."""
    scale = torch.exp2(torch.ceil(torch.log2(tiling_scale(weight, bits))))
    limit = 2 ** (bits - 1) - 1
    return torch.round(weight / scale[:, None]).clamp(-limit, limit), scale


def squant_flips(kernel: int = 1) -> FirstOrder:
    """SQuant-style rounding (Guo et al. 2022): flip the fewest roundings until errors cancel.

    First within each kernel of `kernel` adjacent columns, then within each row, the elements closest to the
    other code are flipped until the summed error is below half a step. An element may end a whole step off.
    """

    def operator(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        codes, scale = round_to_nearest(weight, bits)
        target = weight / scale[:, None]
        limit = 2 ** (bits - 1) - 1
        if kernel > 1:
            rows = target.reshape(-1, kernel)
            codes = _flip(rows, codes.reshape(-1, kernel), limit).reshape(weight.shape)
        return _flip(target, codes, limit), scale

    return operator


def _flip(target: Tensor, codes: Tensor, limit: int) -> Tensor:
    """Move codes by one towards the summed error of each row, those with the largest own error first."""
    error = target - codes
    total = error.sum(1, keepdim=True)
    direction = torch.sign(total)
    flips = torch.round(total.abs())
    gain = error * direction
    allowed = (gain > 0) & ((codes + direction).abs() <= limit)
    rank = torch.argsort(torch.where(allowed, -gain, torch.ones_like(gain)), dim=1, stable=True)
    place = torch.empty_like(rank)
    place.scatter_(1, rank, torch.arange(codes.shape[1]).expand_as(rank).contiguous())
    return codes + direction * (allowed & (place < flips))


def gptq_order(moment: Tensor, damp: float = 0.01) -> FirstOrder:
    """GPTQ against the second moment (I, I) of the inputs as the first order of an expansion."""
    from quant.methods.gptq import GptqOptions, UniformRounder, gptq

    def operator(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        scale = tiling_scale(weight, bits)
        limit = 2 ** (bits - 1) - 1
        rounder = UniformRounder(scale[None], torch.zeros_like(scale)[None], -limit, limit)
        found = gptq(weight[None], moment[None], rounder, GptqOptions(damp=damp))
        return found.codes[0, 0].to(weight.dtype), scale

    return operator


def equalize(first: Tensor, bias: Tensor | None, second: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """DFQ cross-layer equalisation of two layers around a ReLU (Nagel et al. 2019).

    Output channel i of `first` is divided and input channel i of `second` multiplied by
    sqrt(range_1 * range_2) / range_2, so that both get the same range; the network's function is unchanged.
    `second` is (O, I, *kernel); channels without range on either side are left alone.
    """
    range_first = first.reshape(len(first), -1).abs().amax(1)
    range_second = second.transpose(0, 1).reshape(second.shape[1], -1).abs().amax(1)
    live = (range_first > 0) & (range_second > 0)
    factor = torch.where(
        live, (range_first / range_second.clamp_min(1e-30)).sqrt(), torch.ones_like(range_first)
    )
    shape = (-1, *(1,) * (first.dim() - 1))
    across = (1, -1, *(1,) * (second.dim() - 2))
    scaled_bias = None if bias is None else bias / factor
    return first / factor.reshape(shape), scaled_bias, second * factor.reshape(across)


FIRST_ORDERS: dict[str, Callable[[int], FirstOrder]] = {
    "squant": squant_flips,
    "pow2": lambda kernel: power_of_two,
}
"""Operators without data that a recipe may ask for, made for a kernel of so many adjacent columns."""
