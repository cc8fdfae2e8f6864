"""The work between the products: norms, softmax, activations, additions, pools, copies, conversions of width.

time = max(elements / rate, bytes / bandwidth of the activations' home) + launch. Elementwise work of the kinds that
the target's stack fuses into the layer before it (``vector.fused``) pays its arithmetic and its second operand, but no
launch, no barrier and no round trip of the first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwsim.simulate.launches import starts_of
from hwsim.simulate.machine import Machine
from hwsim.simulate.placement import Placement, peak_live_elements, place
from hwsim.simulate.pricing import PRODUCT_KINDS
from hwsim.simulate.stored_weights import NetworkWeights
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer
    from hwsim.target.schema import Target

ELEMENTWISE = frozenset({"activation", "add", "mul"})
SMOOTH = frozenset(
    {"gelu", "silu", "tanh", "sigmoid", "exp", "erf", "elu", "selu", "celu", "mish", "softplus", "log", "glu"}
)


@dataclass(frozen=True, slots=True)
class VectorCost:
    """One operator that is no product. ``home`` is the index of the memory that it reads and writes.

    ``energy_pj`` is its own; the device's static power is counted once over a whole inference.
    """

    name: str
    op: str
    cycles: float
    energy_pj: float
    bound: str
    compute_cycles: float
    traffic_bytes: float
    fixed_cycles: float
    home: int
    units: int
    fused: bool
    start_cycles: float


def vector_costs(
    layers: "Sequence[Layer]",
    target: "Target | Machine",
    *,
    act_bits: int = 8,
    placement: Placement | None = None,
) -> list[VectorCost]:
    """Costs of the layers that are no products, spread over all units where that is faster."""
    from hwsim.simulate.cost import machine_of

    machine = machine_of(target)
    starts = starts_of(layers, machine)
    if placement is None:
        weights = NetworkWeights.of(layers).bytes_in(Scheme(8, act_bits), machine)
        live = peak_live_elements(layers) * machine.stored_bits(act_bits) / 8
        placement = place(machine, weights, live, starts.fit, starts.instruction_bytes)
    home, swapped = placement.activations, placement.swapped
    return [
        vector_cost(layer, machine, act_bits, home, layer.name in starts.fused, starts.cycles(layer, swapped))
        for layer in layers
        if layer.kind not in PRODUCT_KINDS
    ]


def vector_cost(
    layer: "Layer",
    machine: Machine,
    act_bits: int,
    home: int,
    fused: bool,
    start: float,
    units: int | None = None,
) -> VectorCost:
    """Cost of one operator on at most ``units`` units (default: all); ``start`` is what its start costs.

    Elementwise work that stands alone passes over memory as a copy does, so it is no faster than one.
    """
    available = machine.units if units is None else units
    kind = "smooth" if layer.kind == "activation" and layer.op in SMOOTH else layer.kind
    rate = machine.vector_rates.get(
        kind, machine.vector_rates.get(layer.kind, machine.vector_rates.get("other", 1.0))
    )
    if not fused and layer.kind in ELEMENTWISE:
        rate = min(rate, machine.vector_rates.get("other", rate))
    in_place = fused and layer.op == "cat"  # the parts are written where the whole lies
    work = layer.elements / rate + machine.vector_row_cycles.get(layer.kind, 0.0) * rows(layer)
    moved = vector_elements(layer, fused) * (machine.vector_bits or machine.stored_bits(act_bits)) / 8
    if in_place:
        work = moved = 0.0
    level = machine.levels[home]
    memory = moved / level.bytes_per_cycle
    alone = max(work, memory)
    spread = max(work / available, memory) + (0.0 if fused else machine.sync_cycles)
    used = available if available > 1 and spread < alone else 1
    compute = work / used
    fixed = 0.0
    if not fused:
        fixed = start + (machine.sync_cycles if used > 1 else 0.0)
    cycles = max(compute, memory) + fixed
    energy = layer.elements * machine.vector_pj + moved * level.pj_per_byte
    bound = "launch" if fixed > max(compute, memory) else "compute" if compute >= memory else level.name
    return VectorCost(
        layer.name, layer.op, cycles, energy, bound, compute, moved, fixed, home, used, fused, start
    )  # fmt: skip


def rows(layer: "Layer") -> int:
    """Rows along which the operator runs: all axes but the last."""
    return layer.elements // max(1, layer.output_shape[-1]) if layer.output_shape else 1


def vector_elements(layer: "Layer", fused: bool) -> int:
    """Elements read and written; fused work reads only what its producer does not hand over."""
    sizes = sorted((math.prod(shape) for shape in layer.input_shapes), reverse=True)
    if fused:
        return sum(sizes[1:])
    return sum(sizes) + layer.elements


def boundary_cost(
    elements: int,
    source_act_bits: int | None,
    target_act_bits: int | None,
    target: "Target | Machine",
    units: int | None = None,
) -> tuple[float, float]:
    """Cycles and picojoules of handing an activation on in another width: one multiplication an element.

    ``None`` bits are float. Equal widths cost nothing; the conversion is spread over ``units`` (default: all).
    """
    from hwsim.simulate.cost import machine_of

    if source_act_bits == target_act_bits:
        return 0.0, 0.0
    machine = machine_of(target)
    cycles = elements / (machine.vector_rates.get("mul", 1.0) * (units or machine.units))
    return cycles, elements * machine.vector_pj


@dataclass(frozen=True, slots=True)
class Handover:
    """An activation on its way from the product whose width it has to a product that reads it."""

    source: str
    target: str
    elements: int


def makers(layers: "Sequence[Layer]") -> dict[str, str | None]:
    """The product whose width each layer's output has: vector work hands on that of its first input."""
    found: dict[str, str | None] = {}
    for layer in layers:
        above = (found.get(name) for name in layer.inputs)
        found[layer.name] = layer.name if layer.kind in PRODUCT_KINDS else next(filter(None, above), None)
    return found


def handovers(layers: "Sequence[Layer]") -> list[Handover]:
    """Where an activation changes hands between two products, and with it perhaps its width."""
    maker = makers(layers)
    found: dict[tuple[str, str], int] = {}
    for layer in layers:
        if layer.kind in PRODUCT_KINDS:
            for name, shape in zip(layer.inputs, layer.input_shapes, strict=False):
                source = maker.get(name)
                if source is not None:
                    key = (source, layer.name)
                    found[key] = found.get(key, 0) + math.prod(shape)
    return [Handover(source, target, elements) for (source, target), elements in found.items()]
