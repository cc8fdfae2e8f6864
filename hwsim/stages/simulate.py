"""``simulate``: replay a plan, or a model in one scheme, on a described device."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim import files
from hwsim.errors import UserError

if TYPE_CHECKING:
    from hwsim.model.graph import LayerGraph
    from hwsim.simulate.simulation import Simulation
    from hwsim.target.schema import Target

UNIFORM = "w8a8"
"""The scheme of a model that comes without a plan."""


def replayer(
    plan: Path | None,
    model: str | None,
    *,
    scheme: str | None = None,
    batch: int | None = None,
    sequence: int | None = None,
) -> "Callable[[Target], Simulation]":
    """What to simulate, with its graph loaded; give it a device."""
    if plan is not None and scheme is not None:
        raise UserError(f"--scheme {scheme}: is for --model; a plan has the schemes of its layers")
    graph = network(plan, model, batch=batch, sequence=sequence)
    from hwsim.documents import read_plan
    from hwsim.simulate.cycle import simulate_scheme
    from hwsim.simulate.plan_file import replay
    from quant.scheme import Scheme

    if plan is not None:
        document = read_plan(plan)
        return lambda device: replay(document, graph, device)
    parsed = Scheme.parse(scheme or UNIFORM)
    return lambda device: simulate_scheme(graph, parsed, device)


def write_trace(simulation: "Simulation", path: Path) -> None:
    """The timeline for ui.perfetto.dev."""
    from hwsim.simulate.trace import chrome_trace

    files.write_text(path, chrome_trace(simulation))


def network(
    plan: Path | None, model: str | None, *, batch: int | None = None, sequence: int | None = None
) -> "LayerGraph":
    """The graph that was planned (``graph.json`` beside the plan, else exported anew), or the named model's."""
    if (plan is None) == (model is None):
        raise UserError("give either --plan plan.json or --model NAME")
    from hwsim.documents import read_plan
    from hwsim.model.graph import LayerGraph
    from hwsim.simulate.graph_source import layer_graph

    if plan is None:
        return layer_graph(model or "", batch=batch or 1, sequence=sequence)
    beside = files.plan_file(plan, "--plan").with_name("graph.json")
    if beside.is_file():
        for flag, value in (("--batch", batch), ("--sequence", sequence)):
            if value is not None:
                raise UserError(
                    f"{flag} {value}: the plan is for the shapes in {beside}; plan anew with {flag}"
                )
        return LayerGraph.from_json(beside.read_text(encoding="utf-8"))
    return layer_graph(read_plan(plan).model, batch=batch or 1, sequence=sequence)
