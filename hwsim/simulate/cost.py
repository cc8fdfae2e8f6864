"""Cost mode: what each way of running each layer costs, for the planner's tables.

``layer_costs`` prices every option (scheme × engine × way) of every product in one compiled call; equal
layers are priced once. Ways: ``single`` (one unit), ``rows`` (the outputs split over the units: heads or
groups, else rows or pixels), ``terms`` (expansion orders on different units).

BOPs here are Σ over terms of MACs · weight bits · activation bits (``hwsim.simulate.bops`` has the others).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hwsim.simulate import columns as col
from hwsim.simulate.launches import starts_of
from hwsim.simulate.machine import Engine, Machine
from hwsim.simulate.placement import Placement, peak_live_elements, place
from hwsim.simulate.pricing import (
    WAY_CODES,
    TermSize,
    Way,
    allowed_way,
    bound_name,
    dims_row,
    operator_class,
    option_terms,
    pack_terms,
    point_row,
    prepared_inputs,
    price_points,
    scheme_terms,
    shape_key,
)
from hwsim.simulate.stored_weights import NetworkWeights, index_bytes
from hwsim.simulate.vector import VectorCost, boundary_cost, vector_costs
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer
    from hwsim.target.schema import Target

__all__ = ["OptionCost", "VectorCost", "Way", "boundary_cost", "layer_costs", "machine_of", "vector_costs"]


@dataclass(frozen=True, slots=True)
class OptionCost:
    """One way to run one layer.

    ``term_cycles``, ``term_energy_pj``, ``term_bops``: each order alone on one unit, launch and static power not
    included. ``static_pj`` is the part of ``energy_pj`` that the device draws meanwhile whatever it does.
    ``weight_bytes`` are stored ones: none for a product of two activations.
    ``traffic_bytes`` has one entry a memory, from the engine outwards.
    """

    scheme: Scheme
    engine: str
    way: Way
    cycles: float
    term_cycles: tuple[float, ...]
    term_energy_pj: tuple[float, ...]
    term_bops: tuple[int, ...]
    energy_pj: float
    static_pj: float
    bops: int
    weight_bytes: float
    act_bytes: float
    bound: str
    compute_cycles: float
    memory_cycles: float
    fixed_cycles: float
    traffic_bytes: tuple[float, ...]
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
    placement: Placement | None = None,
) -> list[list[OptionCost]]:
    """Costs of all options of each product layer, in the order given (scheme, then engine, then way).

    Weights and activations lie where ``placement`` says; default: where they would if the whole network had the
    option's widths. ``graph_layers`` are all layers of the network, for live ranges (default: only the products).
    """
    builder = _Options(machine_of(target), graph_layers or layers, placement)
    rows: dict[tuple[object, ...], tuple[int, int]] = {}
    keys: list[tuple[object, ...]] = []
    for layer, schemes in zip(layers, schemes_per_layer, strict=True):
        start = builder.starts.cycles(layer, True)
        key = (*shape_key(layer), builder.prepared.get(layer.name, 0), start, tuple(schemes))
        keys.append(key)
        if key not in rows:
            start = len(builder.points)
            builder.add_layer(layer, schemes)
            rows[key] = (start, len(builder.points))
    options = builder.solve()
    return [options[slice(*rows[key])] for key in keys]


class _Label(NamedTuple):
    """Which option a row prices, and what of it the kernel does not find."""

    layer: "Layer"
    scheme: Scheme
    engine: str
    way: Way
    bops: tuple[int, ...]


class _Options:
    """Collects options as plain rows, then prices them all in one call of the kernel."""

    def __init__(
        self, machine: Machine, graph_layers: "Sequence[Layer]", placement: Placement | None
    ) -> None:
        self.machine, self.placement = machine, placement
        self.peak_elements = peak_live_elements(graph_layers)
        self.weights = NetworkWeights.of(graph_layers)
        self.prepared = prepared_inputs(graph_layers) if machine.prepares_inputs else {}
        self.starts = starts_of(graph_layers, machine)
        self.dims: list[tuple[int, ...]] = []
        self.points: list[tuple[float, ...]] = []
        self.terms: list[list[tuple[float, ...]]] = []
        self.labels: list[_Label] = []
        self.placements: dict[tuple[float, int], Placement] = {}

    def add_layer(self, layer: "Layer", schemes: Sequence[Scheme]) -> None:
        """All options of one layer."""
        self.dims.append(dims_row(layer, self.prepared.get(layer.name, 0)))
        wanted = operator_class(layer)
        engines = [(i, e) for i, e in enumerate(self.machine.engines) if wanted in e.serves]
        for scheme in schemes:
            in_float = scheme.is_float or scheme.act_bits is None
            sizes = scheme_terms(scheme, layer.n, layer.groups, layer.k)
            for index, engine in engines:
                if engine.is_float == in_float:
                    self._add_option(layer, scheme, sizes, index, engine)

    def _add_option(
        self, layer: "Layer", scheme: Scheme, sizes: list[TermSize], index: int, engine: Engine
    ) -> None:
        terms, act_bits = option_terms(self.machine, engine, scheme, sizes, layer.kind != "matmul")
        if not terms:
            return
        per_mac = layer.batch * layer.m * act_bits
        bops = tuple(per_mac * n * groups * k * (bits or act_bits) for n, groups, k, bits in sizes)
        home = self._placement(scheme, act_bits)
        for way, code in WAY_CODES.items():
            if allowed_way(self.machine, way, len(terms)):
                start = self.starts.cycles(layer, home.swapped)
                row = point_row(self.machine, layer, scheme, act_bits, len(terms), home, start)
                self.points.append((len(self.dims) - 1, index, code, *row))
                self.terms.append(terms)
                self.labels.append(_Label(layer, scheme, engine.name, way, bops))

    def _placement(self, scheme: Scheme, act_bits: int) -> Placement:
        if self.placement is not None:
            return self.placement
        weights = self.weights.bytes_in(scheme, self.machine)
        key = (weights, act_bits)
        if key not in self.placements:
            live = self.peak_elements * self.machine.stored_bits(act_bits) / 8
            fit, instructions = self.starts.fit, self.starts.instruction_bytes
            self.placements[key] = place(self.machine, weights, live, fit, instructions)
        return self.placements[key]

    def solve(self) -> list[OptionCost]:
        """Price all options."""
        if not self.points:
            return []
        dims, points = np.array(self.dims, np.int64), np.array(self.points)
        results, orders = price_points(self.machine, dims, points, pack_terms(self.terms))
        names = [level.name for level in self.machine.levels]
        static = self.machine.static_pj_per_cycle
        cycles, energies = orders[:, :, col.O_CYCLES].tolist(), orders[:, :, col.O_PJ].tolist()
        return [
            _option(label, row, each_cycles[: len(terms)], each_pj[: len(terms)], names, static)
            for label, row, each_cycles, each_pj, terms in zip(
                self.labels, results.tolist(), cycles, energies, self.terms, strict=True
            )
        ]


def _option(
    label: _Label,
    row: list[float],
    cycles: list[float],
    energies: list[float],
    names: list[str],
    static: float,
) -> OptionCost:
    stored = 0.0
    if label.layer.kind != "matmul":
        stored = row[col.R_WEIGHT_BYTES] + index_bytes(label.layer, label.scheme)
    return OptionCost(
        label.scheme,
        label.engine,
        label.way,
        row[col.R_CYCLES],
        tuple(cycles),
        tuple(energies),
        label.bops,
        row[col.R_MAC_PJ] + row[col.R_MEMORY_PJ] + static * row[col.R_CYCLES],
        static * row[col.R_CYCLES],
        sum(label.bops),
        stored,
        row[col.R_ACT_BYTES],
        bound_name(row[col.R_BOUND], names),
        row[col.R_COMPUTE],
        row[col.R_MEMORY],
        row[col.R_FIXED],
        tuple(row[col.R_LEVELS : col.R_LEVELS + len(names)]),
        int(row[col.R_UNITS]),
    )
