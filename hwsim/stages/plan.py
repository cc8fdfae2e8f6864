"""``plan``: from a model and a device to a proven plan, its replay and its report.

load → profile errors → price options → solve → replay → report. Each stage hands on a document; the option
tables are written beside the plan, so that ``--resume`` and ``hwsim solve`` can start from them.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim import files
from hwsim.errors import UserError
from hwsim.report.document import ComparisonRow, ParetoPoint, Report
from hwsim.stages import comparison
from hwsim.stages import progress as stages
from hwsim.stages.accumulators import fitting_schemes
from hwsim.stages.decide import (
    INFEASIBLE,
    Run,
    check_search,
    explanations,
    pareto_points,
    solve_inside_latency,
)
from hwsim.stages.deploy_report import Findings, build_report
from hwsim.stages.options import network_schemes
from hwsim.stages.pins import check_pins
from hwsim.stages.progress import StageProgress, expected_seconds
from hwsim.stages.provenance import origin, profile_key
from hwsim.stages.request import PlanRequest
from quant.scheme import Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from hwsim.model.load import LoadedModel
    from hwsim.simulate.simulation import Simulation
    from hwsim.stages.error_profile import ErrorProfile
    from hwsim.target.schema import Target
    from planner.plan import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanResult:
    """The plan, its report and the files that hold them."""

    plan: "Plan"
    report: Report
    files: list[Path]

    @property
    def directory(self) -> Path:
        """Where everything was written."""
        return self.files[0].parent

    @property
    def latency(self) -> float:
        """Simulated seconds of one inference."""
        return self.report.validation.simulated_cycles / self.report.clock_hz

    @property
    def energy(self) -> float:
        """Joules of one inference."""
        return sum(self.report.energy_by_component.values())

    @property
    def error(self) -> float:
        """Predicted divergence of the output from float, in nats."""
        return self.plan.totals.error

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights as the device stores them."""
        return self.plan.totals.weight_bytes

    @property
    def met(self) -> bool:
        """Whether every budget is met."""
        return all(budget.met for budget in self.report.budgets)

    @property
    def schemes(self) -> dict[str, str]:
        """The scheme of each layer."""
        return dict(self.plan.assignment)

    def __str__(self) -> str:
        return self.report.headline

    def _repr_html_(self) -> str:
        from hwsim.report import notebook

        return notebook.report(self.report)

    @property
    def interrupted(self) -> bool:
        """Whether the search was stopped from outside; the plan is then the best so far."""
        return self.plan.stopped == "interrupted"

    def violations(self) -> list[str]:
        """What ``--strict`` objects to."""
        broken = [f"{budget.name} is over its limit" for budget in self.report.budgets if not budget.met]
        return broken + self.report.not_honoured


def make_plan(request: PlanRequest, progress: StageProgress) -> PlanResult:
    """Run all stages and write ``plan.json``, ``tables.json``, the reports and ``trace.json``."""
    from hwsim.target.load import load_target

    target = load_target(request.target)
    check_search(request)  # a slip shows before the network is loaded and its errors are profiled
    files.check_writable(request.output_dir)
    progress.expect(expected_seconds(request))
    with progress.stage(stages.LOADING):
        model = _load(request)
    progress.expect(expected_seconds(request, model.graph))
    run = _tables(request, target, model, progress)
    with progress.stage(stages.SOLVING):
        plan, simulation, default_limit = solve_inside_latency(run, progress)
    run.remarks.extend(explanations(plan))
    with progress.stage(stages.REPLAYING):
        rows = comparison.compare(model.graph, target, run.profile)
        rows.append(
            comparison.best_uniform(model.graph, target, run.profile, run.costs_by_name, (plan, simulation))
        )
        own = comparison.row(
            "this plan", _schemes(plan), simulation, plan.totals.error, chosen=True, note=_mixture(plan)
        )
    with progress.stage(stages.FRONTIER):
        points = pareto_points(run, plan, progress) if request.pareto else []
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
        "macs": model.graph.total_macs,
        "schemes_offered": sum(len(schemes) for schemes in offered),
        "expected_seconds": round(sum(expected_seconds(request, model.graph).values()), 1),
        "peak_memory_bytes": int(3 * weight_bytes + gradient + 700 * 2**20),
        "files": [str(request.output_dir / name) for name in _FILES],
    }


_FILES = (
    "plan.json", "tables.json", "profile.json", "graph.json", "report.html", "report.md", "report.json", "trace.json",
)  # fmt: skip


def _load(request: PlanRequest, shapes_only: bool = False) -> "LoadedModel":
    from hwsim.model.load import load_model, of_batch

    model = load_model(
        request.model,
        weights=None if shapes_only else request.weights,
        seed=request.search.seed,
        device="meta" if shapes_only else "cpu",
        batch=request.batch,
        sequence=request.sequence,
    )
    return of_batch(model, request.batch)


def _tables(request: PlanRequest, target: "Target", model: "LoadedModel", progress: StageProgress) -> Run:
    from hwsim.simulate.cost import layer_costs
    from hwsim.simulate.vector import vector_costs
    from hwsim.stages.tables import fill_tables

    products = model.graph.products()
    if not products:
        raise UserError(f"--model {request.model}: no linear, convolution or matmul layer to plan")
    weights = None if model.weights.kind == "meta" else model.module.state_dict()
    fitting = fitting_schemes(products, network_schemes(products, target, request.widths), target, weights)
    offered = fitting.offered
    with progress.stage(stages.PROFILING):
        profile = _profile(request, target, model, offered)
        if request.measured:
            from hwsim.stages.measured_errors import with_compensation

            offered = with_compensation(offered, [profile.layers[layer.name] for layer in products])
    with progress.stage(stages.PRICING):
        costs = layer_costs(products, offered, target, graph_layers=model.graph.layers)
        vectors = vector_costs(model.graph.layers, target)
        for layer, options in zip(products, costs, strict=True):
            if not options:
                raise UserError(f"layer {layer.name}: no engine of {target.name} runs any offered scheme")
        tables = fill_tables(model.graph, target, costs, vectors, profile.layers, origin(model, target))
    check_pins(tables, request.search.pins, fitting.overflowing)
    told = fitting.remark(target.name) if str(request.widths) else None
    return Run(request, target, model, profile, costs, vectors, tables, [told] if told else [])


def _profile(
    request: PlanRequest, target: "Target", model: "LoadedModel", offered: list[list[Scheme]]
) -> "ErrorProfile":
    from hwsim.stages import error_profile

    compared = comparison.profiled_forms(target)
    everything = [
        list(dict.fromkeys([*schemes, *(comparison.schemes_for(layer, form) for form in compared)]))
        for layer, schemes in zip(model.graph.products(), offered, strict=True)
    ]
    if model.weights.kind == "meta":
        return error_profile.profile_shapes(model, everything)
    batches, data = _samples(request, model)
    path = request.output_dir / "profile.json"
    key = profile_key(request, model, everything, data)
    if request.resume and path.is_file():
        known = error_profile.ErrorProfile.from_json(path.read_text(encoding="utf-8"), key)
        if known is not None:
            return known
        log.warning("--resume: %s was made from other inputs; profiling again", path)
    profile = error_profile.profile_errors(model, everything, batches, data=data, seed=request.search.seed)
    if request.measured:
        from hwsim.stages.measured_errors import measure_errors

        whole = -(-request.measured // request.batch)
        profile = measure_errors(model, profile, batches[:whole])
    files.write_text(path, profile.to_json(key))
    return profile


def _samples(request: PlanRequest, model: "LoadedModel") -> "tuple[list[tuple[Tensor, ...]], str | None]":
    """Inputs of the error model and what they are; None for synthetic ones."""
    from hwsim.stages.error_profile import synthetic_inputs

    if request.calibration_data is None:
        return synthetic_inputs(model, request.search.seed), None
    from hwsim.stages.calibration import calibration_data

    batches, record = calibration_data(request.calibration_data, model)
    return batches, f"{record.count} samples of {record.source}, sha256 {record.sha256[:16]}"


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
    run: Run,
    plan: "Plan",
    simulation: "Simulation",
    rows: Sequence[ComparisonRow],
    points: list[ParetoPoint],
    default_limit: str | None,
) -> Findings:
    curve, curve_missing = comparison.anytime(run.model.graph, run.target, run.profile, plan)
    return Findings(
        request=run.request,
        model=run.model,
        target=run.target,
        plan=plan,
        simulation=simulation,
        comparison=list(rows),
        costs=run.costs_by_name,
        vectors=run.vectors,
        pareto=points,
        basis=run.profile.basis,
        default_limit=default_limit,
        remarks=run.remarks,
        plan_text=_json(plan.model_dump(mode="json")),
        profile=run.profile,
        anytime=tuple(curve),
        anytime_missing=curve_missing,
    )


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _write(found: Findings, run: Run, progress: StageProgress) -> PlanResult:
    from hwsim.report.render import to_html, to_markdown
    from hwsim.simulate.trace import chrome_trace

    directory = run.request.output_dir
    with progress.stage(stages.WRITING):
        report = build_report(found, progress.seconds)
        texts = {
            "tables.json": run.tables.model_dump_json(exclude_defaults=True) + "\n",
            "trace.json": chrome_trace(found.simulation),
            "graph.json": run.model.graph.to_json() + "\n",
            "report.json": _json(report.model_dump(mode="json")),
            "report.md": to_markdown(report),
            "report.html": to_html(report),
            "plan.json": found.plan_text,
        }
        for name, text in texts.items():
            files.write_text(directory / name, text)
        (directory / INFEASIBLE).unlink(missing_ok=True)  # an earlier request's
    return PlanResult(
        found.plan, report, [directory / name for name in ("report.html", "plan.json", "trace.json")]
    )
