"""Cost mode: what each way of running each layer costs, for the planner's tables.

``layer_costs`` prices every option (scheme × engine × way) of every product in one compiled call; equal
layers are priced once. ``vector_costs`` prices the work between the products. Ways: ``single`` (one unit),
``rows`` (output rows, heads or groups split over the units), ``terms`` (expansion orders on different units).

BOPs here are Σ over terms of MACs · weight bits · activation bits (``hwsim.simulate.bops`` has the others).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hwsim.simulate import columns as col
from hwsim.simulate.closed_form import price_options
from hwsim.simulate.machine import Engine, Machine
from hwsim.simulate.placement import Placement, peak_live_elements, place
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer
    from hwsim.target.schema import Target

Way = Literal["single", "rows", "terms"]
WAYS: tuple[Way, ...] = ("single", "rows", "terms")
PRODUCT_KINDS = ("linear", "conv2d", "matmul")
SCALE_BYTES = 4.0  # one float32 scale a row and term


@dataclass(frozen=True, slots=True)
class OptionCost:
    """One way to run one layer. ``term_cycles``: each order alone on one unit, launch not included."""

    scheme: Scheme
    engine: str
    way: Way
    cycles: float
    term_cycles: tuple[float, ...]
    energy_pj: float
    bops: float
    weight_bytes: float
    act_bytes: float
    bound: str
    compute_cycles: float
    memory_cycles: float
    fixed_cycles: float
    traffic_bytes: tuple[float, ...]
    units: int


@dataclass(frozen=True, slots=True)
class VectorCost:
    """One operator that is no product, on the vector unit."""

    name: str
    op: str
    cycles: float
    energy_pj: float
    bound: str
    compute_cycles: float
    traffic_bytes: float
    home: int
    units: int


def machine_of(target: "Target | Machine") -> Machine:
    """The kernels' view of a target descriptor."""
    if isinstance(target, Machine):
        return target
    from hwsim.simulate.from_target import machine_from_target

    return machine_from_target(target)


def layer_costs(
    layers: "Sequence[Layer]",
    schemes_per_layer: Sequence[Sequence[Scheme]],
    target: "Target | Machine",
    *,
    graph_layers: "Sequence[Layer] | None" = None,
) -> list[list[OptionCost]]:
    """Costs of all options of each product layer, in the order given (scheme, then engine, then way).

    Weights and activations are placed as if the whole network had the option's widths; ``graph_layers`` are
    all layers of the network, for live ranges (default: only the products).
    """
    builder = _Points(machine_of(target), graph_layers or layers)
    rows: dict[tuple[object, ...], tuple[int, int]] = {}
    keys: list[tuple[object, ...]] = []
    for layer, schemes in zip(layers, schemes_per_layer, strict=True):
        key = (*shape_key(layer), tuple(schemes))
        keys.append(key)
        if key not in rows:
            start = len(builder.points)
            builder.add_layer(layer, schemes)
            rows[key] = (start, len(builder.points))
    options = builder.solve()
    return [options[slice(*rows[key])] for key in keys]


def shape_key(layer: "Layer") -> tuple[object, ...]:
    """Layers with equal keys cost the same."""
    window, inputs, outputs = product_shape(layer)
    return (layer.kind, layer.batch, layer.groups, layer.m, layer.n, layer.k, window, inputs, outputs)


def product_shape(layer: "Layer") -> tuple[int, int, int]:
    """Window area (0 for a product of two activations), first operand's elements, output elements."""
    if layer.kind == "matmul":
        return 0, layer.batch * layer.groups * layer.m * layer.k, layer.elements
    window = layer.conv.kernel[0] * layer.conv.kernel[1] if layer.conv is not None else 1
    inputs = math.prod(layer.input_shapes[0]) if layer.input_shapes else layer.m * layer.k
    return window, inputs, layer.elements


def operator_class(layer: "Layer") -> str:
    """What an engine must serve to run the layer: linear, conv2d, depthwise or matmul."""
    return "depthwise" if layer.kind == "conv2d" and layer.groups > 1 and layer.n == 1 else layer.kind


def scheme_terms(scheme: Scheme, n: int, groups: int, k: int) -> list[tuple[int, int, int, int]]:
    """Size of each order of the expansion: output rows per group, groups, inner columns, weight bits."""
    if scheme.is_float:
        return [(n, groups, k, 0)]
    terms: list[tuple[int, int, int, int]] = []
    for share, bits in zip(scheme.shares, scheme.term_bits, strict=True):
        if scheme.axis == "columns":
            terms.append((n, groups, max(1, _kept(share, k)), bits))
        elif n == 1 and groups > 1:
            terms.append((1, max(1, _kept(share, groups)), k, bits))
        else:
            terms.append((max(1, _kept(share, n)), groups, k, bits))
    return terms


def _kept(share: float, size: int) -> int:
    return size if share >= 1.0 else math.ceil(round(share * size, 9))


def executed_width(engine: Engine, weight_bits: int, act_bits: int) -> tuple[int, int] | None:
    """Fastest native width of the engine that contains both operands; None where there is none."""
    fitting = [(w, a) for w, a in engine.rates if w >= weight_bits and a >= act_bits]
    return max(fitting, key=lambda width: (engine.rates[width], -width[0] - width[1]), default=None)


def executed_rate(engine: Engine, weight_bits: int, act_bits: int) -> tuple[float, float] | None:
    """Multiply-accumulates a cycle and picojoules of one, unpacking included; None where it cannot run."""
    width = executed_width(engine, weight_bits, act_bits)
    if width is None:
        return None
    packed = weight_bits < width[0] and weight_bits in engine.packed_weight_bits
    rate = engine.rates[width] / (1 + engine.unpack_overhead if packed else 1)
    return rate, engine.mac_pj.get(width, 0.0)


class _Points:
    """Collects points as plain rows, then prices them all in one call of the kernel."""

    def __init__(self, machine: Machine, graph_layers: "Sequence[Layer]") -> None:
        self.machine = machine
        self.peak_elements = peak_live_elements(graph_layers)
        self.total_weights = sum(
            weight_elements(layer) for layer in graph_layers if layer.kind in PRODUCT_KINDS
        )
        self.dims: list[tuple[int, ...]] = []
        self.points: list[tuple[float, ...]] = []
        self.terms: list[list[tuple[float, ...]]] = []
        self.labels: list[tuple[Scheme, str, Way, float]] = []
        self.placements: dict[tuple[float, int], Placement] = {}

    def add_layer(self, layer: "Layer", schemes: Sequence[Scheme]) -> None:
        """All options of one layer."""
        self.dims.append(dims_row(layer))
        wanted = operator_class(layer)
        engines = [(i, e) for i, e in enumerate(self.machine.engines) if wanted in e.serves]
        for scheme in schemes:
            in_float = scheme.is_float or scheme.act_bits is None
            sizes = scheme_terms(scheme, layer.n, layer.groups, layer.k)
            for index, engine in engines:
                if engine.is_float == in_float:
                    self._add_option(layer, scheme, sizes, index, engine)

    def _add_option(
        self,
        layer: "Layer",
        scheme: Scheme,
        sizes: list[tuple[int, int, int, int]],
        index: int,
        engine: Engine,
    ) -> None:
        terms, act_bits = option_terms(self.machine, engine, scheme, sizes)
        if not terms:
            return
        macs_bits = sum(n * groups * k * (bits or act_bits) for n, groups, k, bits in sizes)
        bops = float(layer.batch) * layer.m * macs_bits * act_bits
        for way, code in (("single", col.WAY_SINGLE), ("rows", col.WAY_ROWS), ("terms", col.WAY_TERMS)):
            if allowed_way(self.machine, way, len(terms)):
                home = self._placement(scheme, act_bits)
                self.points.append(
                    point_row(self.machine, layer, scheme, len(self.dims) - 1, index, code, act_bits, home)
                )
                self.terms.append(terms)
                self.labels.append((scheme, engine.name, way, bops))

    def _placement(self, scheme: Scheme, act_bits: int) -> Placement:
        key = (scheme.bits_per_weight, act_bits)
        if key not in self.placements:
            weights = self.total_weights * stored_weight_bits(self.machine, scheme) / 8
            self.placements[key] = place(
                self.machine, weights, self.peak_elements * self.machine.stored_bits(act_bits) / 8
            )
        return self.placements[key]

    def solve(self) -> list[OptionCost]:
        """Price all points."""
        if not self.points:
            return []
        results, term_cycles = price_points(
            self.machine, np.array(self.dims, np.int64), np.array(self.points), pack_terms(self.terms)
        )
        return self._read(results.tolist(), term_cycles.tolist())

    def _read(self, results: list[list[float]], term_cycles: list[list[float]]) -> list[OptionCost]:
        names = [level.name for level in self.machine.levels]
        static = self.machine.static_w * 1e12 / self.machine.clock_hz
        options: list[OptionCost] = []
        for row, cycles, point, (scheme, engine, way, bops) in zip(
            results, term_cycles, self.points, self.labels, strict=True
        ):
            option = OptionCost(
                scheme,
                engine,
                way,
                row[col.R_CYCLES],
                tuple(cycles[: int(point[col.P_TERMS])]),
                row[col.R_MAC_PJ] + row[col.R_MEMORY_PJ] + static * row[col.R_CYCLES],
                bops,
                row[col.R_WEIGHT_BYTES],
                row[col.R_ACT_BYTES],
                bound_name(row[col.R_BOUND], names),
                row[col.R_COMPUTE],
                row[col.R_MEMORY],
                row[col.R_FIXED],
                tuple(row[col.R_LEVELS : col.R_LEVELS + len(names)]),
                int(row[col.R_UNITS]),
            )
            options.append(option)
        return options


def allowed_way(machine: Machine, way: Way, terms: int) -> bool:
    """Rows need several units; terms need several independent units and several terms."""
    if way == "single":
        return True
    return machine.units > 1 and (way == "rows" or (machine.independent and terms > 1))


def option_terms(
    machine: Machine, engine: Engine, scheme: Scheme, sizes: Sequence[tuple[int, int, int, int]]
) -> tuple[list[tuple[float, ...]], int]:
    """Rows of the table of terms, and the activation bits; empty where the engine is too narrow."""
    if engine.is_float:
        (width, rate), *_ = engine.rates.items()
        pj = engine.mac_pj.get(width, 0.0)
        rows = [
            (n, g, k, machine.stored_bits(bits) if bits else width[0], rate, pj) for n, g, k, bits in sizes
        ]
        return rows, width[1]
    act_bits = scheme.act_bits or machine.float_bits
    rows = []
    for n, groups, k, bits in sizes:
        executed = executed_rate(engine, bits, act_bits)
        if executed is None:
            return [], act_bits
        rows.append((n, groups, k, machine.stored_bits(bits), *executed))
    return rows, act_bits


def point_row(
    machine: Machine,
    layer: "Layer",
    scheme: Scheme,
    dims: int,
    engine: int,
    way: int,
    act_bits: int,
    home: Placement,
) -> tuple[float, ...]:
    """One row of the table of points."""
    stored = machine.stored_bits(act_bits)
    scales = SCALE_BYTES if layer.kind != "matmul" and not scheme.is_float else 0.0
    terms = 1 if scheme.is_float else scheme.order
    return (dims, engine, way, terms, stored, stored, home.weights, home.activations, scales, home.resident)


def dims_row(layer: "Layer") -> tuple[int, ...]:
    """One row of the table of shapes."""
    return (layer.batch, layer.groups, layer.m, layer.n, layer.k, *product_shape(layer))


def weight_elements(layer: "Layer") -> int:
    """Stored weights of a product; a product of two activations has none."""
    return 0 if layer.kind == "matmul" else layer.groups * layer.n * layer.k


def stored_weight_bits(machine: Machine, scheme: Scheme) -> float:
    """Stored bits of one weight over all terms."""
    if scheme.is_float:
        return machine.float_bits
    return sum(
        share * machine.stored_bits(bits) for share, bits in zip(scheme.shares, scheme.term_bits, strict=True)
    )


def bound_name(code: float, levels: Sequence[str]) -> str:
    """Name of what bounds a layer: compute, launch, or a memory of the target."""
    return {col.BOUND_COMPUTE: "compute", col.BOUND_LAUNCH: "launch"}.get(int(code)) or levels[int(code)]


def pack_terms(terms: Sequence[Sequence[tuple[float, ...]]]) -> NDArray[np.float64]:
    """Lists of terms of unequal length as one padded table."""
    width = max(len(row) for row in terms)
    table = np.zeros((len(terms), width, col.TERM_COLUMNS))
    filler = (0.0,) * col.TERM_COLUMNS
    table[:] = [list(row) + [filler] * (width - len(row)) for row in terms]
    return table


def price_points(
    machine: Machine, dims: NDArray[np.int64], points: NDArray[np.float64], terms: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One call of the kernel: results (points × columns) and the cycles of each term."""
    assert dims.shape[1] == col.DIM_COLUMNS
    assert points.shape[1] == col.POINT_COLUMNS
    if len(machine.levels) > col.MAX_LEVELS:
        raise ValueError(f"{machine.name}: more than {col.MAX_LEVELS} memories")
    results = np.zeros((len(points), col.RESULT_COLUMNS))
    term_cycles = np.zeros(terms.shape[:2])
    constants = np.array(
        [machine.units, machine.launch_cycles, machine.sync_cycles, machine.vector_rates.get("add", 1.0)],
        np.float64,
    )
    price_options(
        dims, points, terms, machine.engine_table(), machine.level_table(), constants, results, term_cycles
    )
    return results, term_cycles


def vector_costs(
    layers: "Sequence[Layer]", target: "Target | Machine", *, act_bits: int = 8
) -> list[VectorCost]:
    """Costs of the layers that are no products, spread over all units where that is faster."""
    machine = machine_of(target)
    home = place(machine, 0.0, peak_live_elements(layers) * machine.stored_bits(act_bits) / 8).activations
    return [
        vector_cost(layer, machine, act_bits, home) for layer in layers if layer.kind not in PRODUCT_KINDS
    ]


def vector_cost(layer: "Layer", machine: Machine, act_bits: int, home: int) -> VectorCost:
    """max(compute, memory) + launch (+ synchronisation when all units take part)."""
    rate = machine.vector_rates.get(layer.kind, machine.vector_rates.get("other", 1.0))
    moved = vector_bytes(layer, machine, act_bits)
    level = machine.levels[home]
    memory = moved / level.bytes_per_cycle
    alone = max(layer.elements / rate, memory)
    spread = max(layer.elements / (rate * machine.units), memory) + machine.sync_cycles
    units = machine.units if machine.units > 1 and spread < alone else 1
    compute = layer.elements / (rate * units)
    cycles = (spread if units > 1 else alone) + machine.launch_cycles
    energy = layer.elements * machine.vector_pj + moved * level.pj_per_byte
    energy += machine.static_w * 1e12 / machine.clock_hz * cycles
    fixed = cycles - max(compute, memory)
    bound = "launch" if fixed > max(compute, memory) else "compute" if compute >= memory else level.name
    return VectorCost(layer.name, layer.op, cycles, energy, bound, compute, moved, home, units)


def vector_bytes(layer: "Layer", machine: Machine, act_bits: int) -> float:
    """Bytes read and written by vector work at the width of the activations."""
    read = sum(math.prod(shape) for shape in layer.input_shapes)
    return (read + layer.elements) * machine.stored_bits(act_bits) / 8
