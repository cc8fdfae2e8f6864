"""Operators without a kernel of their own, opened into simpler ones by torch's own decompositions.

The graph that is planned and quantized keeps its operators whole; only what the lowering does not know is replaced,
in a copy of the graph and under the layer's name.
"""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import fx

from hwsim.model import rewrite
from quant.model_pass import copy_module


@cache
def _table() -> Mapping[Any, Any]:
    """Decompositions into ATen operators; those of torch's reference library go further down than kernels here do."""
    from torch._decomp import core_aten_decompositions, decomposition_table

    shallow = {
        operator: decomposed
        for operator, decomposed in decomposition_table.items()
        if decomposed.__module__.startswith("torch._decomp")
    }
    return {**shallow, **core_aten_decompositions()}


def opened(module: fx.GraphModule, has_kernel: Callable[[fx.Node], bool]) -> fx.GraphModule:
    """The module with every call that has no kernel replaced by what it consists of, where torch knows that."""
    if all(has_kernel(node) or not _opens(node) for node in module.graph.nodes):
        return module
    module = copy_module(module)
    waiting = list(module.graph.nodes)
    while waiting:
        node = waiting.pop()
        if has_kernel(node) or not _opens(node):
            continue
        layer = node.meta.get("layer", node.name)
        table = {node.target: _table()[node.target]} if node.target in _table() else None
        target = node.target
        made = rewrite.inline(node, table)
        for each in made:
            each.meta["layer"] = layer
        waiting.extend(each for each in made if each.target is not target)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _opens(node: fx.Node) -> bool:
    """Whether torch says what a call consists of: by a decomposition, or because it is a composite."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    implicit = torch._C.DispatchKey.CompositeImplicitAutograd
    return node.target in _table() or node.target.has_kernel_for_dispatch_key(implicit)
