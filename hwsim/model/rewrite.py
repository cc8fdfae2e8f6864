"""Small tools for editing an fx graph: emit a node with its shape, read constants, erase what is dead.

Shapes travel as ``node.meta["val"]``: a tensor (or a list of tensors) on the meta device.
"""
# nn.Module has no public way to delete or replace a parameter by name.
# pyright: reportPrivateUsage=false

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten
_WRITING = ("aten.lstm", "aten.gru", "aten.rnn")
"""Long calls known to write into what they compute; traced once, not first to find that out."""
KEPT_META = ("nn_module_stack", "stack_trace")


def value(node: Any) -> Any:
    """Shape and type of a node as a meta tensor; anything else as it is."""
    return node.meta.get("val") if isinstance(node, fx.Node) else node


def shape(node: fx.Node) -> tuple[int, ...]:
    """Shape of the (first) tensor a node produces."""
    first = tensors(node)[:1]
    return tuple(int(size) for size in first[0].shape) if first else ()


def tensors(node: fx.Node) -> list[Tensor]:
    """All tensors a node produces."""
    produced = node.meta.get("val")
    if isinstance(produced, Tensor):
        return [produced]
    return (
        [item for item in produced if isinstance(item, Tensor)] if isinstance(produced, list | tuple) else []
    )


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument by position or keyword."""
    if position < len(node.args):
        return node.args[position]
    return node.kwargs.get(name, default)


def to_meta(produced: Any) -> Any:
    """The same nest of tensors on the meta device, strides kept."""
    if isinstance(produced, Tensor):
        return torch.empty_strided(produced.shape, produced.stride(), dtype=produced.dtype, device="meta")
    if isinstance(produced, list | tuple):
        return [to_meta(item) for item in produced]
    return produced


def emit(
    before: fx.Node, target: Callable[..., Any], *args: Any, like: fx.Node | None = None, **kwargs: Any
) -> fx.Node:
    """Insert a call before a node, with its shape worked out and the module path of ``like``."""
    graph = before.graph
    with graph.inserting_before(before):
        node = graph.call_function(target, args, kwargs)
    annotate(node, like or before)
    return node


def annotate(node: fx.Node, like: fx.Node) -> None:
    """Work out the shape of a call and copy the module path of another node."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)  # type: ignore[attr-defined]
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("meta")}
    with torch.no_grad():
        node.meta["val"] = to_meta(node.target(*args, **kwargs))  # type: ignore[operator]
    for key in KEPT_META:
        if key in like.meta:
            node.meta[key] = like.meta[key]


def get_tensor(module: fx.GraphModule, name: str) -> Tensor:
    """The parameter or buffer called ``name``."""
    holder: Any = module
    for part in name.split("."):
        holder = getattr(holder, part)
    return holder


def set_tensor(module: fx.GraphModule, name: str, tensor: Tensor, *, parameter: bool) -> None:
    """Store a parameter or buffer under a dotted name, replacing what is there."""
    *path, last = name.split(".")
    holder: torch.nn.Module = module
    for part in path:
        child = holder._modules.get(part)
        if child is None:
            child = torch.nn.Module()
            holder.add_module(part, child)
        holder = child
    for table in (holder._parameters, holder._buffers):
        table.pop(last, None)
    if parameter:
        holder.register_parameter(last, torch.nn.Parameter(tensor, tensor.is_floating_point()))
    else:
        holder.register_buffer(last, tensor)


def free_name(module: fx.GraphModule, wanted: str) -> str:
    """``wanted``, or with a number behind it where that name is taken."""
    taken = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    taken |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    candidate, number = wanted, 0
    while candidate in taken:
        number += 1
        candidate = f"{wanted}_{number}"
    return candidate


def constant_node(before: fx.Node, module: fx.GraphModule, name: str, tensor: Tensor) -> fx.Node:
    """Store a buffer and read it in front of a node."""
    set_tensor(module, name, tensor, parameter=False)
    return read_node(before, name, tensor)


def read_node(before: fx.Node, name: str, tensor: Tensor) -> fx.Node:
    """Read a stored tensor in front of a node."""
    with before.graph.inserting_before(before):
        node = before.graph.create_node("get_attr", name)
    node.meta["val"] = to_meta(tensor.detach())
    return node


def replace(old: fx.Node, new: fx.Node) -> None:
    """Let all users of ``old`` read ``new``, then erase ``old``."""
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)


def calls(graph: fx.Graph, *targets: Any) -> Iterator[fx.Node]:
    """The calls of some targets, in order; the graph may be edited meanwhile."""
    wanted = set(targets)
    return (node for node in list(graph.nodes) if node.op == "call_function" and node.target in wanted)


def inline(node: fx.Node, table: Mapping[Any, Any] | None = None) -> list[fx.Node]:
    """Replace a call by the calls it consists of, or that ``table`` decomposes it into; returns these."""
    flat = list(node.all_input_nodes)

    def run(*given: Tensor) -> Any:
        by_node = dict(zip(flat, given, strict=True))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), by_node.__getitem__)  # type: ignore[attr-defined]
        return node.target(*args, **kwargs)  # type: ignore[operator]

    examples = [value(item) for item in flat]
    with torch.no_grad():
        writing = str(node.target).startswith(_WRITING)
        traced = None if writing else make_fx(run, decomposition_table=table)(*examples)
        if traced is None or any(writes(inner.target) for inner in traced.graph.nodes):
            traced = make_fx(dispatch_functionalize(run), decomposition_table=table)(*examples)
    copies: dict[fx.Node, fx.Node] = {}
    for inner, outer in zip((n for n in traced.graph.nodes if n.op == "placeholder"), flat, strict=True):
        copies[inner] = outer
    made: list[fx.Node] = []
    for inner in traced.graph.nodes:
        if inner.op != "call_function":
            continue
        args, kwargs = fx.node.map_arg((inner.args, inner.kwargs), copies.__getitem__)  # type: ignore[attr-defined]
        viewed = inner.target in (aten.view.default, aten._unsafe_view.default)
        target = aten.reshape.default if viewed else inner.target
        copies[inner] = emit(node, target, *args, like=node, **kwargs)
        made.append(copies[inner])
    result = next(n for n in traced.graph.nodes if n.op == "output").args[0]
    if isinstance(result, fx.Node):
        replace(node, copies[result])
        return made
    for user in list(node.users):
        replace(user, copies[result[user.args[1]]])  # type: ignore[index]
    node.graph.erase_node(node)
    return made


def writes(target: Any) -> bool:
    """Whether an operator writes its first argument."""
    schema = getattr(target, "_schema", None)  # only torch operators have one
    return schema is not None and bool(schema.is_mutable)


def drop_dead(module: fx.GraphModule) -> None:
    """Erase calls and constants nobody reads, then tensors no node reads."""
    for node in reversed(list(module.graph.nodes)):
        if not node.users and node.op in ("call_function", "get_attr"):
            module.graph.erase_node(node)
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    _prune(module, "", read)


def _prune(holder: torch.nn.Module, prefix: str, read: set[str]) -> None:
    for table in (holder._parameters, holder._buffers):
        for name in [name for name in table if prefix + name not in read]:
            del table[name]
    for name, child in list(holder._modules.items()):
        if child is not None:
            _prune(child, f"{prefix}{name}.", read)
            if not child._modules and not child._parameters and not child._buffers:
                del holder._modules[name]


def module_path(node: fx.Node) -> str:
    """Path of the innermost module whose forward made this node."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0])
    return path.partition("@")[0]
