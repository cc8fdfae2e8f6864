"""``plan``, ``solve`` and ``diff``: what to decide, and how two decisions differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim import config, files
from hwsim.api import given
from hwsim.api.boundary import one_root
from hwsim.errors import ViolationError
from hwsim.units import Dimension, Quantity, exact_text

if TYPE_CHECKING:
    from hwsim.api.given import ModelLike, PlanLike, TargetLike
    from hwsim.stages.plan import PlanResult
    from hwsim.stages.progress import StageProgress
    from planner.control import ProgressCallback
    from planner.diff import PlanDiff
    from planner.plan import Plan

_IN_MEMORY = ("target", "model", "example_inputs", "progress")
_QUANTITIES: dict[str, Dimension] = {
    "max_latency": "time",
    "max_bops": "count",
    "max_weight_memory": "bytes",
    "max_activation_memory": "bytes",
    "max_energy": "energy",
    "time_limit": "time",
}


@one_root
def plan(
    *,
    target: "TargetLike",
    model: "ModelLike",
    example_inputs: Any = None,
    weights: str | Path | None = None,
    calibration_data: str | Path | None = None,
    measured: int = 0,
    bits: str | Sequence[int | str] = "",
    max_latency: Quantity = None,
    max_bops: Quantity = None,
    max_weight_memory: Quantity = None,
    max_activation_memory: Quantity = None,
    max_energy: Quantity = None,
    max_error: float | None = None,
    objective: str | None = None,
    pin: str | Sequence[str] = (),
    forbid: str | Sequence[str] = (),
    batch: int = 1,
    sequence: int | None = None,
    pareto: int = 0,
    alternatives: int = 0,
    explain: bool = False,
    warm_start: "PlanLike | None" = None,
    time_limit: Quantity = "60s",
    seed: int = 0,
    workers: int = 1,
    output_dir: str | Path | None = None,
    strict: bool = False,
    resume: bool = False,
    progress: "StageProgress | None" = None,
) -> "PlanResult":
    """Choose bits, expansion order, sparsity and use of units for each layer, proven optimal.

    ``target`` is a device that ships (``"edge_gpu"``), the path of a YAML file, or a ``Target``; ``model`` a name, a
    file, or a ``torch.nn.Module``, which needs ``example_inputs`` (a tensor, or a tuple of tensors). A limit is text
    with a unit (``"4ms"``) or a number in SI units. ``strict`` raises ``ViolationError`` when something asked is not
    honoured; ``progress`` shows the stages. All else are the flags of ``hwsim plan``.

    Everything is written to ``output_dir`` (``out/MODEL-TARGET``), with ``config.yaml``, from which the command line
    repeats the run.
    """
    asked = dict(locals())
    from hwsim.stages.plan import make_plan
    from hwsim.stages.progress import Silent
    from hwsim.stages.request import plan_request, stem

    name = f"{stem(given.model_name(model))}-{stem(given.target_name(target))}"
    directory = given.output_directory(output_dir, None, "", name)
    flags: dict[str, Any] = {
        "target": given.target_spec(target, directory),
        "model": given.model_spec(model, example_inputs, directory),
        **{name: value for name, value in asked.items() if name not in _IN_MEMORY},
        **{flag: exact_text(asked[flag], dimension) for flag, dimension in _QUANTITIES.items()},
        "bits": bits if isinstance(bits, str) else ",".join(map(str, bits)),
        "pin": _several(pin),
        "forbid": _several(forbid),
        "weights": given.path(weights, "weights"),
        "calibration_data": given.text(calibration_data),
        "warm_start": None if warm_start is None else given.plan_file(warm_start),
        "output_dir": directory,
    }
    command = f"hwsim plan --config {directory / config.NAME}"
    with config.kept(directory, "plan", flags):
        result = make_plan(plan_request(**flags, command=command), progress or Silent())
    broken = result.violations() if strict else []
    if broken:
        raise ViolationError("; ".join(broken))
    return result


def _several(texts: str | Sequence[str]) -> Sequence[str]:
    """One text is a list of one, not of its letters."""
    return (texts,) if isinstance(texts, str) else texts


@dataclass(frozen=True)
class SolveResult:
    """Plans from option tables: one, or the proven points of a frontier, fastest first."""

    plans: "tuple[Plan, ...]"
    output: Path | None

    @property
    def plan(self) -> "Plan":
        """The plan, or the first point."""
        return self.plans[0]

    def _repr_html_(self) -> str:
        from hwsim.report import notebook

        return notebook.solved(self.plans)


@one_root
def solve(
    tables: str | Path,
    *,
    max_latency: Quantity = None,
    max_bops: Quantity = None,
    max_weight_memory: Quantity = None,
    max_activation_memory: Quantity = None,
    max_energy: Quantity = None,
    max_error: float | None = None,
    objective: str | None = None,
    pin: str | Sequence[str] = (),
    forbid: str | Sequence[str] = (),
    ensembles: bool = True,
    pareto: int = 0,
    alternatives: int = 0,
    explain: bool = True,
    warm_start: "PlanLike | None" = None,
    time_limit: Quantity = "60s",
    seed: int = 0,
    workers: int = 1,
    output: str | Path | None = None,
    progress: "ProgressCallback | None" = None,
) -> SolveResult:
    """Choose one option per layer from option tables (``tables.json`` of a plan), proven optimal."""
    asked = dict(locals())
    from hwsim.stages.search import search_flags
    from hwsim.stages.solve import plans_text, run_solve, solve_request

    asked |= {"pin": _several(pin), "forbid": _several(forbid)}
    request = solve_request(ensembles=ensembles, pareto=pareto, **search_flags(asked))
    start = None if warm_start is None else given.plan_file(warm_start)
    plans = run_solve(Path(tables), request, pareto=pareto, warm_start=start, progress=progress)
    if output is not None:
        files.write_text(Path(output), plans_text(plans, many=bool(pareto)))
    return SolveResult(plans, given.path(output))


@dataclass(frozen=True)
class DiffResult:
    """What two plans of one network decide differently."""

    difference: "PlanDiff"

    def _repr_html_(self) -> str:
        from hwsim.report import notebook

        return notebook.difference(self.difference)


@one_root
def diff(before: "PlanLike", after: "PlanLike") -> DiffResult:
    """Show what two plans decide differently and what that changes."""
    from hwsim.stages.solve import run_diff

    return DiffResult(run_diff(given.plan_file(before), given.plan_file(after)))
