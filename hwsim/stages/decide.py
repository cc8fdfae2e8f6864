"""The decision inside ``plan``: ask the planner, replay its answer, and ask again where the replay is slower."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hwsim import files
from hwsim.errors import InfeasibleError
from hwsim.report.document import ParetoPoint
from hwsim.stages import comparison
from hwsim.stages.infeasible import infeasible_text
from hwsim.stages.progress import StageProgress
from hwsim.stages.request import PlanRequest
from hwsim.stages.search import planner_request
from hwsim.units import format_quantity

if TYPE_CHECKING:
    from hwsim.model.load import LoadedModel
    from hwsim.simulate.cost import OptionCost
    from hwsim.simulate.simulation import Simulation
    from hwsim.simulate.vector import VectorCost
    from hwsim.stages.error_profile import ErrorProfile
    from hwsim.target.schema import Target
    from planner.control import Progress, ProgressCallback
    from planner.plan import Plan
    from planner.request import Quantity, Request
    from planner.tables import Tables

INFEASIBLE = "infeasible.json"
LATENCY_ROUNDS = 3
PLACED_OTHERWISE = 0.05  # replay and prediction this far apart: price again where the plan's tensors lie
_SECOND: "dict[Quantity, Quantity]" = {"error": "latency", "latency": "error", "energy": "latency"}
DEFAULT_LIMIT = "default: the error of uniform w8a8"


@dataclass
class Run:
    """What the stages of one run hand on."""

    request: PlanRequest
    target: "Target"
    model: "LoadedModel"
    profile: "ErrorProfile"
    costs: "list[list[OptionCost]]"
    vectors: "list[VectorCost]"
    tables: "Tables"
    remarks: list[str] = field(default_factory=list[str])

    @property
    def costs_by_name(self) -> "dict[str, list[OptionCost]]":
        """The priced options of each product."""
        names = (layer.name for layer in self.model.graph.products())
        return dict(zip(names, self.costs, strict=True))


def solve_inside_latency(run: Run, progress: StageProgress) -> "tuple[Plan, Simulation, str | None]":
    """Solve, replay, and solve again with a tighter limit while the replay is slower than the user allows.

    The planner adds up closed-form costs; the replay also sees waiting at shared memories. The limit that the
    planner gets shrinks by the ratio of the two, so that the latency asked for holds in the replay.
    """
    from hwsim.simulate.plan_file import replay

    limit = run.request.search.limits.latency
    plan, simulation, default_limit = _solve_as_placed(run, progress, limit)
    allowed, tightened = limit, None
    for _ in range(LATENCY_ROUNDS):
        if limit is None or allowed is None or simulation.seconds <= limit or plan.status != "optimal":
            break
        allowed = min(allowed, plan.totals.latency) * limit / simulation.seconds
        try:
            plan, default_limit = _solve(run, progress, allowed)
        except InfeasibleError:
            break
        simulation = replay(plan, run.model.graph, run.target)
        tightened = allowed
    if limit is not None and tightened is not None:
        aim, asked = (format_quantity(seconds, "time", 4) for seconds in (tightened, limit))
        run.remarks.append(
            f"the replay is slower than the sum of closed-form costs: planned for {aim} so that "
            f"the replay stays inside {asked}"
        )
    return plan, simulation, default_limit


def _solve_as_placed(
    run: Run, progress: StageProgress, limit: float | None
) -> "tuple[Plan, Simulation, str | None]":
    """Solve and replay; once more with prices for where the tensors lie, if that makes a difference."""
    from hwsim.simulate.plan_file import replay

    plan, default_limit = _solve(run, progress, limit)
    simulation = replay(plan, run.model.graph, run.target)
    before = run.costs, run.vectors, run.tables
    if abs(simulation.seconds / plan.totals.latency - 1) <= PLACED_OTHERWISE or not price_again(
        run, simulation
    ):
        return plan, simulation, default_limit
    try:
        again, default_limit = _solve(run, progress, limit)
    except InfeasibleError:  # no proof: with its tensors elsewhere another plan may fit
        run.costs, run.vectors, run.tables = before
        return plan, simulation, default_limit
    run.remarks.append(
        f"the options were priced a second time, for weights in {simulation.weight_home} and activations in "
        f"{simulation.activation_home}, where the plan of the first prices keeps them"
    )
    return again, replay(again, run.model.graph, run.target), default_limit


def price_again(run: Run, simulation: "Simulation") -> bool:
    """Price all options where the tensors of this plan lie; whether that changes anything.

    At first every option is priced as if the whole network had its widths. The weights of a mixed plan may fit
    in a memory in which those of some of its schemes alone would not, or the other way round.
    """
    from hwsim.simulate.cost import layer_costs
    from hwsim.simulate.vector import vector_costs
    from hwsim.stages.tables import fill_tables

    graph, placement = run.model.graph, simulation.placement
    offered = [list(dict.fromkeys(option.scheme for option in options)) for options in run.costs]
    costs = layer_costs(graph.products(), offered, run.target, graph_layers=graph.layers, placement=placement)
    vectors = vector_costs(graph.layers, run.target, placement=placement)
    tables = fill_tables(graph, run.target, costs, vectors, run.profile.layers, run.tables.provenance)
    if tables == run.tables:
        return False
    run.costs, run.vectors, run.tables = costs, vectors, tables
    return True


def _solve(run: Run, progress: StageProgress, latency: float | None) -> "tuple[Plan, str | None]":
    from planner.errors import Infeasible
    from planner.solve import solve

    request, default_limit = _solver_request(run, latency)
    start = _warm_start(run.request)
    show = _gap_on(progress)
    try:
        return solve(run.tables, request, warm_start=start, progress=show), default_limit
    except Infeasible as error:
        if default_limit is None or run.request.search.limits.any:
            raise _infeasible(error, run) from error
    # The device cannot be as accurate as uniform w8a8 at all: then the most accurate plan is the default.
    run.remarks.append(
        f"the error of uniform w8a8 is out of this device's reach{_narrowed(run.request)}: "
        "the most accurate plan instead"
    )
    limits = request.limits.model_copy(update={"error": None})
    request = request.model_copy(update={"objective": ("error", "latency"), "limits": limits})
    try:
        return solve(run.tables, request, warm_start=start, progress=show), None
    except Infeasible as error:
        raise _infeasible(error, run) from error


def _narrowed(request: PlanRequest) -> str:
    """What the person has narrowed the choice with."""
    given = {"pins": request.search.pins, "forbids": request.search.forbids, "--bits": str(request.widths)}
    names = [name for name, value in given.items() if value]
    return f" with these {' and '.join(names)}" if names else ""


def _gap_on(progress: StageProgress) -> "ProgressCallback":
    """Show what is being solved and how far it is proven."""

    def show(step: "Progress") -> None:
        gap = "no plan yet" if step.gap is None else f"gap {100 * step.gap:.2g} %"
        progress.note(f"solving, {step.phase}: {gap}")

    return show


def check_search(request: PlanRequest) -> None:
    """Find the mistakes in pins, forbids and warm start that show without the network."""
    from planner.select import Rule

    for texts, flag in ((request.search.pins, "pin"), (request.search.forbids, "forbid")):
        for text in texts:
            Rule.parse(text, flag)
    _warm_start(request)


def _warm_start(request: PlanRequest) -> "Plan | None":
    from hwsim.documents import read_plan

    return None if request.warm_start is None else read_plan(request.warm_start, "--warm-start")


def _solver_request(run: Run, latency: float | None) -> "tuple[Request, str | None]":
    """The planner's request; with no limit at all, the fastest plan as accurate as uniform w8a8."""
    asked = run.request.search.limits
    objective = run.request.search.objective
    default_limit: str | None = None
    error = asked.error
    if error is None and (objective[:1] in (("latency",), ("energy",)) or not asked.any):
        form = comparison.Form("uniform w8a8", comparison.REFERENCE)
        error = comparison.uniform_error(run.model.graph.products(), form, run.profile) * (1 + 1e-9)
        default_limit = DEFAULT_LIMIT
    first = objective[0] if objective else "error" if asked.any else "latency"
    search = replace(
        run.request.search,
        objective=objective if len(objective) > 1 else (first, _SECOND[first]),
        limits=replace(asked, error=error, latency=latency),
    )
    return planner_request(search), default_limit


def explanations(plan: "Plan") -> list[str]:
    """What ``--explain`` and ``--alternatives`` found, in words."""
    first = plan.request.objective[0]
    units = {"error": (1.0, " nats"), "latency": (1e3, " ms"), "energy": (1e-9, " mJ")}
    scale, unit = units.get(first, (1.0, ""))
    found: list[str] = []
    for use in plan.limits:
        name = use.name.replace("memory:", "memory ").replace("_", " ")
        if use.gain_of_one_percent:
            lower = f"{use.gain_of_one_percent * scale:.3g}{unit}"
            found.append(f"1 % more {name} would lower the {first} by {lower}")
        elif use.binding is False:
            found.append(f"the limit on {name} does not bind: without it the plan would be the same")
    for number, other in enumerate(plan.alternatives, 1):
        totals = other.totals
        found.append(
            f"alternative {number}, {len(other.schemes)} layers otherwise: error {totals.error:.3g} nats, "
            f"latency {totals.latency * 1e3:.4g} ms, energy {totals.energy_pj * 1e-9:.4g} mJ"
        )
    return found


def _infeasible(error: Any, run: Run) -> InfeasibleError:
    path = run.request.output_dir / INFEASIBLE
    files.write_text(path, error.report.model_dump_json(indent=2) + "\n")
    stale = (
        "; the plan.json beside it is an earlier request's" if path.with_name("plan.json").is_file() else ""
    )
    return InfeasibleError(f"{infeasible_text(error.report)} (details in {path}{stale})")


def pareto_points(run: Run, plan: "Plan", progress: StageProgress) -> list[ParetoPoint]:
    """Proven points of the latency × error frontier under the other limits, and the plan itself."""
    from planner.pareto import pareto

    request, _ = _solver_request(run, None)
    free = request.limits.model_copy(update={"error": None, "latency": None})
    request = request.model_copy(update={"objective": ("latency", "error"), "limits": free})
    found = pareto(run.tables, request, run.request.pareto, progress=_gap_on(progress))
    points = [ParetoPoint(seconds=point.totals.latency, error=point.totals.error) for point in found]
    return [*points, ParetoPoint(seconds=plan.totals.latency, error=plan.totals.error, chosen=True)]
