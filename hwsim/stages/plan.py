"""``plan``: from a model and a device to a proven plan, its replay and its report.

load → profile errors → price options → solve → replay → report. Each stage hands on a document; the option
tables are written beside the plan, so that ``--resume`` and ``hwsim solve`` can start from them.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hwsim import files
from hwsim.errors import InfeasibleError, UserError
from hwsim.report.document import ComparisonRow, ParetoPoint, Report
from hwsim.stages import comparison
from hwsim.stages.deploy_report import Findings, build_report, graph_sha256, versions, weights_text
from hwsim.stages.options import network_schemes
from hwsim.stages.request import PlanRequest
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.model.load import LoadedModel
    from hwsim.simulate.cost import OptionCost, VectorCost
    from hwsim.simulate.simulation import Simulation
    from hwsim.stages.error_profile import ErrorProfile
    from hwsim.target.schema import Target
    from planner.plan import Plan
    from planner.request import Request
    from planner.tables import Tables

DEFAULT_LIMIT = "default: the error of uniform w8a8"


class StageProgress(Protocol):
    """What a progress display must offer."""

    seconds: dict[str, float]

    def stage(self, name: str, weight: float) -> AbstractContextManager[None]:
        """Run one stage; ``weight`` is its share of the bar."""
        ...

    def note(self, text: str) -> None:
        """Change the text beside the bar."""
        ...


@dataclass(frozen=True)
class PlanResult:
    """The plan, its report and the files that hold them."""

    plan: "Plan"
    report: Report
    files: list[Path]

    @property
    def interrupted(self) -> bool:
        """Whether the search was stopped from outside; the plan is then the best so far."""
        return self.plan.stopped == "interrupted"

    def violations(self) -> list[str]:
        """What ``--strict`` objects to."""
        broken = [f"{budget.name} is over its limit" for budget in self.report.budgets if not budget.met]
        return broken + self.report.not_honoured


@dataclass
class _Run:
    """What the stages of one run hand on."""

    request: PlanRequest
    target: "Target"
    model: "LoadedModel"
    profile: "ErrorProfile"
    costs: "list[list[OptionCost]]"
    vectors: "list[VectorCost]"
    tables: "Tables"
    remarks: list[str] = field(default_factory=list[str])


def make_plan(request: PlanRequest, progress: StageProgress) -> PlanResult:
    """Run all stages and write ``plan.json``, ``tables.json``, the reports and ``trace.json``."""
    from hwsim.target.load import load_target

    target = load_target(request.target)
    _check_writable(request.output_dir)
    with progress.stage("loading the model", 35):
        model = _load(request)
    run = _tables(request, target, model, progress)
    with progress.stage("solving", 15):
        plan, default_limit = _solve(run, progress)
    with progress.stage("replaying the plan", 5):
        simulation = simulate(model, plan, target)
        rows = comparison.compare(model.graph, target, run.profile)
        own = comparison.row(
            "this plan", _schemes(plan), simulation, plan.totals.error, chosen=True, note=_mixture(plan)
        )
    with progress.stage("proving the frontier", 2):
        points = _pareto(run, plan) if request.pareto else []
    found = _findings(run, plan, simulation, [*rows, own], points, default_limit)
    return _write(found, run, progress)


def preview(request: PlanRequest) -> dict[str, Any]:
    """What a run would do, from shapes alone: nothing is profiled, solved or written."""
    from hwsim.target.load import load_target

    target = load_target(request.target)
    model = _load(request, shapes_only=True)
    products = model.graph.products()
    offered = network_schemes(products, target, request.widths)
    weight_bytes = 4 * model.graph.parameters
    gradient = 4 * max((layer.params for layer in products), default=0)
    return {
        "model": model.resolved,
        "target": target.name,
        "products": len(products),
        "multiply-accumulates": model.graph.total_macs,
        "schemes offered": sum(len(schemes) for schemes in offered),
        "peak memory estimate (bytes)": int(3 * weight_bytes + gradient + 700 * 2**20),
        "files": [str(request.output_dir / name) for name in _FILES],
    }


_FILES = ("plan.json", "tables.json", "report.html", "report.md", "report.json", "trace.json")


def _check_writable(directory: Path) -> None:
    """Fail before the work, not after it."""
    probe = directory / ".hwsim-write-test"
    files.write_text(probe, "")
    probe.unlink(missing_ok=True)


def _load(request: PlanRequest, shapes_only: bool = False) -> "LoadedModel":
    from hwsim.model.load import load_model

    return load_model(
        request.model,
        weights=None if shapes_only else request.weights,
        seed=request.seed,
        device="meta" if shapes_only else "cpu",
        batch=request.batch,
        sequence=request.sequence,
    )


def _tables(request: PlanRequest, target: "Target", model: "LoadedModel", progress: StageProgress) -> _Run:
    from hwsim.simulate.cost import layer_costs
    from hwsim.simulate.vector import vector_costs
    from hwsim.stages.tables import fill_tables

    products = model.graph.products()
    if not products:
        raise UserError(f"--model {request.model}: no linear, convolution or matmul layer to plan")
    offered = network_schemes(products, target, request.widths)
    with progress.stage("profiling errors", 35):
        profile = _profile(request, target, model, offered)
    with progress.stage("pricing options", 5):
        costs = layer_costs(products, offered, target, graph_layers=model.graph.layers)
        vectors = vector_costs(model.graph.layers, target)
        for layer, options in zip(products, costs, strict=True):
            if not options:
                raise UserError(f"layer {layer.name}: no engine of {target.name} runs any offered scheme")
        tables = fill_tables(model.graph, target, costs, vectors, profile.layers, _provenance(model, target))
    return _Run(request, target, model, profile, costs, vectors, tables)


def _profile(
    request: PlanRequest, target: "Target", model: "LoadedModel", offered: list[list[Scheme]]
) -> "ErrorProfile":
    from hwsim.stages import error_profile

    compared = comparison.forms(target)
    everything = [
        list(dict.fromkeys([*schemes, *(comparison.schemes_for(layer, form) for form in compared)]))
        for layer, schemes in zip(model.graph.products(), offered, strict=True)
    ]
    if model.weights.kind == "meta":
        return error_profile.profile_shapes(model, everything)
    batches, synthetic = _samples(request, model)
    return error_profile.profile_errors(model, everything, batches, synthetic=synthetic, seed=request.seed)


def _samples(request: PlanRequest, model: "LoadedModel") -> tuple[list[Any], bool]:
    from hwsim.stages.error_profile import synthetic_inputs

    if request.calibration_data is None:
        return synthetic_inputs(model, request.seed), True
    from hwsim.stages.calibration import calibration_batches

    return calibration_batches(request.calibration_data, model), False


def _provenance(model: "LoadedModel", target: "Target") -> dict[str, str]:
    return {
        "model": model.resolved,
        "model_spec": model.spec,
        "weights": weights_text(model),
        "graph_sha256": graph_sha256(model.graph),
        "target_sha256": target.sha256,
        **{f"version {name}": value for name, value in versions().items()},
    }


def _solver_request(run: _Run) -> "tuple[Request, str | None]":
    """The planner's request; with no limit at all, the fastest plan as accurate as uniform w8a8."""
    from planner.request import Limits, Request

    asked = run.request.limits
    objective = run.request.objective
    default_limit: str | None = None
    error = asked.error
    if error is None and (objective in ("latency", "energy") or not asked.any):
        form = comparison.Form("uniform w8a8", comparison.REFERENCE)
        error = comparison.uniform_error(run.model.graph.products(), form, run.profile) * (1 + 1e-9)
        default_limit = DEFAULT_LIMIT
    first = objective or ("error" if asked.any else "latency")
    second = {"error": "latency", "latency": "error", "energy": "latency"}[first]
    return Request(
        objective=(first, second),  # pyright: ignore[reportArgumentType]
        limits=Limits(
            error=error,
            latency=asked.latency,
            energy=None if asked.energy is None else asked.energy * 1e12,
            bops=asked.bops,
            weight_memory=asked.weight_memory,
            activation_memory=asked.activation_memory,
        ),
        pins=run.request.pins,
        forbids=run.request.forbids,
        seed=run.request.seed,
        workers=run.request.workers,
        time_limit=run.request.time_limit,
    ), default_limit


def _solve(run: _Run, progress: StageProgress) -> "tuple[Plan, str | None]":
    from planner.errors import Infeasible
    from planner.solve import solve

    request, default_limit = _solver_request(run)

    def show(step: Any) -> None:
        if step.gap is not None:
            progress.note(f"solving, gap {100 * step.gap:.2g} %")

    try:
        return solve(run.tables, request, progress=show), default_limit
    except Infeasible as error:
        if default_limit is None or run.request.limits.any:
            raise _infeasible(error, run) from error
    # The device cannot be as accurate as uniform w8a8 at all: then the most accurate plan is the default.
    run.remarks.append(
        "the error of uniform w8a8 is out of this device's reach: the most accurate plan instead"
    )
    limits = request.limits.model_copy(update={"error": None})
    request = request.model_copy(update={"objective": ("error", "latency"), "limits": limits})
    try:
        return solve(run.tables, request, progress=show), None
    except Infeasible as error:
        raise _infeasible(error, run) from error


def _infeasible(error: Any, run: _Run) -> InfeasibleError:
    path = run.request.output_dir / "infeasible.json"
    files.write_text(path, error.report.model_dump_json(indent=2) + "\n")
    return InfeasibleError(f"{error} (details in {path})")


def simulate(model: "LoadedModel", plan: "Plan", target: "Target") -> "Simulation":
    """Replay a plan in cycle mode."""
    from hwsim.simulate.cycle import LayerAssignment, simulate_plan

    assignments = {
        layer.name: LayerAssignment(Scheme.parse(layer.scheme), layer.engine, layer.way, layer.holds)
        for layer in plan.layers
    }
    predictors = plan.ensemble.predictors if plan.ensemble is not None else 1
    return simulate_plan(model.graph, assignments, predictors, target)


def _pareto(run: _Run, plan: "Plan") -> list[ParetoPoint]:
    from planner.pareto import frontier

    request, _ = _solver_request(run)
    free = request.limits.model_copy(update={"error": None, "latency": None})
    request = request.model_copy(update={"limits": free})
    points = [
        ParetoPoint(seconds=point.totals.latency, error=point.totals.error)
        for point in frontier(run.tables, request, run.request.pareto)
    ]
    chosen = ParetoPoint(seconds=plan.totals.latency, error=plan.totals.error, chosen=True)
    return [*points, chosen]


def _schemes(plan: "Plan") -> str:
    kinds = {layer.scheme for layer in plan.layers}
    return next(iter(kinds)) if len(kinds) == 1 else f"mixed, {len(kinds)} schemes"


def _mixture(plan: "Plan") -> str:
    counts: dict[str, int] = {}
    for layer in plan.layers:
        counts[layer.scheme] = counts.get(layer.scheme, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} × {scheme}" for scheme, count in ordered)


def _findings(
    run: _Run,
    plan: "Plan",
    simulation: "Simulation",
    rows: Sequence[ComparisonRow],
    points: list[ParetoPoint],
    default_limit: str | None,
) -> Findings:
    names = [layer.name for layer in run.model.graph.products()]
    return Findings(
        request=run.request,
        model=run.model,
        target=run.target,
        plan=plan,
        simulation=simulation,
        comparison=list(rows),
        costs=dict(zip(names, run.costs, strict=True)),
        vectors=run.vectors,
        pareto=points,
        basis=run.profile.basis,
        default_limit=default_limit,
        remarks=run.remarks,
        plan_text=_json(plan.model_dump(mode="json")),
    )


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _write(found: Findings, run: _Run, progress: StageProgress) -> PlanResult:
    from hwsim.report.render import to_html, to_markdown
    from hwsim.simulate.trace import chrome_trace

    directory = run.request.output_dir
    with progress.stage("writing the report", 5):
        report = build_report(found, progress.seconds)
        texts = {
            "tables.json": run.tables.model_dump_json(exclude_defaults=True) + "\n",
            "trace.json": chrome_trace(found.simulation),
            "report.json": _json(report.model_dump(mode="json")),
            "report.md": to_markdown(report),
            "report.html": to_html(report),
            "plan.json": found.plan_text,
        }
        for name, text in texts.items():
            files.write_text(directory / name, text)
    return PlanResult(
        found.plan, report, [directory / name for name in ("report.html", "plan.json", "trace.json")]
    )


def inputs_key(request: PlanRequest, model: "LoadedModel", target: "Target") -> str:
    """Hash of everything the tables depend on."""
    facts = [
        *_provenance(model, target).values(),
        str(request.widths),
        str(request.calibration_data),
        str(request.seed),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
