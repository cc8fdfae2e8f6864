"""Open fused attention: ``scaled_dot_product_attention`` becomes matmul - softmax - matmul.

    attention(Q, K, V) = softmax(scale Q K^T + mask) V        (Vaswani et al. 2017, equation 1)

Its two products are planned and quantized like any other. Boolean masks become additive ones; masks that allow
everything disappear.
"""
# torch types the arguments of an fx node as a union of everything an argument can be; which one it is follows
# from the operator, which the checker cannot know.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportFunctionMemberAccess=false

import math
from typing import Any

import torch
from torch import Tensor, fx

from hwsim.model import rewrite
from hwsim.model.rewrite import aten

# exp(LOWEST - max) is exactly 0, and LOWEST - LOWEST is not NaN
LOWEST = float(torch.finfo(torch.float32).min)


def open_attention(module: fx.GraphModule) -> None:
    """Open every fused attention into its two products and a softmax."""
    masks: dict[tuple[fx.Node, tuple[int, ...]], fx.Node | None] = {}
    for node in rewrite.calls(module.graph, aten.scaled_dot_product_attention.default):
        _open_attention(module, node, masks)
    rewrite.drop_dead(module)


def _open_attention(module: fx.GraphModule, node: fx.Node, masks: dict[Any, fx.Node | None]) -> None:
    query, key, values = node.args[:3]
    mask, causal = rewrite.argument(node, 3, "attn_mask"), rewrite.argument(node, 5, "is_causal", False)
    scale = node.kwargs.get("scale")
    scale = 1.0 / math.sqrt(rewrite.shape(query)[-1]) if scale is None else scale
    if node.kwargs.get("enable_gqa", False):
        heads = rewrite.shape(query)[-3]
        key, values = _repeat_heads(node, key, heads), _repeat_heads(node, values, heads)
    if scale != 1.0:
        query = rewrite.emit(node, aten.mul.Tensor, query, scale)
    turned = rewrite.emit(node, aten.transpose.int, key, -2, -1)
    scores = rewrite.emit(node, aten.matmul.default, query, turned)
    if causal:
        mask = _causal_mask(module, node, rewrite.shape(scores)[-2:])
    if mask is not None:
        cached = (mask, rewrite.shape(scores)[:-2])
        if cached not in masks:
            masks[cached] = additive_mask(module, node, mask)
        if masks[cached] is not None:
            scores = rewrite.emit(node, aten.add.Tensor, scores, masks[cached])
    weights = rewrite.emit(node, aten.softmax.int, scores, -1)
    rewrite.replace(node, rewrite.emit(node, aten.matmul.default, weights, values))


def _repeat_heads(node: fx.Node, stored: fx.Node, heads: int) -> fx.Node:
    """Grouped-query attention: every key and value head serves several query heads."""
    *lead, count, length, width = rewrite.shape(stored)
    if count == heads:
        return stored
    spread = rewrite.emit(node, aten.unsqueeze.default, stored, -3)
    size = [*lead, count, heads // count, length, width]
    spread = rewrite.emit(node, aten.expand.default, spread, size)
    return rewrite.emit(node, aten.reshape.default, spread, [*lead, heads, length, width])


def _causal_mask(module: fx.GraphModule, node: fx.Node, size: tuple[int, ...]) -> fx.Node:
    name = f"causal_mask_{size[0]}x{size[1]}"
    allowed = torch.ones(size, dtype=torch.bool).tril()
    for present in module.graph.nodes:
        if present.op == "get_attr" and present.target == name:
            return present
    first = next(n for n in module.graph.nodes if n.op not in ("placeholder", "get_attr"))
    return rewrite.constant_node(first, module, name, allowed)


def additive_mask(module: fx.GraphModule, node: fx.Node, mask: fx.Node) -> fx.Node | None:
    """A mask as something to add to the scores; None where it allows everything."""
    boolean = rewrite.tensors(mask)[0].dtype == torch.bool
    if mask.op != "get_attr":
        if not boolean:
            return mask
        return rewrite.emit(node, aten.where.Scalar, mask, 0.0, LOWEST)
    tensor = _without_expansion(rewrite.get_tensor(module, str(mask.target)).detach())
    parameter = isinstance(rewrite.get_tensor(module, str(mask.target)), torch.nn.Parameter)
    if boolean:
        if not tensor.is_meta and bool(tensor.all()):
            return None
        tensor = torch.where(tensor, 0.0, LOWEST)
    elif not tensor.is_meta and not bool(tensor.any()):
        return None
    elif tensor.shape == rewrite.shape(mask):
        return mask
    name = rewrite.free_name(module, f"{mask.target}_additive")
    rewrite.set_tensor(module, name, tensor, parameter=parameter)
    return rewrite.read_node(mask.next, name, tensor)


def _without_expansion(tensor: Tensor) -> Tensor:
    """Size 1 wherever a dimension only repeats the same data; broadcasting brings it back."""
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1 and stride == 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor.contiguous()
