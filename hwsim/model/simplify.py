"""Clean an exported graph: no in-place calls, no no-ops, one spelling for views, constants computed once.

After this, everything that does not depend on the model's inputs (attention masks, rotary tables, gathered position
biases, transposed weights) is a stored tensor, so what remains in the graph is the work of one inference.
"""
# torch types the arguments of an fx node as a union of everything an argument can be; which one it is follows
# from the operator, which the checker cannot know.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportFunctionMemberAccess=false

from typing import Any

import torch
from torch import Tensor, fx

from hwsim.errors import UserError, first_line
from hwsim.model import rewrite
from hwsim.model.rewrite import aten

_IDENTITIES = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
}
_CASTS = {
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten.to.other,
    aten._to_copy.default,
    aten.type_as.default,
}
_CHECKS = {
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten._assert_async.msg,
    aten._assert_async.default,
    aten.sym_constrain_range_for_size.default,
}
_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.view_copy.default}
_FILLED: dict[Any, float | None] = {
    aten.zeros_like.default: 0, aten.ones_like.default: 1, aten.empty_like.default: 0, aten.full_like.default: None,
    aten.new_zeros.default: 0, aten.new_ones.default: 1, aten.new_empty.default: 0, aten.new_full.default: None,
}  # fmt: skip
"""Tensors in the shape of another: what they are filled with (None: what the call says)."""
_RANDOM = ("rand", "bernoulli", "normal", "dropout", "multinomial")


def clean(module: fx.GraphModule) -> None:
    """Drop what does nothing in inference and spell the rest without side effects."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "placeholder" and not isinstance(node.meta.get("val"), Tensor) and not node.users:
            graph.erase_node(node)
        if node.op != "call_function":
            continue
        if node.target in _CHECKS:
            graph.erase_node(node)
        elif node.target in _IDENTITIES or _is_null_cast(node) or _is_null_pad(node):
            rewrite.replace(node, node.args[0])
        elif node.target in _RESHAPES:
            node.target = aten.reshape.default
        elif node.target in _FILLED:
            _fill(node)
        elif rewrite.writes(node.target):
            _make_functional(node)


def _is_null_cast(node: fx.Node) -> bool:
    if node.target not in _CASTS:
        return False
    source = rewrite.tensors(node.args[0])
    return bool(source) and source[0].dtype == rewrite.tensors(node)[0].dtype


def _is_null_pad(node: fx.Node) -> bool:
    if node.target not in (aten.pad.default, aten.constant_pad_nd.default):
        return False
    return not any(node.args[1])


def _make_functional(node: fx.Node) -> None:
    """``add_`` writes and returns its first argument; later readers read the returned node already."""
    packet = getattr(aten, node.target._schema.name.removeprefix("aten::").removesuffix("_"), None)
    overload = getattr(packet, node.target._overloadname, None)
    if overload is not None:
        node.target = overload


def _fill(node: fx.Node) -> None:
    """Shapes are fixed, so a tensor in the shape of another depends on nothing."""
    number = _FILLED[node.target]
    number = node.args[-1] if number is None else number
    made, plain = rewrite.tensors(node)[0], isinstance(number, int | float)
    if plain:
        node.target, node.args = aten.full.default, (list(made.shape), number)
        node.kwargs = {"dtype": made.dtype, "device": torch.device("cpu")}


def fold_constants(module: fx.GraphModule) -> None:
    """Compute every call that depends on stored tensors alone, and store its result."""
    order = {node: index for index, node in enumerate(module.graph.nodes)}
    constant: set[fx.Node] = set()
    for node in order:
        if node.op == "get_attr" or (
            _is_foldable(node) and all(item in constant for item in node.all_input_nodes)
        ):
            constant.add(node)
    values: dict[fx.Node, Any] = {}
    for node in list(order):
        if node not in constant or node.op == "get_attr" or not isinstance(node.meta.get("val"), Tensor):
            continue
        if all(user in constant and user.op != "output" for user in node.users):
            continue
        leaves = sorted(_leaves(node), key=order.__getitem__)
        name = rewrite.free_name(module, _name(node, leaves))
        tensor = _evaluate(module, node, values)
        parameter = any(
            isinstance(rewrite.get_tensor(module, str(leaf.target)), torch.nn.Parameter) for leaf in leaves
        )
        stored = rewrite.read_node(node, name, tensor)
        rewrite.set_tensor(module, name, tensor, parameter=parameter and tensor.is_floating_point())
        rewrite.replace(node, stored)
        order[stored] = order[node]  # later constants may read it
    rewrite.drop_dead(module)


def drop_neutral_masks(module: fx.GraphModule) -> None:
    """Remove ``mask & all-true``, which transformers writes in front of every padding mask."""
    for node in rewrite.calls(
        module.graph, aten.__and__.Tensor, aten.logical_and.default, aten.bitwise_and.Tensor
    ):
        left, right = node.args
        for stored, other in ((left, right), (right, left)):
            if (
                isinstance(stored, fx.Node)
                and stored.op == "get_attr"
                and _allows_all(module, stored, other, node)
            ):
                rewrite.replace(node, other)
                break
    rewrite.drop_dead(module)


def _allows_all(module: fx.GraphModule, stored: fx.Node, other: Any, node: fx.Node) -> bool:
    tensor = rewrite.get_tensor(module, str(stored.target))
    if tensor.is_meta or tensor.dtype != torch.bool or not bool(tensor.all()):
        return False
    same = rewrite.shape(other) == rewrite.shape(node)
    return same or all(user.target is aten.expand.default for user in node.users)


def _is_foldable(node: fx.Node) -> bool:
    if node.op != "call_function" or rewrite.writes(node.target):
        return False
    name = str(node.target).removeprefix("aten.")
    return not name.startswith(_RANDOM)


def _leaves(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if current.op == "get_attr":
            found.add(current)
        pending.extend(current.all_input_nodes)
    return found


def _name(node: fx.Node, leaves: list[fx.Node]) -> str:
    if len(leaves) == 1:
        return f"{leaves[0].target}_folded"
    path = rewrite.module_path(node)
    return f"{path}.{node.name}" if path else node.name


def _evaluate(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Value of a constant node, iteratively; where a tensor has no data (meta) the result has none either."""
    pending = [node]
    while pending:
        current = pending[-1]
        missing = [item for item in current.all_input_nodes if item not in values]
        if current in values or missing:
            pending.extend(missing) if current not in values else pending.pop()
            continue
        values[current] = _compute(module, current, values)
        pending.pop()
    return values[node]


def _compute(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return rewrite.get_tensor(module, str(node.target)).detach()
    inputs = [values[item] for item in node.all_input_nodes]
    bare = any(isinstance(item, Tensor) and item.is_meta for item in inputs)
    read = (lambda item: rewrite.to_meta(values[item])) if bare else values.__getitem__
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), read)  # type: ignore[attr-defined]
    device = torch.device("meta" if bare else "cpu")
    args = tuple(device if isinstance(item, torch.device) else item for item in args)
    if isinstance(kwargs.get("device"), torch.device):
        kwargs = {**kwargs, "device": device}
    try:
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]
    except (IndexError, RuntimeError) as error:
        where = rewrite.module_path(node) or node.name
        raise UserError(
            f"{where}: {node.target} of stored tensors fails ({first_line(error)}); the model itself cannot run"
        ) from error
