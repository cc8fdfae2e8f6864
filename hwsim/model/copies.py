"""Which views move data: a reshape of what does not lie in the order in which it is read.

Permutations, slices and most reshapes only look at a tensor differently. A reshape of a permuted tensor (windows of
an image, shuffled channels) has no strides that describe it, so every compiler copies; torch's own rule decides, on
tensors without storage. What makes a tensor may write it in the order that a permutation behind it asks for, as long
as the fastest axis stays, so that heads beside tokens cost nothing.
"""

from typing import Any

import torch
from torch import Tensor, fx

from hwsim.model import operators

_WHERE = {"permute", "transpose", "movedim", "swapaxes", "swapdims"}
_AS_IT_IS = {"contiguous", "clone", "detach", "alias", "to", "_to_copy", "type_as", "lift_fresh_copy"}
_CHANNELS_LAST = {"conv2d", "max_pool2d", "avg_pool2d"}


def copying_views(graph: fx.Graph) -> set[fx.Node]:
    """Views whose result needs memory of its own."""
    where: dict[fx.Node, Any] = {}
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op not in ("call_function", "placeholder") or _constant(node, where):
            continue
        if not operators.is_view(node):
            where[node] = _written(node)
            continue
        source = node.all_input_nodes[0]
        where[node], copies = _looked_at(node, source, where.get(source))
        if copies:
            found.add(node)
    return found


def _constant(node: fx.Node, where: dict[fx.Node, Any]) -> bool:
    """Whether a call depends on stored tensors alone: it is folded, not run."""
    return node.op == "call_function" and not any(item in where for item in node.all_input_nodes)


def _written(node: fx.Node) -> Any:
    """The tensor as whatever computes it writes it: channels last, or as the first permutation behind it asks."""
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return [_row_major(item) for item in value]
    if not isinstance(value, Tensor):
        return None
    order = list(range(value.dim()))
    if operators.op_name(node) in _CHANNELS_LAST and value.dim() == 4:
        order = [0, 2, 3, 1]
    reader = next(iter(node.users), None)
    if reader is not None and operators.op_name(reader) in _WHERE and node.op == "call_function":
        wanted = _order_after(reader, value)
        order = wanted if wanted[-1] == order[-1] else order
    tensor = torch.empty([int(value.shape[axis]) for axis in order], device="meta")
    return tensor.permute([order.index(axis) for axis in range(value.dim())])


def _order_after(reader: fx.Node, value: Tensor) -> list[int]:
    """The axes of the tensor in the order in which a permutation lists them."""
    sizes = [int(size) for size in value.shape]
    marked = torch.empty_strided(sizes, [1 << axis for axis in range(value.dim())], device="meta")
    return [stride.bit_length() - 1 for stride in _call(reader, marked).stride()]


def _looked_at(node: fx.Node, source: fx.Node, tensor: Any) -> tuple[Any, bool]:
    """The view of a tensor, and whether it has to be a copy."""
    name = operators.op_name(node)
    if tensor is None or name in _AS_IT_IS:
        return tensor, False
    if name == "getitem":
        index = node.args[1]
        return (tensor[index] if isinstance(tensor, list | tuple) and isinstance(index, int) else None), False
    if not isinstance(tensor, Tensor):
        return None, False
    result = _call(node, tensor)
    parts: list[Any] = list(result) if isinstance(result, list | tuple) else [result]
    if all(_shares(part, tensor) for part in parts):
        return result, False
    return [_row_major(part) for part in parts] if len(parts) > 1 else _row_major(parts[0]), True


def _call(node: fx.Node, tensor: Tensor) -> Any:
    source = node.all_input_nodes[0]

    def argument(item: fx.Node) -> Any:
        return (
            tensor if item is source else _row_major(item.meta["val"])
        )  # a reshape may be like another tensor

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), argument)  # type: ignore[attr-defined]
    target: Any = node.target
    return target(*args, **kwargs)


def _shares(part: Any, tensor: Tensor) -> bool:
    return part.untyped_storage()._cdata == tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _row_major(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value if isinstance(value, int) else int(value)  # a size, perhaps a symbolic one
    return torch.empty([int(size) for size in value.shape], device="meta")
