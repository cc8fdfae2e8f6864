"""Exact integer matrix products on the CPU, by the fastest unit that can be proven exact.

Torch multiplies int32 matrices slowly, so a product of integer codes runs on one of three engines:

* ``torch._int_mm`` (int8 x int8 -> int32) where the machine has VNNI and the worst case was seen exact;
* float32 when every partial sum stays below 2^24, whatever the order of summation;
* float64 otherwise; partial sums below 2^53 are exact, and an int32 accumulator never needs more.

The result is always the one of int64 arithmetic.
"""
# pyright: basic
# torch's stubs leave most tensor methods untyped.

from functools import cache

import torch
from torch import Tensor

_int_mm = torch.ops.aten._int_mm.default
FLOAT32_EXACT = 1 << 24
"""Every integer up to this magnitude is a float32, so sums below it are exact in any order."""


@cache
def has_exact_int8_product() -> bool:
    """True where ``torch._int_mm`` does not saturate: VNNI present and the worst operands come out right."""
    if not torch.cpu._is_vnni_supported():
        return False
    depth, size = 256, 32
    low = torch.full((size, depth), -128, dtype=torch.int8)
    high = torch.full((depth, size), -128, dtype=torch.int8)
    high[:, ::2] = 127
    expected = low.to(torch.int64) @ high.to(torch.int64)
    return bool(torch.equal(_int_mm(low, high).to(torch.int64), expected))


def _float32_is_full_precision(device: torch.device) -> bool:
    """False where torch may round float32 operands to TF32 or bfloat16 before multiplying."""
    return device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"


def product_bound(left: Tensor, right: Tensor) -> int:
    """An upper bound of every partial sum of ``left @ right``: the smaller of two Hölder bounds."""
    if left.numel() == 0 or right.numel() == 0:
        return 0
    peak_left = int(left.abs().max()) if left.dtype != torch.uint8 else int(left.max())
    sums = right.abs().sum(-2, dtype=torch.int64)
    return peak_left * int(sums.max())


def integer_matmul(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` of integer tensors as exact int64 values (batched, broadcasting like ``matmul``)."""
    wide_left, wide_right = left.to(torch.int32), right.to(torch.int32)
    small = product_bound(wide_left, wide_right) < FLOAT32_EXACT
    kind = torch.float32 if small and _float32_is_full_precision(left.device) else torch.float64
    return (wide_left.to(kind) @ wide_right.to(kind)).to(torch.int64)


def codes_times_weights(codes: Tensor, weights: Tensor) -> Tensor:
    """``codes @ weights.T`` for codes (m, k) and int8 weights (n, k), exact, as int64.

    Unsigned 8-bit codes are shifted by 128 to fit the signed product and the shift is put back with the
    weights' row sums.
    """
    if codes.dtype in (torch.uint8, torch.int8) and _int8_product_applies(codes, weights):
        if codes.dtype == torch.uint8:
            shifted = (codes ^ 0x80).view(torch.int8)
            offset = 128 * weights.sum(1, dtype=torch.int64)
            return _int_mm(shifted, weights.t()).to(torch.int64) + offset
        return _int_mm(codes, weights.t()).to(torch.int64)
    return integer_matmul(codes, weights.t())


def _int8_product_applies(codes: Tensor, weights: Tensor) -> bool:
    """The int8 engine needs its own CPU, int8 weights and a depth whose worst sum fits 31 bits."""
    fits = codes.shape[-1] < (1 << 17)
    return fits and codes.device.type == "cpu" and weights.dtype == torch.int8 and has_exact_int8_product()
