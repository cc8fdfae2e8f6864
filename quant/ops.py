"""Custom torch operators of the quantized model: the integer semantics every backend has to reproduce.

A quantized product is a chain of plain operators in the graph of `QuantizedModel.integer()`; the name in
front is the torch namespace, so a compiler meets `torch.ops.hwsim.quantize` and so on:

    q   = hwsim.quantize(x, scale, zero_point, bits, signed)
    acc = hwsim.int_linear(q, zero_point, codes, cols)            | hwsim.int_conv2d | hwsim.int_matmul
    acc = aten.cat([acc, acc_of_column_sparse_term, ...], dim)    only where terms read few columns
    y   = hwsim.rescale(acc, weight_scale, act_scale, rows, parts, bias, channels, dim)

Semantics (integers are mathematical integers; no step may saturate, wrap-around modulo 2^32 is allowed in
between because the final value fits, which is checked when the model is built):

quantize      q = clamp(round_half_even(x / scale) + zero_point, low, high), division in float32.
              unsigned: 0 .. 2^bits-1, uint8 up to 8 bits, int32 above; signed: +-(2^(bits-1)-1), int8 or
              int32. `scale` float32 and `zero_point` int32 have one element, or broadcast over x (per token).
dynamic_range per-token asymmetric (scale, zero_point) of the last dimension, shape (..., 1), range holds 0.
int_linear    acc[..., r] = sum_j codes[r, j] * (q[..., c(j)] - zero_point),  c(j) = cols[j], or j without.
int_conv2d    acc[n, r, ...] = sum codes[r, i, u, v] * (q[n, g(r)*I + i, ...] - zero_point); padded places
              contribute 0 (the padding value is the zero point). Row r belongs to output channel rows[r] (or
              r) and so to the input group g(r) = rows[r] // (channels // groups). `cols` (only where
              groups = 1) selects columns of the flattened (I*kh*kw) kernel: codes are then (R, len(cols)).
int_matmul    acc = (qa - za) @ (qb - zb), batched.
rescale       combined[r] = weight_scale[r] * act_scale (float32); t[r] = float32(acc[r]) * combined[r]
              rounded once each; y = t of the first part (always all channels, in order), then each later
              part is added at its rows, in order of the parts; the bias is added ONCE, last, in float32.
              `parts` counts the stacked rows of each term; rows maps stacked row -> channel (None: every
              part has all channels in order). dim is -1 (linear) or 1 (convolution).
dequantize    y = float32(acc) * (scale_a * scale_b), for products of two activations.

All accumulators are int32. Terms of an expansion are stacked along the rows, so one product serves all.
"""
# pyright: basic
# torch.library's decorators and most tensor methods are untyped in torch's stubs.

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from quant.exact import codes_times_weights, integer_matmul


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest activation code."""
    if signed:
        return -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def code_dtype(bits: int, signed: bool) -> torch.dtype:
    """The narrowest torch integer that holds the codes (16-bit codes live in int32)."""
    if bits > 8:
        return torch.int32
    return torch.int8 if signed else torch.uint8


@torch.library.custom_op("hwsim::quantize", mutates_args=())
def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, signed: bool) -> Tensor:
    """Float to activation codes; see the module docstring."""
    low, high = code_range(bits, signed)
    codes = (x / scale).round_().add_(zero_point).clamp_(low, high)
    return codes.to(code_dtype(bits, signed))


@quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, signed: bool) -> Tensor:
    return torch.empty(x.shape, dtype=code_dtype(bits, signed), device=x.device)


@torch.library.custom_op("hwsim::dynamic_range", mutates_args=())
def dynamic_range(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each token (last dimension) from its own minimum and maximum."""
    low = x.amin(-1, keepdim=True).clamp(max=0.0)
    high = x.amax(-1, keepdim=True).clamp(min=0.0)
    width = (high - low) / (2**bits - 1)
    scale = torch.where(width > 0, width, torch.ones_like(width))
    zero_point = (-low / scale).round().clamp(0, 2**bits - 1).to(torch.int32)
    return scale, zero_point


@dynamic_range.register_fake
def _(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:-1], 1)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int32)


@torch.library.custom_op("hwsim::int_linear", mutates_args=())
def int_linear(q: Tensor, zero_point: Tensor, codes: Tensor, cols: Tensor | None) -> Tensor:
    """Product of activation codes (..., I) and stacked weight codes (R, I); see the module docstring."""
    if cols is not None:
        q = q.index_select(-1, cols)
    flat = q.reshape(-1, q.shape[-1]).contiguous()
    per_token = zero_point.reshape(-1, 1) if zero_point.numel() > 1 else zero_point.reshape(())
    return codes_times_weights(flat, codes, per_token).reshape(*q.shape[:-1], codes.shape[0])


@int_linear.register_fake
def _(q: Tensor, zero_point: Tensor, codes: Tensor, cols: Tensor | None) -> Tensor:
    return q.new_empty((*q.shape[:-1], codes.shape[0]), dtype=torch.int32)


def _output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Output positions of a convolution along one direction."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _patches(q: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """View of padded codes (N, C, H, W) as (N, C, kh, kw, OH, OW)."""
    rows, cols = (_output_size(q.shape[2 + d], kernel[d], stride[d], 0, dilation[d]) for d in range(2))
    n, c, h, w = q.stride()
    return q.as_strided(
        (q.shape[0], q.shape[1], *kernel, rows, cols),
        (n, c, h * dilation[0], w * dilation[1], h * stride[0], w * stride[1]),
    )


def _depthwise(patches: Tensor, codes: Tensor, channel: Tensor, zero_point: Tensor) -> Tensor:
    """One input channel for each output row: kh*kw shifted multiply-adds in int32."""
    shape = (patches.shape[0], codes.shape[0], *patches.shape[4:])
    acc = torch.zeros(shape, dtype=torch.int32, device=patches.device)
    for u in range(patches.shape[2]):
        for v in range(patches.shape[3]):
            shifted = patches[:, :, u, v].index_select(1, channel).to(torch.int32) - zero_point
            acc += shifted * codes[:, 0, u, v].to(torch.int32)[:, None, None]
    return acc


@torch.library.custom_op("hwsim::int_conv2d", mutates_args=())
def int_conv2d(
    q: Tensor,
    zero_point: Tensor,
    codes: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    channels: int,
    rows: Tensor | None,
    cols: Tensor | None,
) -> Tensor:
    """Convolution of activation codes and stacked weight codes; see the module docstring."""
    top, left = padding
    if top or left:
        shape = (*q.shape[:2], q.shape[2] + 2 * top, q.shape[3] + 2 * left)
        padded = torch.empty(shape, dtype=q.dtype, device=q.device)
        padded.copy_(zero_point.to(q.dtype).expand(shape))
        padded[:, :, top : top + q.shape[2], left : left + q.shape[3]] = q
        q = padded
    patches = _patches(q.contiguous(), kernel, stride, dilation)
    if groups == 1:
        return _dense_convolution(patches, codes, zero_point, cols)
    if rows is None:
        rows = torch.arange(channels, device=q.device).repeat(codes.shape[0] // channels)
    group = torch.div(rows.to(torch.int64), channels // groups, rounding_mode="floor")
    per_group = patches.shape[1] // groups
    if per_group == 1:
        return _depthwise(patches, codes, group, zero_point)
    acc = patches.new_empty((patches.shape[0], codes.shape[0], *patches.shape[4:]), dtype=torch.int32)
    for index in range(groups):
        mine = torch.nonzero(group == index).flatten()
        part = patches[:, index * per_group : (index + 1) * per_group]
        acc[:, mine] = _dense_convolution(part, codes[mine], zero_point, None)
    return acc


def _dense_convolution(patches: Tensor, codes: Tensor, zero_point: Tensor, cols: Tensor | None) -> Tensor:
    """im2col and one product; patches are (N, C, kh, kw, OH, OW)."""
    depth = prod(patches.shape[1:4])
    columns = patches.permute(0, 4, 5, 1, 2, 3).reshape(-1, depth)
    acc = int_linear(columns, zero_point, codes.reshape(codes.shape[0], -1), cols)
    shape = (patches.shape[0], patches.shape[4], patches.shape[5], codes.shape[0])
    return acc.reshape(shape).permute(0, 3, 1, 2).contiguous()


@int_conv2d.register_fake
def _(
    q: Tensor,
    zero_point: Tensor,
    codes: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    channels: int,
    rows: Tensor | None,
    cols: Tensor | None,
) -> Tensor:
    size = [_output_size(q.shape[2 + d], kernel[d], stride[d], padding[d], dilation[d]) for d in range(2)]
    return q.new_empty((q.shape[0], codes.shape[0], *size), dtype=torch.int32)


@torch.library.custom_op("hwsim::int_matmul", mutates_args=())
def int_matmul(qa: Tensor, zero_a: Tensor, qb: Tensor, zero_b: Tensor) -> Tensor:
    """Batched product of two quantized activations; see the module docstring."""
    return integer_matmul(qa.to(torch.int32) - zero_a, qb.to(torch.int32) - zero_b)


@int_matmul.register_fake
def _(qa: Tensor, zero_a: Tensor, qb: Tensor, zero_b: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(qa.shape[:-2], qb.shape[:-2])
    return qa.new_empty((*batch, qa.shape[-2], qb.shape[-1]), dtype=torch.int32)


@torch.library.custom_op("hwsim::rescale", mutates_args=())
def rescale(
    acc: Tensor,
    weight_scale: Tensor,
    act_scale: Tensor,
    rows: Tensor | None,
    parts: list[int],
    bias: Tensor | None,
    channels: int,
    dim: int,
) -> Tensor:
    """Accumulators of all stacked terms to float outputs; see the module docstring."""
    shape = (-1, 1, 1) if dim == 1 else (-1,)
    products = acc.to(torch.float32).mul_(weight_scale.view(shape) * act_scale)
    out = products if len(parts) == 1 else products.narrow(dim, 0, channels).contiguous()
    start = channels
    for count in parts[1:]:
        part = products.narrow(dim, start, count)
        if rows is None:
            out += part
        else:
            out.index_add_(dim, rows[start : start + count], part)
        start += count
    return out if bias is None else out.add_(bias.view(shape))


@rescale.register_fake
def _(
    acc: Tensor,
    weight_scale: Tensor,
    act_scale: Tensor,
    rows: Tensor | None,
    parts: list[int],
    bias: Tensor | None,
    channels: int,
    dim: int,
) -> Tensor:
    shape = list(acc.shape)
    shape[dim] = channels
    return acc.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("hwsim::dequantize", mutates_args=())
def dequantize(acc: Tensor, scale_a: Tensor, scale_b: Tensor) -> Tensor:
    """Accumulators of a product of two activations to float."""
    return acc.to(torch.float32) * (scale_a * scale_b)


@dequantize.register_fake
def _(acc: Tensor, scale_a: Tensor, scale_b: Tensor) -> Tensor:
    return acc.new_empty(acc.shape, dtype=torch.float32)
