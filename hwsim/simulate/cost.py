"""Cost mode: what each way of running each layer costs, for the planner's tables.

``layer_costs`` prices every option (scheme × engine × way) of every product in one compiled call; equal
layers are priced once. ``vector_costs`` prices the work between the products. Ways: ``single`` (one unit),
``rows`` (output rows, heads or groups split over the units), ``terms`` (expansion orders on different units).

BOPs here are Σ over terms of MACs · weight bits · activation bits (``hwsim.simulate.bops`` has the others).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hwsim.simulate.closed_form import (
    BOUND_COMPUTE, BOUND_LAUNCH, DIM_COLUMNS, MAX_LEVELS, POINT_COLUMNS, R_ACT_BYTES, R_BOUND, R_COMPUTE, R_CYCLES,
    R_FIXED, R_LEVELS, R_MAC_PJ, R_MEMORY, R_MEMORY_PJ, R_UNITS, R_WEIGHT_BYTES, RESULT_COLUMNS, TERM_COLUMNS,
    WAY_ROWS, WAY_SINGLE, WAY_TERMS, price_options,
)  # fmt: skip
from hwsim.simulate.machine import Engine, Machine
from hwsim.simulate.placement import Placement, peak_live_elements, place
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer
    from hwsim.target.schema import Target

Way = Literal["single", "rows", "terms"]
WAYS: tuple[Way, ...] = ("single", "rows", "terms")
PRODUCT_KINDS = ("linear", "conv2d", "matmul")


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
    """Costs of all options of each product layer; ``graph_layers`` adds the rest of the graph for live ranges."""
    machine = machine_of(target)
    builder = _Points(machine, peak_live_elements(graph_layers or layers), sum(l.params for l in layers))
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
    inputs = int(np.prod(layer.input_shapes[0])) if layer.input_shapes else layer.m * layer.k
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
    return size if share >= 1.0 else int(np.ceil(round(share * size, 9)))


def executed_width(engine: Engine, weight_bits: int, act_bits: int) -> tuple[int, int] | None:
    """Fastest width of the engine that holds both operands; None where there is none."""
    fitting = [(w, a) for w, a in engine.rates if w >= weight_bits and a >= act_bits and (w < 16 or weight_bits > 8 or act_bits > 8)]
    return max(fitting, key=lambda width: (engine.rates[width], -width[0] - width[1]), default=None)


def float_width(engine: Engine) -> tuple[int, int] | None:
    """Fastest float width of the engine: keys of 16 × 16 and 32 × 32."""
    widths = [width for width in ((16, 16), (32, 32)) if width in engine.rates]
    return max(widths, key=lambda width: engine.rates[width], default=None)


class _Points:
    """Collects points as plain rows, then prices them all in one call of the kernel."""

    def __init__(self, machine: Machine, peak_elements: float, total_params: int) -> None:
        self.machine = machine
        self.peak_elements, self.total_params = peak_elements, total_params
        self.dims: list[tuple[int, ...]] = []
        self.points: list[tuple[float, ...]] = []
        self.terms: list[list[tuple[float, ...]]] = []
        self.labels: list[tuple[Scheme, str, Way, float]] = []
        self.placements: dict[tuple[float, int], Placement] = {}

    def add_layer(self, layer: "Layer", schemes: Sequence[Scheme]) -> None:
        window, inputs, outputs = product_shape(layer)
        self.dims.append((layer.batch, layer.groups, layer.m, layer.n, layer.k, window, inputs, outputs))
        wanted = operator_class(layer)
        engines = [(i, e) for i, e in enumerate(self.machine.engines) if wanted in e.serves]
        for scheme in schemes:
            terms = scheme_terms(scheme, layer.n, layer.groups, layer.k)
            for index, engine in engines:
                self._add(layer, scheme, terms, index, engine, window)

    def _add(
        self, layer: "Layer", scheme: Scheme, sizes: list[tuple[int, int, int, int]], index: int, engine: Engine, window: int
    ) -> None:
        in_float = scheme.is_float or scheme.act_bits is None
        width = float_width(engine)
        act_bits = width[1] if in_float and width else (scheme.act_bits or 32)
        terms: list[tuple[float, ...]] = []
        bops = 0.0
        for n, groups, k, bits in sizes:
            executed = width if in_float else executed_width(engine, bits, act_bits)
            if executed is None:
                return
            stored = bits or executed[0]
            terms.append((n, groups, k, stored, engine.rates[executed], engine.mac_pj.get(executed, 0.0)))
            bops += float(layer.batch) * groups * layer.m * n * k * stored * act_bits
        home = self._placement(scheme, act_bits)
        scales = 4.0 if layer.kind != "matmul" and not scheme.is_float else 0.0
        for way, code in (("single", WAY_SINGLE), ("rows", WAY_ROWS), ("terms", WAY_TERMS)):
            if way != "single" and (self.machine.units == 1 or (way == "terms" and len(terms) == 1)):
                continue
            self.points.append(
                (len(self.dims) - 1, index, code, len(terms), act_bits, act_bits, home.weights, home.activations, scales)
            )
            self.terms.append(terms)
            self.labels.append((scheme, engine.name, way, bops))

    def _placement(self, scheme: Scheme, act_bits: int) -> Placement:
        key = (scheme.bits_per_weight, act_bits)
        if key not in self.placements:
            self.placements[key] = place(
                self.machine, self.total_params * scheme.bits_per_weight / 8, self.peak_elements * act_bits / 8
            )
        return self.placements[key]

    def solve(self) -> list[OptionCost]:
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
            options.append(
                OptionCost(
                    scheme, engine, way, row[R_CYCLES], tuple(cycles[: int(point[3])]),
                    row[R_MAC_PJ] + row[R_MEMORY_PJ] + static * row[R_CYCLES], bops,
                    row[R_WEIGHT_BYTES], row[R_ACT_BYTES], bound_name(row[R_BOUND], names), row[R_COMPUTE],
                    row[R_MEMORY], row[R_FIXED], tuple(row[R_LEVELS : R_LEVELS + len(names)]), int(row[R_UNITS]),
                )  # fmt: skip
            )
        return options


def bound_name(code: float, levels: Sequence[str]) -> str:
    """Name of what bounds a layer: compute, launch, or a memory of the target."""
    return {BOUND_COMPUTE: "compute", BOUND_LAUNCH: "launch"}.get(int(code)) or levels[int(code)]


def pack_terms(terms: Sequence[Sequence[tuple[float, ...]]]) -> NDArray[np.float64]:
    """Lists of terms of unequal length as one padded table."""
    width = max(len(row) for row in terms)
    table = np.zeros((len(terms), width, TERM_COLUMNS))
    filler = (0.0,) * TERM_COLUMNS
    table[:] = [list(row) + [filler] * (width - len(row)) for row in terms]
    return table


def price_points(
    machine: Machine, dims: NDArray[np.int64], points: NDArray[np.float64], terms: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One call of the kernel: results (points × columns) and the cycles of each term."""
    assert dims.shape[1] == DIM_COLUMNS
    assert points.shape[1] == POINT_COLUMNS
    if len(machine.levels) > MAX_LEVELS:
        raise ValueError(f"{machine.name}: more than {MAX_LEVELS} memories")
    results = np.zeros((len(points), RESULT_COLUMNS))
    term_cycles = np.zeros(terms.shape[:2])
    constants = np.array(
        [machine.units, machine.launch_cycles, machine.sync_cycles, machine.vector_rates.get("add", 1.0)], np.float64
    )
    price_options(dims, points, terms, machine.engine_table(), machine.level_table(), constants, results, term_cycles)
    return results, term_cycles
