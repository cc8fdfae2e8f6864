"""``quantize``, ``evaluate``, ``compile``, ``run``, ``bench`` and ``simulate``: from a plan to a module that runs."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwsim import config
from hwsim.api import given
from hwsim.api.boundary import one_root

if TYPE_CHECKING:
    from hwsim.api.given import ModelLike, PlanLike, TargetLike
    from hwsim.measure.bench import Bench
    from hwsim.simulate.simulation import Simulation
    from hwsim.stages.compile import CompileResult
    from hwsim.stages.evaluate import Evaluation
    from hwsim.stages.quantize import QuantizeResult
    from hwsim.stages.run import Input, RunResult


@one_root
def quantize(
    plan: "PlanLike | None" = None,
    *,
    scheme: str | None = None,
    model: "ModelLike | None" = None,
    example_inputs: Any = None,
    weights: str | Path | None = None,
    calibration_data: str | Path | None = None,
    samples: int = 64,
    range_method: Literal["minmax", "percentile", "mse"] | None = None,
    dynamic: bool = False,
    recipe: str | None = None,
    tokenizer: str | Path | None = None,
    sequence: int | None = None,
    seed: int = 0,
    output_dir: str | Path | None = None,
) -> "QuantizeResult":
    """Integer weights and activation quantizers from a plan, or from one ``scheme`` for all layers.

    ``output_dir`` is ``quantized`` beside the plan, or ``out/MODEL-SCHEME``.
    """
    from hwsim.stages.quantize import QuantizeRequest, run_quantize

    directory = given.output_directory(output_dir, plan, "quantized", _named(model, scheme))
    request = QuantizeRequest(
        output_dir=directory,
        plan=None if plan is None else given.plan_file(plan),
        scheme=scheme,
        model=None if model is None else given.model_spec(model, example_inputs, directory),
        weights=given.path(weights, "weights"),
        calibration_data=given.text(calibration_data),
        samples=samples,
        range_method=range_method,
        dynamic=dynamic,
        recipe=recipe,
        tokenizer=given.path(tokenizer),
        sequence=sequence,
        seed=seed,
    )
    with config.kept(directory, "quantize", _flags(request)):
        return run_quantize(request)


@one_root
def evaluate(
    subject: "QuantizeResult | ModelLike",
    *,
    data: str | Path,
    example_inputs: Any = None,
    limit: int | None = None,
    weights: str | Path | None = None,
    tokenizer: str | Path | None = None,
    batch: int | None = None,
    sequence: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> "Evaluation":
    """Top-1/5 or perplexity, and KL and cosine against the float model, in integer arithmetic.

    ``subject`` is what ``quantize`` returned or wrote, or a float model.
    """
    from hwsim.stages.evaluate import EvaluateRequest, run_evaluate
    from hwsim.stages.quantize import QuantizeResult

    with tempfile.TemporaryDirectory() as scratch:
        name = (
            str(subject.directory)
            if isinstance(subject, QuantizeResult)
            else given.model_spec(subject, example_inputs, Path(scratch))
        )
        request = EvaluateRequest(
            subject=name,
            data=str(data),
            limit=limit,
            weights=given.path(weights, "weights"),
            tokenizer=given.path(tokenizer),
            batch=batch,
            sequence=sequence,
            seed=seed,
        )
        return run_evaluate(request, progress)


@one_root
def compile(
    plan: "PlanLike | None" = None,
    *,
    scheme: str | None = None,
    quantized: "QuantizeResult | str | Path | None" = None,
    model: "ModelLike | None" = None,
    example_inputs: Any = None,
    weights: str | Path | None = None,
    calibration_data: str | Path | None = None,
    samples: int = 64,
    isa: str = "host",
    threads: int | None = None,
    tune: bool = False,
    batch: int = 1,
    sequence: int | None = None,
    seed: int = 0,
    output_dir: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> "CompileResult":
    """Integer kernels from a plan, a quantized model or one ``scheme`` for all layers; the artifact needs no torch.

    ``output_dir`` is ``artifact`` beside the plan or the quantized model, or ``out/MODEL-SCHEME-artifact``.
    """
    from hwsim.stages.compile import CompileRequest, run_compile

    quantized_dir = (
        quantized if quantized is None or isinstance(quantized, str | Path) else quantized.directory
    )
    otherwise = f"{_named(model, scheme)}-artifact"
    directory = given.output_directory(output_dir, plan, "artifact", otherwise)
    if output_dir is None and quantized_dir is not None:
        directory = Path(quantized_dir).parent / "artifact"
    request = CompileRequest(
        output_dir=directory,
        isa=isa,
        threads=threads,
        tune=tune,
        plan=None if plan is None else given.plan_file(plan),
        scheme=scheme,
        quantized=given.path(quantized_dir),
        model=None if model is None else given.model_spec(model, example_inputs, directory),
        weights=given.path(weights, "weights"),
        calibration_data=given.text(calibration_data),
        samples=samples,
        batch=batch,
        sequence=sequence,
        seed=seed,
    )
    with config.kept(directory, "compile", _flags(request)):
        return run_compile(request, progress)


@one_root
def run(
    artifact: "CompileResult | str | Path",
    *,
    input: "Input",
    output: str | Path | None = None,
    repeat: int = 0,
    top: int = 5,
) -> "RunResult":
    """Run an artifact once; ``input`` is an image, an ``.npz``, an array, or arrays by name."""
    from hwsim.stages.run import run_artifact

    folder = artifact if isinstance(artifact, str | Path) else artifact.directory
    return run_artifact(Path(folder), input, output=given.path(output), repeat=repeat, top=top)


@dataclass(frozen=True)
class BenchResult:
    """Predicted and measured times of an artifact, layer by layer and whole."""

    bench: "Bench"

    @property
    def predicted(self) -> float:
        """Simulated seconds of one inference."""
        return self.bench.predicted

    @property
    def measured(self) -> float:
        """Median of the measured seconds of one inference."""
        return self.bench.measured.median

    def _repr_html_(self) -> str:
        from hwsim.report import notebook

        return notebook.bench(self.bench)


@one_root
def bench(
    artifact: "CompileResult | str | Path",
    *,
    target: "TargetLike",
    scheme: str | None = None,
    rounds: int = 5,
    rpc: str | None = None,
    key: str = "",
    report: str | Path | None = None,
) -> BenchResult:
    """Measure an artifact layer by layer and whole, beside the simulator's prediction for ``target``.

    ``rpc`` is the HOST:PORT of a TVM RPC server; without it the artifact runs here. ``scheme`` says what an artifact
    without a plan holds. ``report`` is the directory of the plan it was compiled from, whose report gets the figures.
    """
    from hwsim.api.reporting import load_target
    from hwsim.stages.bench import bench_artifact

    found = bench_artifact(
        Path(artifact) if isinstance(artifact, str | Path) else artifact.directory,
        load_target(target) if isinstance(target, str | Path) else target,
        scheme=scheme,
        rounds=rounds,
        rpc=rpc,
        key=key,
        report=None if report is None else str(report),
    )
    return BenchResult(found)


@dataclass(frozen=True)
class SimulateResult:
    """The replay of one inference, and its trace where one was written."""

    simulation: "Simulation"
    trace: Path | None

    @property
    def latency(self) -> float:
        """Seconds of one inference."""
        return self.simulation.seconds

    @property
    def energy(self) -> float:
        """Joules of one inference."""
        return self.simulation.total_energy_pj * 1e-12

    def _repr_html_(self) -> str:
        from hwsim.report import notebook

        return notebook.simulation(self.simulation)


@one_root
def simulate(
    plan: "PlanLike | None" = None,
    *,
    target: "TargetLike",
    model: "ModelLike | None" = None,
    example_inputs: Any = None,
    scheme: str | None = None,
    trace: str | Path | None = None,
    batch: int | None = None,
    sequence: int | None = None,
) -> SimulateResult:
    """Latency, energy, traffic and memory of one inference of a plan, or of a model in one ``scheme`` (w8a8).

    For a sweep, call it with changed devices: ``load_target("edge_gpu").replace({"units.count": 4})``.
    """
    from hwsim.api.reporting import load_target
    from hwsim.stages.simulate import replayer, write_trace

    device = load_target(target) if isinstance(target, str | Path) else target
    file = None if plan is None else given.plan_file(plan)
    with tempfile.TemporaryDirectory() as scratch:
        name = None if model is None else given.model_spec(model, example_inputs, Path(scratch))
        found = replayer(file, name, scheme=scheme, batch=batch, sequence=sequence)(device)
    if trace is not None:
        write_trace(found, Path(trace))
    return SimulateResult(found, given.path(trace))


def _named(model: "ModelLike | None", scheme: str | None) -> str:
    from hwsim.stages.request import stem

    return f"{stem(given.model_name(model or 'model'))}-{stem(scheme or 'plan')}"


def _flags(request: Any) -> dict[str, Any]:
    """A request's fields, which are named like the flags."""
    from dataclasses import fields

    return {field.name: getattr(request, field.name) for field in fields(request)}
