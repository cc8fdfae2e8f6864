"""Transposed convolutions as ordinary ones: every phase of the stride is an output channel of its own.

With stride s and kernel k, output ``s q + r`` sums ``x[q - j] w[r + s j]`` over j < ceil(k / s): a convolution of
ceil(k / s) taps with s outputs for each channel, then a shuffle of phases into places (Shi et al. 2016, section 3).
A kernel as long as its stride wastes nothing, and the product is planned and quantized like any other.
"""
# torch types the arguments of an fx node as a union of everything an argument can be; which one it is follows
# from the operator, which the checker cannot know.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false

from typing import Any

import torch
from torch import Tensor, fx

from hwsim.model import rewrite
from hwsim.model.rewrite import aten

Pair = tuple[int, int]


def open_transposed(module: fx.GraphModule) -> None:
    """Rewrite every transposed convolution in one or two dimensions whose weight is stored."""
    for node in rewrite.calls(module.graph, aten.conv_transpose2d.input, aten.conv_transpose1d.default):
        if all(item is None or item.op == "get_attr" for item in node.args[1:3]):
            _open(module, node)


def _open(module: fx.GraphModule, node: fx.Node) -> None:
    flat = node.target is aten.conv_transpose1d.default  # a picture of height 1
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    defaults = (None, None, None, 1, 0, 0, 1, 1)
    image, weight, bias, *rest = (rewrite.argument(node, i, n, defaults[i]) for i, n in enumerate(names))
    groups = int(rest.pop(3))
    stride, padding, _, dilation = (
        _pair(value, flat, default) for value, default in zip(rest, (1, 0, 0, 1), strict=True)
    )
    if flat:
        image = rewrite.emit(node, aten.unsqueeze.default, image, -2, like=node)
    stored = rewrite.get_tensor(module, str(weight.target)).detach()
    phases = _phases(stored.unsqueeze(2) if flat else stored, stride, dilation, groups)
    kernel: Pair = (phases.shape[2], phases.shape[3])
    size = (1, *rewrite.shape(node)[2:])[-2:]
    image = _lengthened(node, image, [p + n for p, n in zip(padding, size, strict=True)], stride, kernel)
    reads = _store(module, node, weight, f"{weight.target}_phases", phases)
    shift = None
    if bias is not None:
        each = rewrite.get_tensor(module, str(bias.target)).detach().repeat_interleave(stride[0] * stride[1])
        shift = _store(module, node, bias, f"{bias.target}_phases", each)
    border = [kernel[0] - 1, kernel[1] - 1]
    made = rewrite.emit(
        node, aten.conv2d.default, image, reads, shift, [1, 1], border, [1, 1], groups, like=node
    )
    images, _, high, wide = rewrite.shape(made)
    outputs = rewrite.shape(node)[1]
    made = rewrite.emit(node, aten.reshape.default, made, [images, outputs, *stride, high, wide])
    made = rewrite.emit(node, aten.permute.default, made, [0, 1, 4, 2, 5, 3])
    made = rewrite.emit(
        node, aten.reshape.default, made, [images, outputs, high * stride[0], wide * stride[1]]
    )
    for axis in range(2):
        begin = padding[axis]
        made = rewrite.emit(node, aten.slice.Tensor, made, 2 + axis, begin, begin + size[axis])
    if flat:
        made = rewrite.emit(node, aten.squeeze.dim, made, -2)
    rewrite.replace(node, made)


def _phases(weight: Tensor, stride: Pair, dilation: Pair, groups: int) -> Tensor:
    """(inputs, outputs / groups, kernel) to (outputs x phases, inputs / groups, taps)."""
    inputs, outputs, *kernel = weight.shape
    spread = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    taps = [-(-k // s) for k, s in zip(spread, stride, strict=True)]
    wide = weight.new_zeros(inputs, outputs, taps[0] * stride[0], taps[1] * stride[1])
    wide[:, :, : spread[0] : dilation[0], : spread[1] : dilation[1]] = weight
    wide = wide.reshape(groups, inputs // groups, outputs, taps[0], stride[0], taps[1], stride[1]).flip(3, 5)
    return wide.permute(0, 2, 4, 6, 1, 3, 5).reshape(-1, inputs // groups, *taps).contiguous()


def _lengthened(node: fx.Node, image: Any, wanted: list[int], stride: Pair, kernel: Pair) -> Any:
    """Zeros behind the image where an output padding reaches beyond the last window."""
    sides: list[int] = []
    for axis in (1, 0):
        made = rewrite.shape(image)[2 + axis] + kernel[axis] - 1
        sides += [0, max(-(-wanted[axis] // stride[axis]) - made, 0)]
    return rewrite.emit(node, aten.constant_pad_nd.default, image, sides, 0.0) if any(sides) else image


def _store(module: fx.GraphModule, node: fx.Node, like: fx.Node, wanted: str, tensor: Tensor) -> fx.Node:
    name = rewrite.free_name(module, wanted)
    parameter = isinstance(rewrite.get_tensor(module, str(like.target)), torch.nn.Parameter)
    rewrite.set_tensor(module, name, tensor, parameter=parameter)
    return rewrite.read_node(node, name, tensor)


def _pair(value: Any, flat: bool, default: int) -> Pair:
    values = [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]
    return (default, values[-1]) if flat else (values[0], values[-1])
