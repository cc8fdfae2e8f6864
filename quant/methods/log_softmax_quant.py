"""RepQuant's softmax quantizer: log-sqrt2 (or log2) codes whose scale is fitted on attention maps.

The quantizer and its integer form are in `quant.log_codes`, the operators of the integer graph in `quant.log_ops`.
"""

import torch
from torch import Tensor

from quant.log_codes import SQRT2, LogQuantizer, ZeroMode

PERCENTILES = (0.999, 0.9999, 0.99999)


def log_sqrt2_direct(codes: Tensor, quantizer: LogQuantizer) -> Tensor:
    """The textbook form: the scale times a power of two, times the float constant sqrt2 for odd codes."""
    half = torch.div(codes, 2, rounding_mode="floor").float()
    even = torch.tensor(quantizer.scale, dtype=torch.float32) * torch.exp2(-half)
    # 2^(-q/2) with q = 2h + 1 is sqrt2 * 2^(-(h+1)): a power of two scales exactly
    value = torch.where(torch.remainder(codes, 2) == 1, even * torch.tensor(SQRT2).float() * 0.5, even)
    return torch.where(codes >= quantizer.levels, torch.zeros_like(value), value)


def fit_log(values: Tensor, bits: int, zero: ZeroMode = "strict", steps: int = 2) -> LogQuantizer:
    """Scale = the best of three percentiles of the attention map in mean squared error."""
    flat = values.detach().float().flatten()
    ordered = flat.sort().values
    best: tuple[float, float] | None = None
    for fraction in PERCENTILES:
        scale = float(ordered[min(len(ordered) - 1, int(fraction * len(ordered)))])
        if scale <= 0:
            continue
        candidate = LogQuantizer(scale, bits, zero, steps)
        error = float((candidate.decode(candidate.encode(flat)) - flat).square().mean())
        if best is None or error < best[0]:
            best = (error, scale)
    if best is None:
        return LogQuantizer(1.0, bits, zero, steps)
    return LogQuantizer(best[1], bits, zero, steps)
