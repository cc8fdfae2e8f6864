"""Cut a graph into units: stretches of nodes that one tensor enters and one tensor leaves.

A residual block is one unit and so is a stem or a head, whatever the family, because between them exactly one
live tensor depends on the products so far. Values that depend on the inputs but on no product (masks, rotary
tables) cross cuts freely and are recomputed where needed. Whoever keeps the tensor at a cut sample by sample names
the nodes whose value has the samples in front; elsewhere there is no cut.
"""
# pyright: basic
# torch.fx nodes and metadata are untyped in torch's stubs.

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx

from quant.errors import QuantError
from quant.methods.interpret import GraphRunner
from quant.model_pass import Product


@dataclass(frozen=True, eq=False)
class Unit:
    """Nodes to run, the tensor that enters, the tensor that leaves, and the products inside."""

    name: str
    nodes: tuple[fx.Node, ...]
    entry: fx.Node
    exit: fx.Node
    products: tuple[Product, ...]


@dataclass(frozen=True, eq=False)
class UnitPlan:
    """All units in order, and the nodes no unit owns because they depend on no product."""

    units: tuple[Unit, ...]
    side: tuple[fx.Node, ...]


def cut_into_units(runner: GraphRunner, leading: Collection[fx.Node] | None = None) -> UnitPlan:
    """Finest cut in which every unit holds a weighted product; activations behind one belong to it.

    Cuts go through ``leading`` alone, where it is given (`sample_axis.sample_leading`).
    """
    calls = [node for node in runner.nodes if node.op == "call_function"]
    main = _main_nodes(runner, calls)
    position = {node: index for index, node in enumerate(runner.nodes)}
    chain = [node for node in calls if node in main]
    entry, lead_in = _entry(runner, calls, main), list[fx.Node]()
    if leading is not None and entry not in leading:
        entry, lead_in = _behind_an_input(runner, entry, leading)
    side = tuple(node for node in calls if node not in main and node is not entry)
    units: list[Unit] = []
    current: list[fx.Node] = lead_in
    for index, node in enumerate(chain):
        current.append(node)
        is_last = index == len(chain) - 1
        alive = _alive(node, chain[: index + 1], [entry] if not units else [units[-1].exit], position)
        whole = leading is None or node in leading
        if not is_last and (
            alive != {node} or not whole or not _closes(node, chain[index + 1], runner, current)
        ):
            continue
        found = tuple(runner.products[item] for item in current if item in runner.products)
        weighted = [product for product in found if product.kind != "matmul"]
        if not weighted and units:
            before = units.pop()
            current = [*before.nodes, *current]
            found, entry_here = (*before.products, *found), before.entry
        else:
            entry_here = units[-1].exit if units else entry
        label = weighted[0].name if weighted else (found[0].name if found else node.name)
        # of several outputs the first is what predictions are read from
        leaves = runner.output if is_last and runner.output in current else node
        units.append(Unit(label, tuple(current), entry_here, leaves, found))
        current = []
    return UnitPlan(tuple(units), side)


def _behind_an_input(
    runner: GraphRunner, first: fx.Node, leading: Collection[fx.Node]
) -> tuple[fx.Node, list[fx.Node]]:
    """An input of the graph to enter by instead of ``first``, and the calls from there to ``first``."""
    before: set[fx.Node] = {first}
    for node in reversed(runner.nodes):
        if node in before:
            before.update(node.all_input_nodes)
    holders = [node for node in runner.nodes if node.op == "placeholder" and node in leading]
    if not holders:
        raise QuantError(
            "pd: no input of the model has its samples on the first axis, so it cannot be trained"
        )
    entry = next((node for node in holders if node in before), holders[0])
    return entry, [node for node in runner.nodes if node in before and node.op == "call_function"]


def _main_nodes(runner: GraphRunner, calls: list[fx.Node]) -> set[fx.Node]:
    """Products with stored weights and everything behind them."""
    main: set[fx.Node] = set()
    for node in calls:
        product = runner.products.get(node)
        starts = product is not None and product.kind != "matmul"
        if starts or any(source in main for source in node.all_input_nodes):
            main.add(node)
    return main


def _entry(runner: GraphRunner, calls: list[fx.Node], main: set[fx.Node]) -> fx.Node:
    """The tensor the first product reads."""
    first = next((node for node in calls if node in main), None)
    if first is None:
        raise QuantError(
            "pd: no product has stored weights, so there is no rounding to learn; drop the step pd"
        )
    return runner.products[first].inputs[0]


def _alive(
    node: fx.Node, before: list[fx.Node], entries: list[fx.Node], position: dict[fx.Node, int]
) -> set[fx.Node]:
    """Values computed up to here that something behind still reads."""
    here = position[node]
    return {item for item in (*before, *entries) if any(position[user] > here for user in item.users)}


def _closes(node: fx.Node, following: fx.Node, runner: GraphRunner, current: list[fx.Node]) -> bool:
    """A cut is wanted in front of a product, a branch or a norm, not between a product and its activation."""
    if not any(item in runner.products for item in current) or isinstance(node.meta.get("val"), list | tuple):
        return False  # what is cut through is one tensor, not the parts of a split
    return following in runner.products or len(node.users) > 1 or "norm" in str(following.target)
