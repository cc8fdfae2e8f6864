"""Which activations are alive at each step, as the planner needs it: by the product that wrote them.

The width of an activation is the choice of the product that made it; vector work behind a product (a norm, an
activation, a residual addition) hands its width on. Tensors that no product stands behind count one byte an
element.
"""

from typing import TYPE_CHECKING

from hwsim.simulate.vector import makers
from planner.tables import LiveSet

if TYPE_CHECKING:
    from hwsim.model.graph import LayerGraph


def live_sets(graph: "LayerGraph") -> list[LiveSet]:
    """One live set for each step at which the set of live tensors is not contained in another one."""
    last_use: dict[str, int] = {}
    for index, layer in enumerate(graph.layers):
        for name in layer.inputs:
            last_use[name] = index
    for name in graph.outputs:
        last_use[name] = len(graph.layers)
    elements = {layer.name: layer.elements for layer in graph.layers}
    maker = makers(graph.layers)
    alive: dict[str, None] = {}
    steps: list[tuple[str, frozenset[str]]] = []
    for index, layer in enumerate(graph.layers):
        for name in (*layer.inputs, layer.name):
            if name in elements:
                alive[name] = None
        steps.append((layer.name, frozenset(alive)))
        for name in [name for name in alive if last_use.get(name, -1) <= index]:
            del alive[name]
    return [_live_set(step, tensors, maker, elements) for step, tensors in _largest(steps)]


def _largest(steps: list[tuple[str, frozenset[str]]]) -> list[tuple[str, frozenset[str]]]:
    """Drop a step whose live tensors are contained in those of a neighbour."""
    kept: list[tuple[str, frozenset[str]]] = []
    for step in steps:
        if kept and step[1] <= kept[-1][1]:
            continue
        while kept and kept[-1][1] <= step[1]:
            kept.pop()
        kept.append(step)
    return kept


def _live_set(
    step: str, tensors: frozenset[str], maker: dict[str, str | None], elements: dict[str, int]
) -> LiveSet:
    products: list[str] = []
    fixed = 0
    for name in sorted(tensors):
        product = maker[name]
        if product is not None and product not in products and elements[product] == elements[name]:
            products.append(product)
        else:
            fixed += elements[name]
    return LiveSet(step=step, layers=tuple(products), fixed_bytes=fixed)
