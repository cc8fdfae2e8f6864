"""RepQuant's softmax quantizer: log-sqrt2 codes at calibration, powers of two at inference.

    q = clip(round(-2 log2(A / s)))      A_hat = s 2^(-q/2) = s (1 + (sqrt2 - 1) [q odd]) 2^(-ceil(q/2))

An integer kernel needs no multiply per element: two shift-accumulators, one for even and one for odd codes,
and one multiply per output: ``A_hat V = s (sum_even V >> q/2 + sqrt2 sum_odd V >> (q+1)/2)``.

Zero handling: *strict* keeps b bits, 2^b - 1 levels and one code for zero; *extended* is the authors' code,
2^b levels plus a zero that b bits cannot hold.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quant.errors import QuantError

ZeroMode = Literal["strict", "extended"]
SQRT2 = 2.0**0.5
PERCENTILES = (0.999, 0.9999, 0.99999)


@dataclass(frozen=True)
class LogSqrt2Quantizer:
    """Scale, width and zero handling of one attention map."""

    scale: float
    bits: int
    zero: ZeroMode = "strict"

    def __post_init__(self) -> None:
        """Reject a scale that has no logarithm."""
        if not self.scale > 0:
            raise QuantError(f"log-sqrt2 quantizer: scale must be positive, got {self.scale}")

    @property
    def levels(self) -> int:
        """Codes 0..levels-1 stand for powers; code ``levels`` stands for zero."""
        return 2**self.bits - 1 if self.zero == "strict" else 2**self.bits

    def encode(self, values: Tensor) -> Tensor:
        """Codes as int16; zero and everything below the smallest level become the zero code."""
        ratio = values / self.scale
        raw = torch.round(-2.0 * torch.log2(ratio.clamp_min(torch.finfo(ratio.dtype).tiny)))
        raw = torch.where(ratio > 0, raw, torch.full_like(raw, self.levels))
        return raw.clamp(0, self.levels).to(torch.int16)

    def decode(self, codes: Tensor) -> Tensor:
        """Direct form ``s 2^(-q/2)`` (float32)."""
        power = torch.exp2(-torch.ceil(codes.float() / 2))
        return self._scaled(codes, power)

    def _scaled(self, codes: Tensor, power: Tensor) -> Tensor:
        odd = torch.remainder(codes, 2) == 1
        scale = torch.tensor(self.scale, dtype=torch.float32)
        factor = torch.where(odd, scale * torch.tensor(SQRT2, dtype=torch.float32), scale)
        return torch.where(codes >= self.levels, torch.zeros_like(power), factor * power)

    def fake(self, values: Tensor) -> Tensor:
        """Quantize and dequantize, gradient passed straight through."""
        out = self.decode(self.encode(values.detach().float())).to(values.dtype)
        return values + (out - values).detach()


def log_sqrt2_direct(codes: Tensor, quantizer: LogSqrt2Quantizer) -> Tensor:
    """The textbook form: the scale times a power of two, times the float constant sqrt2 for odd codes."""
    half = torch.div(codes, 2, rounding_mode="floor").float()
    even = torch.tensor(quantizer.scale, dtype=torch.float32) * torch.exp2(-half)
    # 2^(-q/2) with q = 2h + 1 is sqrt2 * 2^(-(h+1)): a power of two scales exactly
    value = torch.where(torch.remainder(codes, 2) == 1, even * torch.tensor(SQRT2).float() * 0.5, even)
    return torch.where(codes >= quantizer.levels, torch.zeros_like(value), value)


def fit_log_sqrt2(values: Tensor, bits: int, zero: ZeroMode = "strict") -> LogSqrt2Quantizer:
    """Scale = the best of three percentiles of the attention map in mean squared error."""
    flat = values.detach().float().flatten()
    ordered = flat.sort().values
    best: tuple[float, float] | None = None
    for fraction in PERCENTILES:
        scale = float(ordered[min(len(ordered) - 1, int(fraction * len(ordered)))])
        if scale <= 0:
            continue
        candidate = LogSqrt2Quantizer(scale, bits, zero)
        error = float((candidate.decode(candidate.encode(flat)) - flat).square().mean())
        if best is None or error < best[0]:
            best = (error, scale)
    if best is None:
        return LogSqrt2Quantizer(1.0, bits, zero)
    return LogSqrt2Quantizer(best[1], bits, zero)


def integer_attention_product(
    codes: Tensor, values: Tensor, quantizer: LogSqrt2Quantizer
) -> tuple[Tensor, int]:
    """Two-accumulator integer form of ``A_hat V``: float64 result before the scale of V, and the shift used.

    ``codes`` (..., N, M) and integer ``values`` (..., M, C). Accumulators are int64 holding
    ``sum V << (S - e)``, which loses no bit (hardware shifts right by e instead and keeps S guard bits).
    """
    shift = (quantizer.levels + 1) // 2
    wide = values.to(torch.int64)
    peak = int(wide.abs().max()) * wide.shape[-2] if wide.numel() else 0
    if peak.bit_length() + shift > 62:
        raise QuantError(
            f"log-sqrt2 integer product: {quantizer.bits} bits overflow 64-bit accumulators: "
            "use at most 6 bits or the float form"
        )
    exponent = torch.div(codes.to(torch.int64) + 1, 2, rounding_mode="floor")
    power = torch.bitwise_left_shift(torch.ones_like(exponent), (shift - exponent).clamp_min(0))
    live = codes < quantizer.levels
    odd = torch.remainder(codes, 2) == 1
    zero = torch.zeros_like(power)
    even_sum = _integer_matmul(torch.where(live & ~odd, power, zero), wide)
    odd_sum = _integer_matmul(torch.where(live & odd, power, zero), wide)
    sqrt2 = float(torch.tensor(SQRT2, dtype=torch.float32))
    scale = float(torch.tensor(quantizer.scale, dtype=torch.float32))
    return scale * 2.0**-shift * (even_sum.double() + sqrt2 * odd_sum.double()), shift


def _integer_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Exact int64 product (torch has no batched int64 gemm on every platform: einsum falls back to loops)."""
    return torch.einsum("...nm,...mc->...nc", left, right)
