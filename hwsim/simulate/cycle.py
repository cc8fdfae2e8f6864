"""Cycle mode: replay a whole plan tile by tile on the units and memories of a device.

A layer's way decides its jobs: one (``single``), one a unit (``rows``), one a term (``terms``, longest first on
the least loaded unit). A telescoped ensemble of P networks is P + 1 independent lanes, one unit each, joined
once at the output. The tile streams are those of cost mode; what cycle mode adds is time: double buffers,
prefetch of weights over layer borders, and units that wait for each other at shared memories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwsim.errors import UserError
from hwsim.simulate import columns as col
from hwsim.simulate.cost import layer_costs, machine_of
from hwsim.simulate.cycle_engine import run_jobs
from hwsim.simulate.machine import Machine
from hwsim.simulate.pricing import PRODUCT_KINDS, Way
from hwsim.simulate.schedule import Schedule, build_schedule
from hwsim.simulate.simulation import Simulation, summarise
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import Layer, LayerGraph
    from hwsim.target.schema import Target


@dataclass(frozen=True)
class LayerAssignment:
    """The decision for one product: scheme, engine ("" takes the fastest) and way.

    ``holds`` lists, in an ensemble, the orders (from 1) that each expanded network has.
    """

    scheme: Scheme
    engine: str = ""
    way: Way = "single"
    holds: tuple[tuple[int, ...], ...] = ()


def simulate_plan(
    graph: "LayerGraph",
    assignments: Mapping[str, LayerAssignment],
    predictors: int,
    target: "Target | Machine",
) -> Simulation:
    """Replay a plan; ``predictors`` ≥ 2 runs it as a telescoped ensemble of that many expanded networks."""
    machine = machine_of(target)
    missing = [
        layer.name for layer in graph.layers if layer.kind in PRODUCT_KINDS and layer.name not in assignments
    ]
    if missing:
        raise UserError(f"plan: no assignment for layer {missing[0]!r}; plan again for this model")
    if predictors > 1 and machine.units < predictors + 1:
        raise UserError(
            f"plan: {predictors} expanded networks and the base need {predictors + 1} units; "
            f"{machine.name} has {machine.units}"
        )
    schedule = build_schedule(graph.layers, assignments, predictors if predictors > 1 else 1, machine)
    return summarise(schedule, run_schedule(schedule, machine), machine)


def simulate_scheme(graph: "LayerGraph", scheme: Scheme, target: "Target | Machine") -> Simulation:
    """Replay the network with one scheme for every product, each in its fastest engine and way."""
    return simulate_plan(graph, fastest_assignments(graph.layers, scheme, target), scheme.predictors, target)


def fastest_assignments(
    layers: "Sequence[Layer]", scheme: Scheme, target: "Target | Machine"
) -> dict[str, LayerAssignment]:
    """The fastest engine and way of each product by cost mode; float where no engine is wide enough."""
    products = [layer for layer in layers if layer.kind in PRODUCT_KINDS]
    plain = scheme.between_activations
    choices = [[plain if layer.kind == "matmul" else scheme, Scheme(None, None)] for layer in products]
    found: dict[str, LayerAssignment] = {}
    for layer, choice, options in zip(
        products, choices, layer_costs(products, choices, target, graph_layers=layers), strict=True
    ):
        wanted = [option for option in options if option.scheme == choice[0]] or options
        if not wanted:
            raise UserError(
                f"{layer.name}: no engine of the target runs {choice[0]} or float products of this kind"
            )
        best = min(wanted, key=lambda option: option.cycles)
        found[layer.name] = LayerAssignment(best.scheme, best.engine, best.way)
    return found


@dataclass(frozen=True)
class Replay:
    """What the engine found: the last cycle, the times of each job, the busy cycles of each memory."""

    cycles: float
    events: NDArray[np.float64]
    step_end: NDArray[np.float64]
    busy: NDArray[np.float64]


def run_schedule(schedule: Schedule, machine: Machine) -> Replay:
    """Run the compiled engine on a schedule."""
    events = np.zeros((len(schedule.jobs), col.EVENT_COLUMNS))
    step_end = np.zeros(schedule.jobs_left.shape)
    busy = np.zeros(len(machine.levels))
    cycles = run_jobs(
        schedule.jobs, schedule.first_job, schedule.jobs_left.copy(), schedule.step_sync, machine.level_table(),
        machine.prefetch, events, step_end, busy,
    )  # fmt: skip
    return Replay(cycles, events, step_end, busy)
