"""Custom torch operators for the product of log codes and quantized values (`quant.log_codes` has the formulas).

    q   = hwsim.log_quantize(x, scale, levels, steps)
    acc = hwsim.int_log_matmul(q, values, zero_point, levels, steps)
    y   = hwsim.log_dequantize(acc, scale_a, scale_b, levels, steps)

log_quantize    uint8 codes 0..levels (at most 32), read off the bits of float32(x / scale); `levels` is zero.
int_log_matmul  acc[g] = sum_j P_g(q[..., j]) (v[..., j, :] - zero_point), int32, one accumulator g for each parity of
                each block of 8 octaves, in front of all other dimensions; P_g(q) is a power of two or 0.
log_dequantize  y = sum_g float32(acc[g]) * float32((scale_a * scale_b) * f_g), rounded after every product and every
                addition, in order of g.
"""
# pyright: basic
# torch.library's decorators are untyped in torch's stubs.

import torch
from torch import Tensor

from quant.exact import integer_matmul
from quant.log_codes import factors, groups, log_codes, powers


@torch.library.custom_op("hwsim::log_quantize", mutates_args=())
def log_quantize(x: Tensor, scale: Tensor, levels: int, steps: int) -> Tensor:
    """Float to log codes; see the module docstring."""
    return log_codes(x, scale, levels, steps).to(torch.uint8)


@log_quantize.register_fake
def _(x: Tensor, scale: Tensor, levels: int, steps: int) -> Tensor:
    return torch.empty(x.shape, dtype=torch.uint8, device=x.device)


@torch.library.custom_op("hwsim::int_log_matmul", mutates_args=())
def int_log_matmul(q: Tensor, values: Tensor, zero_point: Tensor, levels: int, steps: int) -> Tensor:
    """Sums of shifted values; see the module docstring."""
    table = torch.tensor(powers(levels, steps), dtype=torch.int32, device=q.device)
    centred = values.to(torch.int32) - zero_point
    return torch.stack([integer_matmul(shifts[q.to(torch.int64)], centred) for shifts in table])


@int_log_matmul.register_fake
def _(q: Tensor, values: Tensor, zero_point: Tensor, levels: int, steps: int) -> Tensor:
    batch = torch.broadcast_shapes(q.shape[:-2], values.shape[:-2])
    shape = (groups(levels, steps), *batch, q.shape[-2], values.shape[-1])
    return q.new_empty(shape, dtype=torch.int32)


@torch.library.custom_op("hwsim::log_dequantize", mutates_args=())
def log_dequantize(acc: Tensor, scale_a: Tensor, scale_b: Tensor, levels: int, steps: int) -> Tensor:
    """Accumulators to float; see the module docstring."""
    both = scale_a * scale_b
    parts = [part.to(torch.float32) * (both * f) for part, f in zip(acc, factors(levels, steps), strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


@log_dequantize.register_fake
def _(acc: Tensor, scale_a: Tensor, scale_b: Tensor, levels: int, steps: int) -> Tensor:
    return acc.new_empty(acc.shape[1:], dtype=torch.float32)
