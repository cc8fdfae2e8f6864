"""Find the norms whose output feeds products, and rewrite them in the graph (RepQuant, methods.md 5.2).

A site is a LayerNorm or RMSNorm with all products that read it, directly or through views that leave the
channel axis last. Whoever else reads the norm (the residual path of a post-LN network) gets the inverse map.
"""
# pyright: basic
# torch.fx nodes and metadata are untyped in torch's stubs.

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from quant import model_pass
from quant.errors import QuantError
from quant.methods.layer_norm_reparam import (
    Reparameterization,
    fold_into_consumer,
    fold_into_norm,
)
from quant.model_pass import Product, attribute

_aten = torch.ops.aten
PREFIX = "reparameterized."
_NORMS = {_aten.layer_norm.default: "layer_norm", _aten.rms_norm.default: "rms_norm"}
_VIEWS = {
    _aten.reshape.default,
    _aten.view.default,
    _aten.permute.default,
    _aten.transpose.int,
    _aten.slice.Tensor,
    _aten.select.int,
    _aten.expand.default,
    _aten.unsqueeze.default,
    _aten.squeeze.dim,
    _aten.flatten.using_ints,
    _aten.roll.default,
    _aten.contiguous.default,
    _aten.clone.default,
}


@dataclass(frozen=True, eq=False)
class NormSite:
    """A norm, the products it feeds, and whether others read it too."""

    node: fx.Node
    name: str
    kind: str
    products: tuple[Product, ...]
    others: tuple[fx.Node, ...]  # users that are neither products nor views on the way to one

    @property
    def shifts(self) -> bool:
        """Whether the norm adds a bias, which can take up a shift of its outputs; RMSNorm never does."""
        return (
            self.kind == "layer_norm" and len(self.node.args) > 3 and isinstance(self.node.args[3], fx.Node)
        )


def find_norm_sites(
    module: fx.GraphModule, products: dict[fx.Node, Product], *, include_head: bool = False
) -> list[NormSite]:
    """Sites that can be reparameterized; the norm in front of the head only when asked."""
    head = list(products.values())[-1].name if products else None
    sites: list[NormSite] = []
    for node in module.graph.nodes:
        kind = _NORMS.get(node.target)
        if node.op != "call_function" or kind is None or not _has_stored_gain(node):
            continue
        found, others = _consumers(node, products)
        names = {product.name for product in found}
        if found and (include_head or head not in names) and not _tied(module, found):
            sites.append(
                NormSite(node, str(node.meta.get("layer", node.name)), kind, tuple(found), tuple(others))
            )
    return sites


def _has_stored_gain(node: fx.Node) -> bool:
    gain = node.args[2] if len(node.args) > 2 else None
    return isinstance(gain, fx.Node) and gain.op == "get_attr"


def _tied(module: fx.GraphModule, products: list[Product]) -> bool:
    """Whether a weight of these products is read anywhere else (a tied embedding must not be scaled)."""
    own = {product.node for product in products}
    pointers = {attribute(module, str(product.weight)).data_ptr() for product in products}
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        tensor = attribute(module, str(node.target))
        if isinstance(tensor, Tensor) and tensor.data_ptr() in pointers and not set(node.users) <= own:
            return True
    return False


def _consumers(norm: fx.Node, products: dict[fx.Node, Product]) -> tuple[list[Product], list[fx.Node]]:
    """Linears that read the norm's channels, and direct users of the norm that lead anywhere else."""
    found: list[Product] = []
    others: list[fx.Node] = []
    for user in norm.users:
        reached = _trace(norm, user, products)
        if reached is None:
            others.append(user)
        else:
            found += [product for product in reached if product not in found]
    order = {node: index for index, node in enumerate(norm.graph.nodes)}
    return sorted(found, key=lambda product: order[product.node]), others


def _trace(source: fx.Node, user: fx.Node, products: dict[fx.Node, Product]) -> list[Product] | None:
    """Products behind a user if it is a linear or a chain of channel-preserving views to linears only."""
    product = products.get(user)
    if product is not None:
        return [product] if product.kind == "linear" and product.inputs == (source,) else None
    if not _keeps_channels(user, source):
        return None
    reached: list[Product] = []
    for following in user.users:
        deeper = _trace(user, following, products)
        if deeper is None:
            return None
        reached += deeper
    return reached or None


def _keeps_channels(node: fx.Node, source: fx.Node) -> bool:
    if node.op != "call_function" or node.target not in _VIEWS:
        return False
    before, after = source.meta.get("val"), node.meta.get("val")
    if before is None or after is None or before.shape[-1] != after.shape[-1]:
        return False
    rank = before.dim()
    if node.target is _aten.permute.default:
        return int(node.args[1][-1]) % rank == rank - 1  # type: ignore[index]
    if node.target is _aten.transpose.int:
        return all(int(axis) % rank != rank - 1 for axis in node.args[1:3])  # type: ignore[arg-type]
    if node.target in (_aten.slice.Tensor, _aten.select.int):
        axis = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
        return axis % rank != rank - 1
    if node.target is _aten.roll.default:
        axes: Any = node.args[2] if len(node.args) > 2 else []
        return bool(axes) and all(int(axis) % rank != rank - 1 for axis in axes)
    return True


def set_parameter(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a new tensor under an existing dotted name, without touching the old tensor."""
    *path, last = name.split(".")
    holder = attribute(module, ".".join(path)) if path else module
    if last in holder._parameters:
        holder._parameters[last] = nn.Parameter(tensor, requires_grad=False)
    else:
        holder._buffers[last] = tensor


def apply_reparameterization(module: fx.GraphModule, site: NormSite, rep: Reparameterization) -> None:
    """Fold the factors into norm and consumers in place and map the values back for everybody else."""
    node = site.node
    gain = node.args[2]
    bias = node.args[3] if site.shifts else None
    old_bias = attribute(module, str(bias.target)) if isinstance(bias, fx.Node) else None
    _check_unshared(site, gain, bias)
    gamma, beta = fold_into_norm(attribute(module, str(gain.target)), old_bias, rep)  # type: ignore[union-attr]
    set_parameter(module, str(gain.target), gamma.detach())  # type: ignore[union-attr]
    if beta is not None and isinstance(bias, fx.Node):
        set_parameter(module, str(bias.target), beta.detach())
    elif beta is not None:
        raise QuantError(f"{site.name}: this norm has no bias; use a symmetric grid for it")
    for product in site.products:
        weight = attribute(module, str(product.weight))
        old = None if product.bias is None else attribute(module, product.bias)
        new_weight, new_bias = fold_into_consumer(weight, old, rep)
        set_parameter(module, str(product.weight), new_weight.detach())
        if new_bias is None:
            continue
        if product.bias is not None:
            set_parameter(module, product.bias, new_bias.detach())
        else:
            _create_bias(module, product, new_bias.detach())
    if site.others:
        _insert_inverse(module, site, rep)


def restore(module: fx.GraphModule, stored: Iterable[str]) -> None:
    """Put the inverse maps back into a graph as it was traced, told by the names of their tensors.

    They are of no effect yet: the values follow from the saved model.
    """
    products = {product.node: product for product in model_pass.find_products(module)}
    named = {str(node.meta.get("layer", node.name)): node for node in module.graph.nodes}
    for name in sorted(stored):
        if name.startswith(PREFIX) and name.endswith(".ratio"):
            _restore_inverse(module, named, name.removeprefix(PREFIX).removesuffix(".ratio"), products)


def is_own(name: str) -> bool:
    """Whether a stored tensor was added by reparameterization; its name does not depend on the traced batch."""
    return name.startswith(PREFIX)


def _restore_inverse(
    module: fx.GraphModule, named: dict[str, fx.Node], name: str, products: dict[fx.Node, Product]
) -> None:
    node = named.get(name)
    kind = None if node is None else _NORMS.get(node.target)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if node is None or kind is None:
        raise QuantError(f"{name}: the graph has no such norm; load the model it was made from")
    found, others = _consumers(node, products)
    width = int(node.meta["val"].shape[-1])
    neutral = Reparameterization(torch.ones(width), torch.zeros(width), 1.0, 0.0)
    _insert_inverse(module, NormSite(node, name, kind, tuple(found), tuple(others)), neutral)


def _check_unshared(site: NormSite, *parameters: Any) -> None:
    for parameter in parameters:
        if isinstance(parameter, fx.Node) and len(parameter.users) > 1:
            raise QuantError(f"{site.name}: its parameters serve another layer too, they cannot be rescaled")


def _create_bias(module: fx.GraphModule, product: Product, bias: Tensor) -> None:
    name = f"{str(product.weight).rpartition('.')[0]}.created_bias".lstrip(".")
    model_pass.store(module, name, bias)
    with module.graph.inserting_before(product.node):
        read = module.graph.create_node("get_attr", name)
    read.meta["val"] = bias.to("meta")
    args = list(product.node.args) + [None] * (3 - len(product.node.args))
    args[2] = read
    product.node.args = tuple(args)


def _insert_inverse(module: fx.GraphModule, site: NormSite, rep: Reparameterization) -> None:
    """``X = r1 X' - s r2`` behind the norm, read by everybody who is not one of the products."""
    graph, anchor = module.graph, site.node.next
    prefix = f"{PREFIX}{site.name}"
    dtype = torch.float32
    model_pass.store(module, f"{prefix}.ratio", rep.ratio.to(dtype))
    model_pass.store(module, f"{prefix}.shift", rep.shift.to(dtype))
    with graph.inserting_before(anchor):
        ratio = graph.create_node("get_attr", f"{prefix}.ratio")
        shift = graph.create_node("get_attr", f"{prefix}.shift")
        scaled = graph.call_function(_aten.mul.Tensor, (site.node, ratio))
        back = graph.call_function(_aten.sub.Tensor, (scaled, shift))
    val = site.node.meta.get("val")
    for made, label in ((scaled, "rescale"), (back, "unshift")):
        made.meta.update(
            {"val": val, "layer": f"{site.name}.{label}", "kind": "mul" if made is scaled else "add"}
        )
    for stored, tensor in ((ratio, rep.ratio), (shift, rep.shift)):
        stored.meta["val"] = tensor.to(dtype).to("meta")
    for user in site.others:
        user.replace_input_with(site.node, back)
