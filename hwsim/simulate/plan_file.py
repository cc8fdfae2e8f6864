"""Replay a plan as it stands in ``plan.json``."""

from typing import TYPE_CHECKING

from hwsim.simulate.cycle import LayerAssignment, simulate_plan
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.graph import LayerGraph
    from hwsim.simulate.simulation import Simulation
    from hwsim.target.schema import Target
    from planner.plan import Plan


def replay(plan: "Plan", graph: "LayerGraph", target: "Target") -> "Simulation":
    """One inference of the plan in cycle mode."""
    assignments = {
        layer.name: LayerAssignment(Scheme.parse(layer.scheme), layer.engine, layer.way, layer.holds)
        for layer in plan.layers
    }
    predictors = 1 if plan.ensemble is None else plan.ensemble.predictors
    return simulate_plan(graph, assignments, predictors, target)
