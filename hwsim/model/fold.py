"""Fold batch norms of inference into the product in front of them (Jacob et al. 2018, section 3.2).

    bn(W x + b) = (g W) x + (g (b - mean) + beta),   g = gamma / sqrt(var + eps)

The folded tensors are computed in float64 and rounded once, so folding is exact to the last bit or two.

What the norm knew about the data does not get lost: over the training data its output had mean beta and deviation
|gamma| in every channel. The product keeps both as ``node.meta["batch_norm"]``, for ranges and moments without data.
"""
# torch types the arguments of an fx node as a union of everything an argument can be; which one it is follows
# from the operator, which the checker cannot know.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportFunctionMemberAccess=false

import torch
from torch import Tensor, fx

from hwsim.model import rewrite
from hwsim.model.rewrite import aten


def fold_batch_norms(module: fx.GraphModule) -> int:
    """Fold every batch norm that directly follows a product; returns how many were folded."""
    folded = 0
    for node in rewrite.calls(module.graph, aten.batch_norm.default):
        product = node.args[0]
        if _is_foldable(product, node):
            _fold(module, product, node)
            folded += 1
    rewrite.drop_dead(module)
    return folded


def _is_foldable(product: fx.Node, norm: fx.Node) -> bool:
    if product.op != "call_function" or len(product.users) != 1 or norm.args[5]:
        return False
    if product.target is aten.linear.default and len(rewrite.shape(product)) != 2:
        return False  # batch norm's channel dimension is 1, a linear's the last
    return product.target in (aten.conv2d.default, aten.linear.default) and product.args[1].op == "get_attr"


def _fold(module: fx.GraphModule, product: fx.Node, norm: fx.Node) -> None:
    weight_name = str(product.args[1].target)
    bias_node = rewrite.argument(product, 2, "bias")
    weight = rewrite.get_tensor(module, weight_name)
    channels = weight.shape[0]
    gamma, beta, mean, var = (_tensor(module, item, weight) for item in norm.args[1:5])
    gain = (torch.ones(channels, dtype=torch.float64, device=weight.device) if gamma is None else gamma) / (
        torch.zeros(()) if var is None else var + float(norm.args[7])
    ).sqrt()
    old_bias = _tensor(module, bias_node, weight)
    shift = (0.0 if old_bias is None else old_bias) - (0.0 if mean is None else mean)
    new_bias = gain * shift + (0.0 if beta is None else beta)
    new_weight = weight.detach().double() * gain.reshape(-1, *[1] * (weight.dim() - 1))
    stem = weight_name.removesuffix(".weight") if weight_name.endswith(".weight") else weight_name
    if len(_readers(module, weight_name)) > 1:
        weight_name = rewrite.free_name(module, f"{rewrite.module_path(norm) or stem}.folded_weight")
    bias_name = str(bias_node.target) if bias_node is not None else f"{stem}.bias"
    if bias_node is None or len(_readers(module, bias_name)) > 1:
        bias_name = rewrite.free_name(module, bias_name)
    rewrite.set_tensor(module, weight_name, new_weight.to(weight.dtype), parameter=True)
    rewrite.set_tensor(module, bias_name, new_bias.to(weight.dtype), parameter=True)
    new_args = list(product.args) + [None] * (3 - len(product.args))
    new_args[1] = rewrite.read_node(product, weight_name, rewrite.get_tensor(module, weight_name))
    new_args[2] = rewrite.read_node(product, bias_name, rewrite.get_tensor(module, bias_name))
    product.args = tuple(new_args)
    product.kwargs = {key: item for key, item in product.kwargs.items() if key != "bias"}
    statistics = _output_statistics(norm, (gamma, beta, mean, var))
    if statistics is not None:
        product.meta["batch_norm"] = statistics
    rewrite.replace(norm, product)


def _output_statistics(norm: fx.Node, stored: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of each channel behind the norm; None where its statistics were never measured.

    A checkpoint whose norms were folded before has them back as identities: mean 0 and variance 1 throughout.
    """
    gamma, beta, mean, var = stored
    if mean is None or var is None or mean.is_meta or (not mean.any() and bool((var == var[0]).all())):
        return None
    spread = (var / (var + float(norm.args[7]))).sqrt()
    centre = torch.zeros_like(mean) if beta is None else beta
    return centre.float(), (spread if gamma is None else gamma.abs() * spread).float()


def _tensor(module: fx.GraphModule, node: object, like: Tensor) -> Tensor | None:
    if not isinstance(node, fx.Node):
        return None
    tensor = rewrite.get_tensor(module, str(node.target)).detach()
    return tensor.to(device=like.device, dtype=torch.float64)


def _readers(module: fx.GraphModule, name: str) -> list[fx.Node]:
    return [
        user
        for node in module.graph.nodes
        if node.op == "get_attr" and node.target == name
        for user in node.users
    ]
