"""``quantize``: a plan (or one scheme for all layers) becomes integer weights and activation quantizers on disk.

The directory holds `quantized.json` and `weights.safetensors` (quant/qstore.py) and `source.json`: which graph
they belong to, which weights and data they were made from, so that ``hwsim evaluate`` and ``hwsim compile`` can
load them again. Same inputs and seed give the same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from hwsim import files
from hwsim.errors import UserError
from quant.scheme import Scheme

if TYPE_CHECKING:
    from hwsim.data.dataset import DataRecord
    from hwsim.model.graph import LayerGraph
    from hwsim.model.load import LoadedModel
    from planner.plan import Plan
    from quant.activation import ActRanges
    from quant.qmodel import QuantizedModel

SOURCE = "source.json"
SCHEMA = "hwsim-quantized-source"
RangeMethod = Literal["minmax", "percentile", "mse"]


@dataclass(frozen=True)
class QuantizeRequest:
    """What to quantize and how; exactly one of `plan` and `scheme`."""

    output_dir: Path
    plan: Path | None = None
    scheme: str | None = None
    model: str | None = None
    weights: Path | None = None
    calibration_data: str | None = None
    samples: int = 64
    range_method: RangeMethod = "mse"
    dynamic: bool = False
    tokenizer: Path | None = None
    batch: int = 1
    sequence: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class SourceRecord:
    """Where a quantized model comes from (`source.json`)."""

    model: str
    weights: dict[str, Any]
    weights_file: str | None
    sequence: int | None
    seed: int
    range_source: str
    range_method: str
    calibration: dict[str, Any] | None
    quantized_sha256: str
    plan_sha256: str | None = None
    remarks: tuple[str, ...] = ()
    schema_version: int = 1
    schema: str = field(default=SCHEMA)

    def to_json(self) -> str:
        """The document as text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read `source.json` of a quantized directory."""
        try:
            document: dict[str, Any] = json.loads((directory / SOURCE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{directory}: not a directory that hwsim quantize wrote ({error})") from error
        if document.get("schema") != SCHEMA or document.get("schema_version") != 1:
            raise UserError(f"{directory / SOURCE}: not a {SCHEMA} document of version 1")
        try:
            document["remarks"] = tuple(document["remarks"])
            return cls(**document)
        except (KeyError, TypeError) as error:
            raise UserError(f"{directory / SOURCE}: a field is missing or unknown ({error})") from error


@dataclass(frozen=True)
class QuantizeResult:
    """The saved model and its record."""

    model: "QuantizedModel"
    record: SourceRecord
    directory: Path


def run_quantize(request: QuantizeRequest) -> QuantizeResult:
    """Load, place quantizers, round, save."""
    from hwsim.model.load import load_model
    from quant.ensemble import with_ensemble

    if (request.plan is None) == (request.scheme is None):
        raise UserError("hwsim quantize: give either --plan plan.json or --scheme, for example --scheme w8a8")
    plan = None if request.plan is None else read_plan(request.plan)
    spec = request.model or (plan.model if plan else None)
    if spec is None:
        raise UserError("hwsim quantize: --scheme needs --model")
    model = load_model(
        spec, weights=request.weights, seed=request.seed, batch=request.batch, sequence=request.sequence
    )
    if plan is None:
        assert request.scheme is not None
        assignment, holds = uniform_assignment(model.graph, Scheme.parse(request.scheme)), None
    else:
        assignment, holds = plan_assignment(plan, model)
    ranges, calibration = _ranges(request, model, assignment)
    quantized = _quantize(model, assignment, ranges, request.dynamic)
    quantized = with_ensemble(quantized, holds)
    digest = quantized.save(request.output_dir)
    record = SourceRecord(
        model=model.resolved,
        weights=asdict(model.weights),
        weights_file=None if request.weights is None else str(request.weights.resolve()),
        sequence=request.sequence,
        seed=request.seed,
        range_source=ranges.source,
        range_method=ranges.method,
        calibration=None if calibration is None else asdict(calibration),
        quantized_sha256=digest,
        plan_sha256=None if request.plan is None else _sha256(request.plan),
        remarks=_remarks(model, ranges),
    )
    files.write_text(request.output_dir / SOURCE, record.to_json())
    return QuantizeResult(quantized, record, request.output_dir)


def read_plan(path: Path) -> "Plan":
    """A plan.json that hwsim plan wrote."""
    from pydantic import ValidationError

    from planner.plan import Plan

    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--plan {path}: cannot be read ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise UserError(f"--plan {path}: not a plan.json ({where}: {first['msg']})") from error


def uniform_assignment(graph: "LayerGraph", scheme: Scheme) -> dict[str, Scheme]:
    """One scheme for all products; products of two activations use the activation width on both sides."""
    both = Scheme(scheme.act_bits, scheme.act_bits) if scheme.act_bits is not None else Scheme(None, None)
    return {layer.name: both if layer.kind == "matmul" else scheme for layer in graph.products()}


def plan_assignment(
    plan: "Plan", model: "LoadedModel"
) -> "tuple[dict[str, Scheme], dict[str, tuple[tuple[int, ...], ...]] | None]":
    """Schemes of a plan, and what each network of its ensemble holds."""
    if plan.model != model.resolved:
        raise UserError(
            f"--plan: made for {plan.model}, not for {model.resolved}; pass the model it was made for"
        )
    assignment = {name: Scheme.parse(text) for name, text in plan.assignment.items()}
    products = {layer.name for layer in model.graph.products()}
    if set(assignment) != products:
        odd = sorted(set(assignment) ^ products)[0]
        raise UserError(f"--plan: layer {odd} is in only one of plan and model; make the plan again")
    if plan.ensemble is None:
        return assignment, {}
    weighted = {layer.name for layer in model.graph.products() if layer.weight is not None}
    return assignment, {
        layer.name: layer.holds for layer in plan.layers if layer.name in weighted and layer.holds
    }


def _ranges(
    request: QuantizeRequest, model: "LoadedModel", assignment: Mapping[str, Scheme]
) -> "tuple[ActRanges, DataRecord | None]":
    """Activation ranges from calibration data, or from seeded synthetic inputs where there is none."""
    from hwsim.stages.calibration import calibration_data
    from quant.observe import observe_ranges, synthetic_inputs

    if request.calibration_data is None:
        batches = synthetic_inputs(model.module, max(1, 16 // request.batch), request.seed)
        return observe_ranges(model.module, assignment, batches, source="synthetic"), None
    batches, record = calibration_data(
        request.calibration_data, model, samples=request.samples, tokenizer=request.tokenizer
    )
    return observe_ranges(model.module, assignment, batches, method=request.range_method), record


def _quantize(
    model: "LoadedModel", assignment: Mapping[str, Scheme], ranges: "ActRanges", dynamic: bool
) -> "QuantizedModel":
    from quant.qmodel import QuantizeOptions, quantize

    options = QuantizeOptions(act_kind="dynamic" if dynamic else "static")
    return quantize(model.module, assignment, ranges=ranges, options=options)


def _remarks(model: "LoadedModel", ranges: "ActRanges") -> tuple[str, ...]:
    """What a reader of the figures has to know."""
    found: list[str] = []
    if model.illustrative:
        found.append("random weights: figures are illustrative")
    if ranges.source == "synthetic":
        found.append("no calibration data: activation ranges come from synthetic inputs")
    return tuple(found)


def _sha256(path: Path) -> str:
    from hwsim.data.dataset import sha256_of_file

    return sha256_of_file(path)
