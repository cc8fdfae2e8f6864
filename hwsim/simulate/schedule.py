"""From a plan to jobs: which unit does what, in which step, with which stream of tiles.

A *lane* is a chain of steps with a barrier after each. A plain plan is one lane over all units; a telescoped
ensemble of P networks is P lanes of one unit for the expanded networks and one for the base network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from hwsim.errors import UserError
from hwsim.simulate import columns as col
from hwsim.simulate.launches import Starts, starts_of
from hwsim.simulate.machine import Machine
from hwsim.simulate.placement import Placement, live_bytes, place
from hwsim.simulate.pricing import (
    PRODUCT_KINDS,
    WAY_CODES,
    TermSize,
    Way,
    dims_row,
    operator_class,
    option_terms,
    pack_terms,
    point_row,
    prepared_inputs,
    price_points,
    scheme_terms,
)
from hwsim.simulate.stored_weights import fixed_weight_bytes, layer_weight_bytes
from hwsim.simulate.vector import VectorCost, boundary_cost, handovers, makers, vector_cost
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer

MAX_TILES = 256  # longer streams are merged: their middle repeats itself
MAX_REPRESENTATIVES = 16  # of equal units with equal work; each carries its share of the shared traffic


class Assignment(Protocol):
    """What the schedule reads of a decision (``cycle.LayerAssignment``)."""

    @property
    def scheme(self) -> Scheme:
        """Form of the weights and activations."""
        ...

    @property
    def engine(self) -> str:
        """Name of the engine, or empty."""
        ...

    @property
    def way(self) -> Way:
        """How units are used."""
        ...

    @property
    def holds(self) -> tuple[tuple[int, ...], ...]:
        """Orders of each expanded network of an ensemble."""
        ...


@dataclass(frozen=True)
class Part:
    """One priced piece of a layer: on which units it runs and which row of the results describes it."""

    lane: int
    step: int
    units: tuple[int, ...]
    row: int


@dataclass(frozen=True)
class Step:
    """One layer in one lane, as the report shows it."""

    lane: int
    index: int
    layer: str
    kind: str
    scheme: str
    engine: str
    way: str
    bops: int = 0
    rows: tuple[int, ...] = ()
    vector: VectorCost | None = None


@dataclass(frozen=True)
class Schedule:
    """The tables that the engine runs, and what is needed to read its answer."""

    jobs: NDArray[np.float64]
    first_job: NDArray[np.int64]
    jobs_left: NDArray[np.int64]
    step_sync: NDArray[np.float64]
    results: NDArray[np.float64]
    steps: tuple[Step, ...]
    placement: Placement
    weight_bytes: float
    live: tuple[float, ...]
    layer_names: tuple[str, ...]
    ends_bytes: tuple[float, float]
    handover_pj: float = 0.0


@dataclass
class _Builder:
    machine: Machine
    placement: Placement
    prepared: Mapping[str, int]
    starts: Starts
    dims: list[tuple[int, ...]] = field(default_factory=list)
    points: list[tuple[float, ...]] = field(default_factory=list)
    terms: list[list[tuple[float, ...]]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    vector_parts: list[tuple[int, int, tuple[int, ...], VectorCost]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    sync: dict[tuple[int, int], float] = field(default_factory=dict)

    def price(self, layer: "Layer", scheme: Scheme, engine: int, way: Way, sizes: Sequence[TermSize]) -> int:
        """Add one point; returns its row."""
        terms, act_bits = option_terms(
            self.machine, self.machine.engines[engine], scheme, sizes, layer.kind != "matmul"
        )
        if not terms:
            name = self.machine.engines[engine].name
            raise UserError(f"plan: engine {name} of {self.machine.name} cannot run {layer.name} in {scheme}")
        self.dims.append(dims_row(layer, self.prepared.get(layer.name, 0)))
        start = self.starts.cycles(layer, self.placement.swapped)
        row = point_row(self.machine, layer, scheme, act_bits, len(terms), self.placement, start)
        self.points.append((len(self.dims) - 1, engine, WAY_CODES[way], *row))
        self.terms.append(terms)
        return len(self.points) - 1


def build_schedule(
    layers: "Sequence[Layer]", assignments: Mapping[str, Assignment], predictors: int, machine: Machine
) -> Schedule:
    """Jobs of a whole plan."""
    bits = activation_bits(layers, assignments, machine)
    live = live_bytes(layers, [bits[layer.name] / 8 for layer in layers])
    weights = fixed_weight_bytes(layers) + sum(
        _weight_bytes(layer, assignments[layer.name], machine)
        for layer in layers
        if layer.name in assignments
    )
    starts = starts_of(layers, machine)
    placement = place(machine, weights, max(live, default=0.0), starts.fit, starts.instruction_bytes)
    prepared = prepared_inputs(layers) if machine.prepares_inputs else {}
    builder = _Builder(machine, placement, prepared, starts)
    lanes = 1 if predictors == 1 else predictors + 1
    for lane in range(lanes):
        for step, layer in enumerate(layers):
            if layer.kind not in PRODUCT_KINDS:
                _add_vector(builder, lane, step, layer, bits[layer.name], lanes)
            elif lanes == 1:
                _add_product(builder, step, layer, assignments[layer.name])
            else:
                _add_member(builder, lane, step, layer, assignments[layer.name], predictors)
    handover_pj = lanes * _add_handovers(builder, layers, assignments, lanes)
    results = price_points(
        machine, np.array(builder.dims, np.int64), np.array(builder.points), pack_terms(builder.terms)
    )
    first, last = layers[0], layers[-1]
    inputs = _elements(first) * bits[first.name] / 8
    return _assemble(
        builder, results[0], lanes, len(layers), live, weights, (inputs, last.elements * bits[last.name] / 8),
        tuple(layer.name for layer in layers), handover_pj,
    )  # fmt: skip


def activation_bits(
    layers: "Sequence[Layer]", assignments: Mapping[str, Assignment], machine: Machine
) -> dict[str, int]:
    """Stored bits of each layer's output: the width of the product behind it, as in the planner's tables.

    Where none is (a norm of the network's input), that of the first product that reads it.
    """
    widths: dict[str, int] = {}
    for name, assignment in assignments.items():
        wanted = assignment.scheme.act_bits
        widths[name] = machine.stored_bits(wanted) if wanted is not None else machine.float_bits
    default = 8 if any(not a.scheme.is_float for a in assignments.values()) else machine.float_bits
    read: dict[str, int] = {}
    for layer in layers:
        if layer.name in widths:
            for name in layer.inputs:
                read.setdefault(name, widths[layer.name])
    return {
        name: widths[product] if product is not None else read.get(name, default)
        for name, product in makers(layers).items()
    }


def _weight_bytes(layer: "Layer", assignment: Assignment, machine: Machine) -> float:
    engine = machine.engines[engine_index(machine, assignment, layer)]
    return layer_weight_bytes(layer, assignment.scheme, machine, engine)


def _elements(layer: "Layer") -> int:
    product = 1
    for size in layer.input_shapes[0] if layer.input_shapes else (1,):
        product *= size
    return product


def engine_index(machine: Machine, assignment: Assignment, layer: "Layer") -> int:
    """The engine that the plan names, or the first that fits; depthwise floats may have one of the same name."""
    in_float = assignment.scheme.is_float or assignment.scheme.act_bits is None
    wanted = operator_class(layer)
    for index, engine in enumerate(machine.engines):
        serves = wanted in engine.serves and engine.is_float == in_float
        if serves and assignment.engine in ("", engine.name):
            return index
    raise UserError(f"plan: {machine.name} has no engine {assignment.engine!r} for {layer.name}")


def _bops(layer: "Layer", scheme: Scheme, sizes: Sequence[TermSize], machine: Machine) -> int:
    act_bits = scheme.act_bits or machine.float_bits
    return layer.batch * layer.m * act_bits * sum(n * g * k * (bits or act_bits) for n, g, k, bits in sizes)


def _add_product(builder: _Builder, step: int, layer: "Layer", assignment: Assignment) -> None:
    """One layer of a plain plan in its way."""
    scheme, machine = assignment.scheme, builder.machine
    engine = engine_index(machine, assignment, layer)
    sizes = scheme_terms(scheme, layer.n, layer.groups, layer.k)
    rows: list[int] = []
    if assignment.way == "terms" and len(sizes) > 1 and machine.units > 1:
        rows = [builder.price(layer, scheme, engine, "single", [size]) for size in sizes]
        loads = [0.0] * min(machine.units, len(sizes))
        for row, size in sorted(
            zip(rows, sizes, strict=True), key=lambda pair: -pair[1][0] * pair[1][1] * pair[1][2]
        ):
            unit = loads.index(min(loads))
            loads[unit] += size[0] * size[1] * size[2]
            builder.parts.append(Part(0, step, (unit,), row))
        combine = layer.elements * (len(sizes) - 1) / machine.vector_rates.get("add", 1.0)
        builder.sync[0, step] = machine.sync_cycles + combine
    else:
        way: Way = "rows" if assignment.way == "rows" and machine.units > 1 else "single"
        rows = [builder.price(layer, scheme, engine, way, sizes)]
        units = tuple(range(machine.units)) if way == "rows" else (0,)
        builder.parts.append(Part(0, step, units, rows[0]))
        builder.sync[0, step] = machine.sync_cycles if way == "rows" else 0.0
    bops = _bops(layer, scheme, sizes, machine)
    name = machine.engines[engine].name
    builder.steps.append(
        Step(0, step, layer.name, layer.kind, str(scheme), name, assignment.way, bops, tuple(rows))
    )


def _add_member(
    builder: _Builder, lane: int, step: int, layer: "Layer", assignment: Assignment, predictors: int
) -> None:
    """One layer of one network of an ensemble: the orders that this network holds, on its own unit."""
    scheme, machine = assignment.scheme, builder.machine
    engine = engine_index(machine, assignment, layer)
    holds = assignment.holds or default_holds(scheme.order, predictors)
    kept = holds[lane] if lane < predictors else tuple(sorted(set.intersection(*map(set, holds))))
    sizes = scheme_terms(scheme, layer.n, layer.groups, layer.k)
    held = [sizes[order - 1] for order in kept] if len(sizes) > 1 else sizes
    row = builder.price(layer, scheme, engine, "single", held)
    builder.parts.append(Part(lane, step, (lane,), row))
    bops = _bops(layer, scheme, held, machine)
    name = machine.engines[engine].name
    builder.steps.append(Step(lane, step, layer.name, layer.kind, str(scheme), name, "single", bops, (row,)))


def default_holds(order: int, predictors: int) -> tuple[tuple[int, ...], ...]:
    """Orders of each expanded network: all hold the first ones, the later ones are dealt out in turn."""
    base = max(1, order - predictors)
    later = range(base + 1, order + 1)
    return tuple(
        (*range(1, base + 1), *(k for k in later if (k - base - 1) % predictors == network))
        for network in range(predictors)
    )


def _add_vector(builder: _Builder, lane: int, step: int, layer: "Layer", bits: int, lanes: int) -> None:
    machine = builder.machine
    starts, placement = builder.starts, builder.placement
    start, fused = starts.cycles(layer, placement.swapped), layer.name in starts.fused
    cost = vector_cost(layer, machine, bits, placement.activations, fused, start, 1 if lanes > 1 else None)
    units = tuple(range(cost.units)) if lanes == 1 else (lane,)
    builder.vector_parts.append((lane, step, units, cost))
    builder.sync[lane, step] = machine.sync_cycles if cost.units > 1 and not cost.fused else 0.0
    builder.steps.append(
        Step(
            lane,
            step,
            layer.name,
            layer.kind,
            "",
            "vector",
            "rows" if cost.units > 1 else "single",
            vector=cost,
        )
    )


def _add_handovers(
    builder: _Builder, layers: "Sequence[Layer]", assignments: Mapping[str, Assignment], lanes: int
) -> float:
    """Before a product that reads another width than its source has: the conversion. Returns its energy.

    Each network of an ensemble converts on its own unit, a plain plan on all of them.
    """
    position = {layer.name: index for index, layer in enumerate(layers)}
    total = 0.0
    for handover in handovers(layers):
        source = assignments[handover.source].scheme.act_bits
        wanted = assignments[handover.target].scheme.act_bits
        units = 1 if lanes > 1 else None
        cycles, energy = boundary_cost(handover.elements, source, wanted, builder.machine, units)
        for lane in range(lanes if cycles else 0):
            key = lane, position[handover.target]
            builder.sync[key] = builder.sync.get(key, 0.0) + cycles
        total += energy
    return total


def _assemble(
    builder: _Builder,
    results: NDArray[np.float64],
    lanes: int,
    steps: int,
    live: Sequence[float],
    weights: float,
    ends: tuple[float, float],
    names: tuple[str, ...],
    handover_pj: float,
) -> Schedule:
    """Sort the jobs by unit and step, count those of each step."""
    machine = builder.machine
    shares = [
        (product_job(machine, results[part.row], part.lane, part.step), part.units[: representatives(used)])
        for part in builder.parts
        for used in [int(results[part.row, col.R_UNITS])]
    ]
    shares += [
        (vector_job(machine, cost, lane, step), units[: representatives(len(units))])
        for lane, step, units, cost in builder.vector_parts
    ]
    table = np.repeat([job for job, _ in shares], [len(units) for _, units in shares], axis=0)
    table[:, col.J_UNIT] = [unit for _, units in shares for unit in units]
    table = table[np.lexsort((table[:, col.J_STEP], table[:, col.J_UNIT]))]
    first_job = np.searchsorted(table[:, col.J_UNIT], np.arange(machine.units + 1)).astype(np.int64)
    jobs_left = np.zeros((lanes, steps), np.int64)
    np.add.at(jobs_left, (table[:, col.J_LANE].astype(int), table[:, col.J_STEP].astype(int)), 1)
    step_sync = np.zeros((lanes, steps))
    for place_, cycles in builder.sync.items():
        step_sync[place_] = cycles
    return Schedule(
        table, first_job, jobs_left, step_sync, results, tuple(builder.steps), builder.placement, weights,
        tuple(live), names, ends, handover_pj,
    )  # fmt: skip


def representatives(units: int) -> int:
    """How many of equal units with equal work are run; 108 multiprocessors move like 16 with more bytes each."""
    return min(units, MAX_REPRESENTATIVES)


def product_job(machine: Machine, result: NDArray[np.float64], lane: int, step: int) -> list[float]:
    """The stream of tiles of one unit's share of a product; each unit that works on it gets a copy."""
    home, used = int(result[col.R_HOME]), int(result[col.R_UNITS])
    stream = result[col.R_STREAM : col.R_STREAM + col.STREAM_COLUMNS].tolist()
    crowd = used / representatives(used)
    share = 1 / used if home > 0 and machine.buffer_shared(home) else 1.0
    share *= crowd if machine.levels[home].shared else 1.0
    # Units that share a buffer work on each of its tiles together.
    tiles = max(1.0, stream[col.S_TILES])
    merge = max(1.0, -(-tiles // MAX_TILES))
    tiles = max(1.0, -(-tiles // merge))
    every = [
        min(tiles, max(1.0, round(stream[column] / merge)))
        for column in (col.S_INPUT_EVERY, col.S_WEIGHT_EVERY, col.S_OUTPUT_EVERY)
    ]
    extra = [0.0] * col.MAX_LEVELS
    for level in range(1, home):
        extra[level] = result[col.R_LEVELS + level] / used * (crowd if machine.levels[level].shared else 1.0)
    moved = [stream[column] * share for column in (col.S_INPUT, col.S_WEIGHT, col.S_OUTPUT)]
    if home == 0 and len(machine.levels) > 1:  # operands at hand; an only memory is where they come from
        moved = [0.0, 0.0, 0.0]
    compute = result[col.R_COMPUTE] + result[col.R_STALL]
    head = [lane, step, 0.0, compute, result[col.R_LAUNCH], home, tiles]
    return [*head, *moved, *every, *extra]


def vector_job(machine: Machine, cost: VectorCost, lane: int, step: int) -> list[float]:
    """One unit's share of vector work: read, compute, write; each unit gets a copy."""
    sharers = representatives(cost.units) if machine.levels[cost.home].shared else cost.units
    moved = cost.traffic_bytes / sharers
    tiles = float(col.STREAM_PARTS)
    head = [lane, step, 0.0, cost.compute_cycles, cost.start_cycles, cost.home, tiles]
    return [*head, moved / 2, 0.0, moved / 2, 1.0, 1.0, 1.0, *([0.0] * col.MAX_LEVELS)]
