"""One name per layer: its module path, in the words of the model's own source.

A module that does one thing lends its path as it is (``blocks.3.attn.qkv``, ``layer1.0.bn1``). Work done in the
forward of a composite module is called by what it does (``blocks.3.attn.softmax``, ``layer1.0.add``), and the two
products of attention are always ``.qk`` (queries by keys) and ``.av`` (attention weights by values).
"""

from collections import Counter

from torch import fx

from hwsim.model import operators, rewrite
from hwsim.model.copies import copying_views
from hwsim.model.rewrite import aten


def assign_names(module: fx.GraphModule) -> None:
    """Set ``node.meta["layer"]`` and ``node.meta["kind"]`` on every layer node."""
    copies = copying_views(module.graph)
    nodes = [node for node in module.graph.nodes if operators.kind_of(node) is not None or node in copies]
    paths = {node: _path(node) for node in nodes}
    composite = _composites(module.graph)
    alone = Counter(paths.values())
    attention = _attention_products(module.graph)
    taken: set[str] = set()
    for node in nodes:
        path = paths[node]
        step = "copy" if node in copies else attention.get(node, operators.op_name(node))
        leaf = bool(path) and path not in composite and node not in attention
        # A leaf that does one thing, or whose one product does the thing, owns the bare path.
        owns = leaf and (
            alone[path] == 1 or (operators.is_product(node) and _only_product(node, nodes, paths))
        )
        wanted = path if owns else f"{path}.{step}" if path else step
        name, number = wanted, 0
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        taken.add(name)
        node.meta["layer"] = name
        node.meta["kind"] = operators.kind_of(node) or "other"


def _path(node: fx.Node) -> str:
    path = rewrite.module_path(node)
    if not path and operators.is_product(node) and len(node.args) > 1:
        weight = node.args[1]
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            return str(weight.target).rpartition(".")[0]
    return path


def _composites(graph: fx.Graph) -> set[str]:
    """Paths that contain other paths which ran."""
    found: set[str] = {""}
    for node in graph.nodes:
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            parts = str(path).partition("@")[0].split(".")
            found.update(".".join(parts[:length]) for length in range(1, len(parts)))
    return found


def _only_product(node: fx.Node, nodes: list[fx.Node], paths: dict[fx.Node, str]) -> bool:
    return not any(
        other is not node and paths[other] == paths[node] and operators.is_product(other) for other in nodes
    )


def _attention_products(graph: fx.Graph) -> dict[fx.Node, str]:
    """The product before each softmax and the one after it."""
    found: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if operators.kind_of(node) != "softmax":
            continue
        before = _search(node, backward=True)
        after = _search(node, backward=False)
        if before is not None and after is not None:
            found[before], found[after] = "qk", "av"
    return found


_BETWEEN = {"add", "mul", "where", "masked_fill", "div", "sub", "clamp", "softcap", "tanh"}


def _search(start: fx.Node, *, backward: bool) -> fx.Node | None:
    """The nearest matmul through additions, scalings and views."""
    pending, seen = [start], {start}
    while pending:
        node = pending.pop(0)
        neighbours = node.all_input_nodes if backward else list(node.users)
        for item in neighbours:
            if item in seen or item.op != "call_function":
                continue
            seen.add(item)
            if item.target is aten.matmul.default:
                return item
            if operators.is_view(item) or operators.op_name(item) in _BETWEEN:
                pending.append(item)
    return None
