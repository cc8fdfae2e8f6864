"""``quantize``: a plan (or one scheme for all layers) becomes integer weights and activation quantizers on disk.

The directory holds `quantized.json` and `weights.safetensors` (quant/qstore.py) and `source.json`: which graph
they belong to, which weights and data they were made from, so that ``hwsim evaluate`` and ``hwsim compile`` can
load them again. Same inputs and seed give the same bytes.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from hwsim import files
from hwsim.documents import read_plan
from hwsim.errors import UserError
from hwsim.stages.provenance import weights_text
from hwsim.stages.recipe import read_recipe
from quant.scheme import Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from hwsim.data.dataset import DataRecord
    from hwsim.model.graph import LayerGraph
    from hwsim.model.load import LoadedModel
    from planner.plan import Plan
    from quant.qmodel import QuantizedModel

IMAGE_BATCH = 8
SYNTHETIC_SAMPLES = 16
SOURCE = "source.json"
PD_CHECKPOINT = "pd.part"
"""State of a running PD-Quant in the output directory: the same command continues a killed run."""
SCHEMA = "hwsim-quantized-source"
Watch = Callable[[str, str, float], None]
"""Told the phase of a recipe, what it is at, and the share of the phase that is done."""
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
    range_method: RangeMethod | None = None
    """Default: ``mse`` where there are samples."""
    dynamic: bool = False
    recipe: str | None = None
    tokenizer: Path | None = None
    batch: int | None = None
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
    recipe: str = ""
    recipe_settings: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    referee: tuple[dict[str, Any], ...] = ()
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
            for name in ("remarks", "referee"):
                document[name] = tuple(document[name])
            return cls(**document)
        except (KeyError, TypeError) as error:
            raise UserError(f"{directory / SOURCE}: a field is missing or unknown ({error})") from error


@dataclass(frozen=True)
class QuantizeResult:
    """The saved model, the float model it was made of, and its record."""

    model: "QuantizedModel"
    source: "LoadedModel"
    record: SourceRecord
    directory: Path

    def _repr_html_(self) -> str:
        from hwsim.report import notebook

        record = self.record
        ranges = {"activation ranges": record.range_source, "recipe": record.recipe or "plain rounding"}
        known = {"directory": self.directory, "layers": len(self.model.layers), **ranges}
        return notebook.facts(record.model, known) + notebook.items(record.remarks)


def run_quantize(request: QuantizeRequest, watch: Watch | None = None) -> QuantizeResult:
    """Load, place quantizers, round, save."""
    from hwsim.model.load import load_batched
    from quant.ensemble import with_ensemble

    if (request.plan is None) == (request.scheme is None):
        raise UserError("hwsim quantize: give either --plan plan.json or --scheme, for example --scheme w8a8")
    if request.recipe is not None:
        read_recipe(request.recipe)  # what is wrong with it shows before a model is loaded
    plan = None if request.plan is None else read_plan(request.plan)
    scheme = None if request.scheme is None else Scheme.parse(request.scheme)
    if request.calibration_data is not None:
        files.existing_data(request.calibration_data, "--calibration-data")
    elif request.tokenizer is not None:
        raise UserError("--tokenizer: there is no text to read; give one with --calibration-data, or drop it")
    spec = request.model or (plan.model if plan else None)
    if spec is None:
        raise UserError("hwsim quantize: --scheme needs --model")
    files.check_writable(request.output_dir)
    usual = 1 if spec.startswith("hf:") else IMAGE_BATCH
    load = partial(load_batched, spec, weights=request.weights, seed=request.seed, sequence=request.sequence)
    model = load(request.batch, usual)
    if plan is not None:
        remarks = other_weights(plan, model, request.weights)
        assignment, holds = plan_assignment(plan, model)
    else:
        assert scheme is not None
        assignment, holds, remarks = uniform_assignment(model.graph, scheme), None, ()
    if request.recipe is not None:  # it takes the place of those that the schemes name
        assignment = {name: replace(each, recipe=()) for name, each in assignment.items()}
    samples = _samples(request, model, request.batch or usual)
    smaller = (
        samples.half(request.samples) if request.batch is None and _recipe(request, assignment) else None
    )
    if smaller is not None:
        model = load(None, smaller)
        samples = _samples(request, model, smaller)
    made = _quantize(request, model, assignment, samples, watch)
    quantized = with_ensemble(made.model, holds)
    digest = quantized.save(request.output_dir)
    record = SourceRecord(
        model=model.resolved,
        weights=asdict(model.weights),
        weights_file=None if request.weights is None else str(request.weights.resolve()),
        sequence=request.sequence,
        seed=request.seed,
        range_source=made.model.range_source,
        range_method=made.range_method,
        calibration=None if samples.record is None else asdict(samples.record),
        quantized_sha256=digest,
        plan_sha256=None if request.plan is None else _sha256(request.plan),
        recipe=made.recipe,
        recipe_settings=made.recipe_settings,
        referee=made.referee,
        remarks=(*remarks, *_remarks(model, samples, made)),
    )
    files.write_text(request.output_dir / SOURCE, record.to_json())
    return QuantizeResult(quantized, model, record, request.output_dir)


def uniform_assignment(graph: "LayerGraph", scheme: Scheme) -> dict[str, Scheme]:
    """One scheme for all products; products of two activations use the activation width on both sides."""
    both = scheme.between_activations
    return {layer.name: both if layer.kind == "matmul" else scheme for layer in graph.products()}


def other_weights(plan: "Plan", model: "LoadedModel", given: Path | None) -> tuple[str, ...]:
    """A remark where the weights are not those of the plan; those of a file are not replaced by mistake."""
    made_for, own = plan.provenance.get("weights"), weights_text(model)
    if made_for is None or made_for.rpartition("sha256 ")[2] == model.weights.sha256:
        return ()
    brings_its_own = any(
        made_for.startswith(f"file, {name}, ") for name in (plan.model, Path(plan.model).name)
    )
    if made_for.startswith("file, ") and not brings_its_own and given is None:
        raise UserError(f"--weights is missing: the plan was made for weights of {made_for}; these are {own}")
    return (f"the plan was made for weights of {made_for}; these are {own}",)


def plan_assignment(
    plan: "Plan", model: "LoadedModel"
) -> "tuple[dict[str, Scheme], dict[str, tuple[tuple[int, ...], ...]] | None]":
    """Schemes of a plan, and what each network of its ensemble holds."""
    if plan.model != model.resolved and not _saved_alike(plan.model, model.resolved):
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
    weighted = {layer.name for layer in model.graph.products() if layer.packed_weight is not None}
    return assignment, {
        layer.name: layer.holds for layer in plan.layers if layer.name in weighted and layer.holds
    }


def _saved_alike(one: str, other: str) -> bool:
    """A module handed over in Python is saved wherever its results lie; its layers are compared in any case."""
    return one.endswith(".pt2") and Path(one).name == Path(other).name


@dataclass(frozen=True)
class _Samples:
    """Inputs that ranges and methods are fitted on, and where they come from."""

    batches: "list[tuple[Tensor, ...]]"
    source: str
    record: "DataRecord | None"

    def half(self, asked: int) -> int | None:
        """Where the samples do not fill two batches, the size at which there is one to fit on and one to hold out."""
        count = 0 if self.record is None else min(asked, self.record.count)
        return count // 2 if 1 < count < 2 * len(self.batches[0][0]) else None


@dataclass(frozen=True)
class _Made:
    """A quantized model and how it was made."""

    model: "QuantizedModel"
    range_method: str
    recipe: str = ""
    recipe_settings: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    referee: tuple[dict[str, Any], ...] = ()
    unclipped: bool = False


def _samples(request: QuantizeRequest, model: "LoadedModel", batch: int) -> _Samples:
    """Calibration data, or seeded synthetic inputs where there is none."""
    from hwsim.stages.calibration import calibration_data
    from quant.observe import synthetic_inputs

    if request.calibration_data is None:
        count = max(2, SYNTHETIC_SAMPLES // batch)
        return _Samples(
            synthetic_inputs(model.module, count, request.seed, model.example_inputs), "synthetic", None
        )
    batches, record = calibration_data(
        request.calibration_data, model, samples=request.samples, tokenizer=request.tokenizer
    )
    return _Samples(batches, "calibration", record)


def _quantize(
    request: QuantizeRequest,
    model: "LoadedModel",
    assignment: Mapping[str, Scheme],
    samples: _Samples,
    watch: Watch | None,
) -> _Made:
    """Plain rounding on observed ranges, or the methods of a recipe."""
    from quant.data_free import ranges_without_data
    from quant.moments import data_free_moments
    from quant.observe import observe_moments, observe_ranges
    from quant.qmodel import QuantizeOptions, quantize

    recipe = _recipe(request, assignment)
    if recipe:
        return _with_recipe(request, model, assignment, samples, recipe, watch or _nobody)
    if samples.record is None:
        ranges = ranges_without_data(model.module, assignment, samples.batches)
    else:
        ranges = observe_ranges(
            model.module,
            assignment,
            samples.batches,
            method=request.range_method or "mse",
            source=samples.source,
        )
    by_column = [name for name, scheme in assignment.items() if scheme.axis == "columns"]
    moments = observe_moments(model.module, by_column, samples.batches) if by_column else {}
    if samples.record is None:
        known = data_free_moments(model.module) if by_column else {}
        moments |= {name: known[name].second.float() for name in by_column if name in known}
    options = QuantizeOptions(act_kind="dynamic" if request.dynamic else "static")
    made = quantize(model.module, assignment, ranges=ranges, moments=moments, options=options)
    return _Made(made, ranges.method)


def _recipe(request: QuantizeRequest, assignment: Mapping[str, Scheme]) -> str:
    """The recipe asked for, else the one that the schemes of all layers share."""
    if request.recipe is not None:
        return request.recipe
    found = {"+".join(scheme.recipe) for scheme in assignment.values() if not scheme.is_float}
    named = found - {""}
    if len(named) > 1:
        raise UserError(
            f"recipes {', '.join(sorted(named))}: methods walk the whole network, so all layers take the same; "
            "choose one with --recipe"
        )
    return named.pop() if named else ""


def _with_recipe(
    request: QuantizeRequest,
    model: "LoadedModel",
    assignment: Mapping[str, Scheme],
    samples: _Samples,
    recipe: str,
    watch: Watch,
) -> _Made:
    from quant.pipeline import PolishContext, run_recipe

    if request.dynamic:
        raise UserError(
            "--dynamic: the methods of a recipe fit static activation ranges; drop one of the two"
        )
    if request.range_method is not None:
        raise UserError(
            "--range-method: a recipe sets the ranges itself; add mse or percentile to it instead"
        )
    wanted = read_recipe(recipe)
    if request.recipe is None and "bc" in wanted.steps:
        # a plan counts its biases as free, so they are those of the layers and not of groups of positions
        wanted = replace(wanted, settings={"bc": {"axes": "channel"}})
    checkpoint = request.output_dir / PD_CHECKPOINT

    def at_layer(name: str, done: int, total: int) -> None:
        watch("calibrating", name, done / total)

    def at_unit(name: str, done: int, units: int, iteration: int, iterations: int) -> None:
        watch("PD-Quant", name, (done + iteration / iterations) / units)

    result = run_recipe(
        model.module,
        dict(assignment),
        samples.batches,
        wanted,
        progress=at_layer,
        polish=PolishContext(model.batch_norms, checkpoint, at_unit),
    )
    checkpoint.unlink(missing_ok=True)
    return _Made(
        replace(result.quantized_model(), range_source=samples.source),
        "by recipe",
        str(wanted),
        {step: dict(values) for step, values in result.recipe.settings.items()},
        tuple(asdict(verdict) for verdict in result.verdicts),
        not {"mse", "percentile"} & set(wanted.steps),
    )


def _nobody(phase: str, detail: str, share: float) -> None:
    """Watches nothing."""


def _remarks(model: "LoadedModel", samples: _Samples, made: _Made) -> tuple[str, ...]:
    """What a reader of the figures has to know."""
    found: list[str] = []
    if made.unclipped:
        found.append("the recipe clips no ranges: those of activations are min-max; mse+... clips them")
    if model.illustrative:
        found.append("random weights: figures are illustrative")
    if made.model.range_source == "data-free":
        found.append(
            "no calibration data: activation ranges come from the norms, elsewhere from synthetic inputs"
        )
    elif samples.source == "synthetic":
        found.append("no calibration data: activation ranges come from synthetic inputs")
    outputs = len(model.graph.outputs)
    if made.referee and outputs > 1:
        found.append("the referee added up the divergences of all outputs that hold fractions")
    dropped = [_with_reason(verdict) for verdict in made.referee if not verdict["kept"]]
    if dropped:
        found.append(f"dropped by the held-out referee: {', '.join(dropped)}")
    return tuple(found)


def _with_reason(verdict: Mapping[str, Any]) -> str:
    """An item, and in brackets what else there is to say of it."""
    return f"{verdict['item']} ({verdict['reason']})" if verdict["reason"] else str(verdict["item"])


def _sha256(path: Path) -> str:
    from hwsim.data.dataset import sha256_of_file

    return sha256_of_file(path)
