"""Fill the planner's tables from the simulator's costs and the error profile.

Only this file knows both vocabularies: what a simulated option costs and what the planner calls it. Costs are
rounded up to whole cycles, so that what the solver proves inside a limit is inside it in truth.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from hwsim.stages.live import live_sets
from hwsim.stages.options import product_kind
from planner.tables import (
    Agreement,
    Boundary,
    BoundaryRule,
    EnsembleChoice,
    LayerOption,
    LayerTable,
    Memory,
    Split,
    Tables,
)

if TYPE_CHECKING:
    from hwsim.model.graph import Layer, LayerGraph
    from hwsim.simulate.cost import OptionCost, VectorCost
    from hwsim.simulate.machine import Machine
    from hwsim.stages.error_profile import LayerErrors
    from hwsim.target.schema import Target
    from quant.scheme import Scheme

MAX_PREDICTORS = 3
FLOAT_BITS = 32
VECTOR_BITS = 8  # the width that `vector_costs` assumes where no plan says otherwise


def fill_tables(
    graph: "LayerGraph",
    target: "Target",
    costs: "Sequence[Sequence[OptionCost]]",
    vectors: "Sequence[VectorCost]",
    errors: "Mapping[str, LayerErrors]",
    provenance: dict[str, str],
) -> Tables:
    """One document with everything the decision depends on."""
    from hwsim.simulate.cost import machine_of
    from hwsim.simulate.stored_weights import fixed_weight_bytes

    products = graph.products()
    static = machine_of(target).static_pj_per_cycle
    layers = tuple(
        LayerTable(
            name=layer.name,
            kind=product_kind(layer),
            options=tuple(_options(layer, options, errors[layer.name], len(products), target, static)),
            group=layer.group,
            macs=layer.macs,
        )
        for layer, options in zip(products, costs, strict=True)
    )
    ensembles = _ensembles(graph, target, vectors)
    fixed_cycles = math.ceil(sum(cost.cycles for cost in vectors) + _ends(graph, target))
    return Tables(
        model=graph.model,
        target=target.name,
        units=target.unit_count,
        clock_hz=target.clock_hz,
        layers=layers,
        fixed_cycles=fixed_cycles,
        fixed_energy_pj=sum(cost.energy_pj for cost in vectors) + static * fixed_cycles,
        fixed_weight_bytes=fixed_weight_bytes(graph.layers),
        boundaries=tuple(_boundaries(graph, target, costs, bool(ensembles))),
        agreements=tuple(_agreements(products)),
        live_sets=tuple(live_sets(graph)),
        memories=tuple(_memories(target)),
        ensembles=tuple(ensembles),
        provenance=provenance,
    )


def _ends(graph: "LayerGraph", target: "Target") -> float:
    """Cycles of starting an inference and of bringing 8-bit inputs and outputs over the host link."""
    from hwsim.simulate.cost import machine_of
    from hwsim.simulate.simulation import invocation_cycles

    machine = machine_of(target)
    elements = graph.layers[0].input_elements + graph.layers[-1].elements
    return invocation_cycles(machine, elements * machine.stored_bits(8) / 8)


def _options(
    layer: "Layer",
    costs: "Sequence[OptionCost]",
    errors: "LayerErrors",
    products: int,
    target: "Target",
    static: float,
) -> list[LayerOption]:
    in_float = target.float_path.bits if target.float_path is not None else FLOAT_BITS
    options: list[LayerOption] = []
    for cost in costs:
        scheme = cost.scheme
        spread = cost.way == "single" and scheme.order > 2
        by_term = _by_term(cost.cycles, cost.term_cycles, cost.fixed_cycles) if spread else ()
        by_energy = _by_term(cost.energy_pj - cost.static_pj, cost.term_energy_pj, 0.0) if spread else ()
        options.append(
            LayerOption(
                scheme=str(scheme),
                weight_bits=scheme.weight_bits,
                act_bits=scheme.act_bits,
                order=scheme.order,
                kept=scheme.kept,
                engine=cost.engine,
                way=cost.way,
                recipe=scheme.recipe,
                error=errors.error(scheme),
                cycles=math.ceil(cost.cycles),
                energy_pj=round(cost.energy_pj, 3),
                static_pj=round(cost.static_pj, 3),
                bops=cost.bops,
                weight_bytes=math.ceil(cost.weight_bytes),
                act_bytes=math.ceil(
                    layer.elements
                    * (target.stored_bits(scheme.act_bits) if scheme.act_bits else in_float)
                    / 8
                ),
                term_cycles=tuple(map(math.ceil, by_term)),
                term_energy_pj=tuple(round(pj, 3) for pj in by_energy),
                term_bops=cost.term_bops if spread else (),
                splits=tuple(_splits(errors, scheme, products, by_term, static)) if spread else (),
                bound=cost.bound,
            )
        )
    return options


def _by_term(whole: float, terms: Sequence[float], least: float) -> tuple[float, ...]:
    """A layer's cost by orders; what it costs whatever it holds (``least``: the launch) belongs to the first."""
    first, *later = terms
    return (max(first + least, whole - sum(later)), *later)


def _splits(
    errors: "LayerErrors", scheme: "Scheme", products: int, term_cycles: Sequence[float], static: float
) -> list[Split]:
    """How the terms may be spread over predictors; the lost cross terms are of second order.

    A telescoped ensemble loses the products of residual terms of different predictors. Relative to what the
    base loses, such a product carries one more factor of the base's relative residual energy, once for each
    other layer. The device's static power is paid once while all networks run: over the first term, and over
    the mean of the later ones, since whoever minimises latency balances the networks over the layers.
    """
    from quant.scheme import Scheme

    base = Scheme(scheme.weight_bits, scheme.act_bits)
    lost = errors.error(base) * min(1.0, products * errors.relative(base))
    first, *later = term_cycles
    return [
        Split(
            predictors=predictors,
            base=1,
            error=lost,
            static_pj=round(static * (first + sum(later) / predictors), 3),
        )
        for predictors in range(2, min(MAX_PREDICTORS, scheme.order - 1) + 1)
    ]


def _agreements(products: "Sequence[Layer]") -> list[Agreement]:
    """Layers that read one tensor share its quantizer, so they agree on the activation bits."""
    groups: dict[str, list[str]] = {}
    for layer in products:
        if layer.group is not None:
            groups.setdefault(layer.group, []).append(layer.name)
    return [Agreement(name=name, layers=tuple(names)) for name, names in groups.items() if len(names) > 1]


def _boundaries(
    graph: "LayerGraph", target: "Target", costs: "Sequence[Sequence[OptionCost]]", ensembles: bool
) -> list[Boundary]:
    """What the simulator charges where two products that hand an activation on take different widths."""
    from hwsim.simulate.cost import machine_of
    from hwsim.simulate.vector import handovers

    machine = machine_of(target)
    widths = {
        layer.name: dict.fromkeys(cost.scheme.act_bits for cost in options)
        for layer, options in zip(graph.products(), costs, strict=True)
    }
    found: list[Boundary] = []
    for handover in handovers(graph.layers):
        rules = tuple(
            _rule(handover.elements, source, wanted, machine, ensembles)
            for source in widths[handover.source]
            for wanted in widths[handover.target]
            if source != wanted
        )
        if rules:
            found.append(Boundary(source=handover.source, target=handover.target, rules=rules))
    return found


def _rule(
    elements: int, source: int | None, wanted: int | None, machine: "Machine", ensembles: bool
) -> BoundaryRule:
    from hwsim.simulate.cost import boundary_cost

    cycles, energy_pj = boundary_cost(elements, source, wanted, machine)
    alone = boundary_cost(elements, source, wanted, machine, units=1)[0] if ensembles else None
    return BoundaryRule(
        source_act_bits=source,
        target_act_bits=wanted,
        cycles=math.ceil(cycles),
        alone_cycles=None if alone is None else math.ceil(alone),
        energy_pj=round(energy_pj, 3),
    )


def _memories(target: "Target") -> list[Memory]:
    """Memories that cannot spill: the last one that holds weights, the last one that holds activations.

    Where a host link brings the weights that do not stay on the device, weights need no room.
    """
    link = target.host_link
    carried = link is not None and "weights" in link.carries
    kept: list[Literal["weights", "activations"]] = ["activations"] if carried else ["weights", "activations"]
    last = {tensor: next((v for v in reversed(target.levels) if tensor in v.holds), None) for tensor in kept}
    memories: list[Memory] = []
    for level in target.levels:
        holds: tuple[Literal["weights", "activations"], ...] = tuple(t for t in kept if last[t] is level)
        if holds and math.isfinite(level.capacity):
            memories.append(Memory(name=level.name, bytes=int(level.capacity), holds=holds))
    return memories


def _ensembles(
    graph: "LayerGraph", target: "Target", vectors: "Sequence[VectorCost]"
) -> list[EnsembleChoice]:
    """Telescoped ensembles that fit the units: P expanded networks and the base network.

    Each network runs its own vector work on one unit; static power is paid once for all of them.
    """
    from hwsim.simulate.cost import machine_of
    from hwsim.simulate.vector import vector_cost

    if not target.units.independent:
        return []
    machine = machine_of(target)
    layers = {layer.name: layer for layer in graph.layers}
    alone = [
        vector_cost(
            layers[cost.name], machine, VECTOR_BITS, cost.home, cost.fused, cost.start_cycles, units=1
        )
        for cost in vectors
    ]
    fixed_cycles = math.ceil(sum(cost.cycles for cost in alone) + _ends(graph, target))
    combine_cycles = math.ceil(target.sync_cycles)
    static_pj = machine.static_pj_per_cycle * (fixed_cycles + combine_cycles)
    energy_pj = sum(cost.energy_pj for cost in alone)
    return [
        EnsembleChoice(
            predictors=predictors,
            fixed_cycles=fixed_cycles,
            fixed_energy_pj=energy_pj * (predictors + 1) + static_pj,
            combine_cycles=combine_cycles,
            activation_copies=predictors + 1,
        )
        for predictors in range(2, MAX_PREDICTORS + 1)
        if predictors + 1 <= target.unit_count
    ]
