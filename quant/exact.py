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

SHORTEST_INT8 = 16
"""Reductions below this length do not use ``torch._int_mm``."""

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


def integer_matmul(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` of integer-valued tensors of any type, as int32 (batched like ``matmul``)."""
    if left.numel() == 0 or right.numel() == 0:
        return torch.matmul(left.to(torch.int32), right.to(torch.int32))
    bound = left.shape[-1] * _peak(left) * _peak(right)
    if bound < FLOAT32_EXACT and _float32_is_full_precision(left.device):
        return torch.matmul(left.to(torch.float32), right.to(torch.float32)).to(torch.int32)
    exact = torch.matmul(left.to(torch.float64), right.to(torch.float64))
    return exact.to(torch.int64).to(torch.int32)


def _peak(values: Tensor) -> int:
    """Largest magnitude."""
    low, high = torch.aminmax(values)
    return max(abs(int(low)), abs(int(high)))


def codes_times_weights(codes: Tensor, weights: Tensor, zero_point: Tensor) -> Tensor:
    """``(codes - zero_point) @ weights.T`` for codes (m, k) and weights (n, k), exact, as int32.

    `zero_point` has one element or one per row of `codes` (shape (m, 1)). On the int8 engine unsigned codes
    are shifted by 128 to become signed; shift and zero point are put back with the weights' row sums, modulo
    2^32, which is exact because the final sum fits.
    """
    if not _int8_product_applies(codes, weights):
        return integer_matmul(codes.to(torch.int32) - zero_point, weights.t())
    shift = 128 if codes.dtype == torch.uint8 else 0
    signed = (codes ^ 0x80).view(torch.int8) if shift else codes
    sums = weights.sum(1, dtype=torch.int32)
    return _int_mm(signed, weights.t()).addcmul_(shift - zero_point, sums[None])


def _int8_product_applies(codes: Tensor, weights: Tensor) -> bool:
    """8-bit operands on a CPU whose int8 product is exact.

    A reduction of length 1 leaves the result of ``torch._int_mm`` unwritten (seen in torch 2.13), and tiny
    products gain nothing from it, so short reductions and empty operands go the float way.
    """
    eight_bit = codes.dtype in (torch.uint8, torch.int8) and weights.dtype == torch.int8
    worthwhile = codes.shape[0] > 0 and weights.shape[0] > 0 and weights.shape[1] >= SHORTEST_INT8
    return eight_bit and worthwhile and codes.device.type == "cpu" and has_exact_int8_product()
