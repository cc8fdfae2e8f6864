"""Compile: a plan, a scheme or a saved quantized model to an artifact that runs without torch."""

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim import files
from hwsim.documents import read_plan
from hwsim.errors import UserError
from hwsim.stages.quantize import QuantizeRequest, SourceRecord, run_quantize

if TYPE_CHECKING:
    from hwsim.model.load import LoadedModel
    from quant.qmodel import QuantizedModel

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CompileRequest:
    """What to compile and for which machine; exactly one of plan, scheme, quantized."""

    output_dir: Path
    isa: str = "host"
    threads: int | None = None
    """Cores of one inference; None: what the plan uses, else one."""
    plan: Path | None = None
    scheme: str | None = None
    quantized: Path | None = None
    model: str | None = None
    weights: Path | None = None
    calibration_data: str | None = None
    samples: int = 64
    tune: bool = False
    batch: int = 1
    sequence: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class CompileResult:
    """The artifact's folder and manifest."""

    directory: Path
    manifest: dict[str, Any] = field(default_factory=dict[str, Any])

    def _repr_html_(self) -> str:
        from hwsim.report import notebook

        known = {
            "directory": self.directory,
            "machine": self.manifest["machine"]["name"],
            "kernels": self.manifest["kernels"],
            "in integer (% of MACs)": f"{100 * self.manifest['integer']['integer_share']:.2f}",
        }
        return notebook.facts(self.manifest["model"], known) + notebook.items(self.manifest["remarks"])


def run_compile(request: CompileRequest, progress: Progress | None = None) -> CompileResult:
    """Quantize (unless a quantized model is given), lower, build, write."""
    if sum(x is not None for x in (request.plan, request.scheme, request.quantized)) != 1:
        raise UserError("hwsim compile: give one of --plan plan.json, --scheme w8a8, --quantized DIRECTORY")
    for flag, value in (("--model", request.model), ("--calibration-data", request.calibration_data)):
        if request.quantized is not None and value is not None:
            raise UserError(f"{flag}: --quantized brings its own; give one of the two")
    if (request.threads or 1) > 1 and request.isa != "host":
        raise UserError(
            "--threads: the thread pool is shipped for this machine only; compile with --isa host"
        )
    if request.tune and request.isa != "host":
        raise UserError("--tune: kernels are measured on this machine; compile with --isa host")
    files.check_writable(request.output_dir)
    units, ways = _units(request)
    # The compiler brings its own LLVM; importing it before torch's other libraries is the order that works.
    from hwsim.compile.artifact import write_artifact
    from hwsim.compile.isa import named_isa
    from hwsim.compile.lower_ensemble import lower_model
    from hwsim.compile.tune import tune

    isa = named_isa(request.isa)
    model, quantized, record = _quantized(request)
    program = lower_model(quantized, isa, units=units, ways=ways)

    def report(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: None if progress is None else progress(stage, done, total)

    tuned = tune(program, isa, progress=report("tuning")) if request.tune else 0

    manifest = write_artifact(
        program,
        isa,
        request.output_dir,
        facts={
            "model": model.resolved,
            "weights": asdict(model.weights),
            "illustrative": model.illustrative,
            "quantized_sha256": record.quantized_sha256,
            "range_source": record.range_source,
            "remarks": list(record.remarks),
            "units": {"count": units, "predictors": _predictors(quantized), "ways": Counter(ways.values())},
            "tuned_kernels": tuned,
            "preprocess": {k: v for k, v in model.data_config.items() if _plain(v)},
        },
        plan=None if request.plan is None else request.plan.read_text(encoding="utf-8"),
        threads=units,
        progress=report("kernels"),
    )
    return CompileResult(request.output_dir, manifest)


def _units(request: CompileRequest) -> tuple[int, dict[str, str]]:
    """Cores of one inference, and for each layer of a plan how it uses them."""
    from hwsim.target.load import load_target

    if request.plan is None:
        return request.threads or 1, {}
    plan = read_plan(request.plan)
    ways = {layer.name: str(layer.way) for layer in plan.layers}
    if request.threads is not None or request.isa != "host":
        return request.threads or 1, ways
    wanted, cores = 1, os.cpu_count() or 1
    if plan.ensemble is not None:
        wanted = plan.ensemble.units
    elif set(ways.values()) - {"single"}:
        wanted = cores
        with contextlib.suppress(UserError):  # the plan names a device; its descriptor may not be at hand
            wanted = load_target(plan.target).units.count
    return min(wanted, cores), ways


def _predictors(quantized: "QuantizedModel") -> int:
    from quant.ensemble import predictor_count

    return predictor_count(quantized)


def _quantized(request: CompileRequest) -> "tuple[LoadedModel, QuantizedModel, SourceRecord]":
    from hwsim.model.load import of_batch

    if request.quantized is not None:
        from hwsim.model.load import load_model
        from quant.qmodel import QuantizedModel

        record = SourceRecord.read(request.quantized)
        weights = request.weights or (Path(record.weights_file) if record.weights_file else None)
        sequence = request.sequence or record.sequence
        model = load_model(
            record.model, weights=weights, seed=record.seed, batch=request.batch, sequence=sequence
        )
        model = of_batch(model, request.batch)
        return model, QuantizedModel.load(request.quantized, model.module), record
    with tempfile.TemporaryDirectory() as scratch:
        result = run_quantize(
            QuantizeRequest(
                output_dir=Path(scratch),
                plan=request.plan,
                scheme=request.scheme,
                model=request.model,
                weights=request.weights,
                calibration_data=request.calibration_data,
                samples=request.samples,
                batch=request.batch,
                sequence=request.sequence,
                seed=request.seed,
            )
        )
    return of_batch(result.source, request.batch), result.model, result.record


def _plain(value: object) -> bool:
    """Whether the value goes into JSON as it is."""
    if isinstance(value, list | tuple):
        return all(_plain(item) for item in value)  # pyright: ignore[reportUnknownVariableType]
    return isinstance(value, str | int | float | bool) or value is None
