"""Apply a recipe to a network and let held-out samples referee each item (methods.md 9.6, 9.7).

The items of the recipe are tried in canonical order, each on top of those kept so far. A fifth of the batches
is never used for fitting; an item that raises the held-out KL to the float logits by more than the tolerance
is dropped, and the report says so.
"""
# pyright: basic
# torch's stubs leave most tensor methods untyped.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, fx

from quant.equalize import equalized
from quant.errors import QuantError
from quant.first_order import FIRST_ORDERS
from quant.log_codes import ZeroMode
from quant.methods.bias_choice import CANDIDATES, PATHS, BiasKind, choose_bias, likely
from quant.methods.bias_compensation import BiasAxes, BiasPath, Shrinkage
from quant.methods.calibrate import Calibrated, CalibrationOptions, Progress, calibrate
from quant.methods.dual_clipping import DualClippingOptions
from quant.methods.float_outputs import float_outputs
from quant.methods.gptq import GptqOptions
from quant.methods.held_out import ROUND_OFF, divergences, float_predictions, grew
from quant.methods.interpret import GraphRunner, integer_model
from quant.methods.layer_norm_reparam import TargetScale
from quant.methods.output_gain import Gain
from quant.methods.pd_options import PdOptions, preset_options
from quant.methods.retained_heap import retained_heap
from quant.model_pass import attribute
from quant.qmodel import QuantizedModel
from quant.recipe import ALIASES, Recipe
from quant.scheme import Scheme

if TYPE_CHECKING:
    from quant.methods.pd_quant import UnitProgress

Batch = Sequence[Tensor]
LOG_BASES = {"sqrt2": 2, "2": 1}
"""Bases of the log codes of attention weights, with their steps per octave."""


@dataclass(frozen=True)
class Verdict:
    """What the referee saw of one item; of one that was not tried, before and after are the same."""

    item: str
    before: float
    after: float
    kept: bool
    reason: str = ""
    """Why it was not tried, what came of it, or why it was kept although it looks worse."""


@dataclass(frozen=True, eq=False)
class PipelineResult:
    """The calibrated network, the recipe that survived, and the referee's record."""

    calibrated: Calibrated
    recipe: Recipe
    verdicts: tuple[Verdict, ...]
    fitted_batches: int
    held_out_batches: int

    def quantized_model(self) -> QuantizedModel:
        """Real integer layers of the result."""
        return integer_model(self.calibrated.module, self.calibrated.placement)


def uniform_assignment(
    products: Sequence[str], scheme: Scheme, *, first_last_bits: int | None = None
) -> dict[str, Scheme]:
    """One scheme for all products; first and last at another width where given."""
    assignment = dict.fromkeys(products, scheme)
    if first_last_bits is not None and not scheme.is_float:
        act = None if scheme.act_bits is None else first_last_bits
        for name in (products[0], products[-1]):
            assignment[name] = Scheme(first_last_bits, act)
    return assignment


def calibration_options(recipe: Recipe) -> CalibrationOptions:
    """The calibration pass a recipe asks for."""
    steps = set(recipe.steps)
    options = CalibrationOptions()
    if steps & {"mse", "percentile"}:
        rule = "mse" if "mse" in steps else "percentile"
        options = replace(options, activation_ranges=rule, weight_scales="mse")
    if "reparam" in steps:
        target = cast(TargetScale, recipe.setting("reparam", "target"))
        options = replace(options, reparameterize=True, scale_target=target)
    if "clip" in steps:
        clip = DualClippingOptions(
            steps=int(recipe.setting("clip", "steps")),
            learning_rate=float(recipe.setting("clip", "learning_rate")),
            batch_tokens=int(recipe.setting("clip", "batch_tokens")),
        )
        options = replace(options, clip=clip)
    if "logsoftmax" in steps:
        base = str(recipe.setting("logsoftmax", "base"))
        zero = cast(ZeroMode, recipe.setting("logsoftmax", "zero"))
        options = replace(options, log_softmax=zero, log_steps=LOG_BASES[base])
    operator = next((step for step in recipe.steps if step in FIRST_ORDERS), None)
    options = replace(options, first_order=operator)
    if "gptq" in steps:
        settings = GptqOptions(
            damp=float(recipe.setting("gptq", "damp")),
            block=int(recipe.setting("gptq", "block")),
            act_order=bool(recipe.setting("gptq", "act_order")),
        )
        options = replace(options, gptq=settings, asymmetric="asymmetric" in steps)
    if "bc" in steps:
        path, gain = bias_kinds(recipe)[0]
        options = replace(
            options,
            bias=cast(Shrinkage, recipe.setting("bc", "shrinkage")),
            bias_path=path,
            bias_axes=cast(BiasAxes, recipe.setting("bc", "axes")),
            bias_gain=gain,
        )
    return options


def bias_kinds(recipe: Recipe) -> list[BiasKind]:
    """The biases that the recipe leaves to choose from: one where it names the path."""
    path, gain = str(recipe.setting("bc", "path")), str(recipe.setting("bc", "gain"))
    powers = "pow2" in recipe.steps
    if powers and gain not in ("auto", "none"):
        raise QuantError("recipe bc.gain: scales made powers of two by pow2 take no gain; set it to none")
    if path != "auto":
        named = cast(BiasPath, {"fp": "float"}.get(path, path))
        return [(named, "none" if gain == "auto" else cast(Gain, gain))]
    if gain == "auto" and not powers:
        return list(CANDIDATES)
    return [(offered, "none" if powers else cast(Gain, gain)) for offered in PATHS]


def expanded(
    assignment: Mapping[str, Scheme], recipe: Recipe, products_with_weight: set[str]
) -> dict[str, Scheme]:
    """The assignment with ``pipe``'s order where a layer has none of its own."""
    if "pipe" not in recipe.steps:
        return dict(assignment)
    order = int(recipe.setting("pipe", "order"))
    return {
        name: replace(scheme, order=order)
        if name in products_with_weight and scheme.order == 1 and not scheme.is_float
        else scheme
        for name, scheme in assignment.items()
    }


@dataclass(frozen=True)
class PolishContext:
    """What the step ``pd`` takes beside the samples: batch-norm memory, a checkpoint file, progress by unit."""

    batch_norms: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict[str, tuple[Tensor, Tensor]])
    """By layer, mean and deviation that the folded batch norm gave each output channel in training."""
    checkpoint: Path | None = None
    progress: "UnitProgress | None" = None


@retained_heap()
def apply_recipe(
    module: fx.GraphModule,
    assignment: Mapping[str, Scheme],
    batches: Sequence[Batch],
    recipe: Recipe,
    progress: Progress | None = None,
    polish: PolishContext | None = None,
    guard: Sequence[Batch] = (),
) -> Calibrated:
    """Fit one recipe on all batches, without a referee; a bias that it leaves open is chosen on them, too.

    The bias is fitted in a pass of its own, on a rounding that did not see it: that is cheaper than to round again
    for it, and no worse. PD-Quant judges what it learns by the batches of ``guard``, if there are any, and otherwise
    holds out some of ``batches``.
    """
    polish = polish or PolishContext()
    if "dfq" in recipe.steps:
        module, _ = equalized(module)
        polish = replace(polish, batch_norms=_remembered(module, polish.batch_norms))
    plan, options = _plan(module, assignment, recipe), calibration_options(recipe)
    calibrated = calibrate(module, plan, batches, replace(options, bias=None), progress)
    if "pd" in recipe.steps:
        calibrated = _polished(calibrated, batches, guard, recipe, polish)
    if "bc" in recipe.steps:
        calibrated, _ = _compensated(calibrated, assignment, batches, recipe, progress)
    return calibrated


def _compensated(
    rounded: Calibrated,
    assignment: Mapping[str, Scheme],
    batches: Sequence[Batch],
    recipe: Recipe,
    progress: Progress | None,
) -> tuple[Calibrated, Recipe]:
    """What the recipe's other steps have made, with its bias; the recipe names the kind that served best."""
    plan, options = _plan(rounded.module, assignment, recipe), calibration_options(recipe)
    kinds, wanted = bias_kinds(recipe), None
    if len(kinds) > 1:
        wanted = float_outputs(rounded.module, plan, batches, options.memory)
        if kinds == list(CANDIDATES):
            kinds = likely(plan, options, sum(len(batch[0]) for batch in batches))
        path, gain = choose_bias(rounded, plan, options, kinds, batches, wanted)
        bias = {**recipe.settings.get("bc", {}), "path": path, "gain": gain}
        recipe = replace(recipe, settings={**recipe.settings, "bc": bias})
        options = calibration_options(recipe)
    return calibrate(rounded.module, plan, batches, options, progress, rounded, wanted), recipe


def _plan(module: fx.GraphModule, assignment: Mapping[str, Scheme], recipe: Recipe) -> dict[str, Scheme]:
    products = GraphRunner(module).products.values()
    return expanded(assignment, recipe, {p.name for p in products if p.kind != "matmul"})


def _remembered(
    module: fx.GraphModule, known: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """What batch norms gave the outputs of an equalised graph, whose channels have other sizes than before."""
    scaled = {
        product.name: product.node.meta["batch_norm"]
        for product in GraphRunner(module).products.values()
        if "batch_norm" in product.node.meta
    }
    return {name: scaled.get(name, statistics) for name, statistics in known.items()}


def architecture_of(runner: GraphRunner) -> str:
    """The preset of PD-Quant that fits a network, by its norms and convolutions."""
    if any("layer_norm" in str(node.target) or "rms_norm" in str(node.target) for node in runner.nodes):
        return "transformer"
    grouped = [p for p in runner.products.values() if p.conv is not None and p.conv.groups > 1]
    if any(attribute(runner.module, str(product.weight)).shape[1] == 1 for product in grouped):
        return "mobilenet"
    return "regnet" if grouped else "resnet"


def _pd_options(recipe: Recipe, architecture: str) -> PdOptions:
    """The settings of PD-Quant; an architecture that the recipe names goes before the one given."""
    named = str(recipe.setting("pd", "architecture"))
    preset = str(recipe.setting("pd", "preset"))
    options = preset_options(preset, architecture if named == "auto" else named)
    iterations = int(recipe.setting("pd", "iterations"))
    if iterations < 0:
        return options
    return replace(options, iterations=iterations, polish=iterations if options.polish else 0)


def _polished(
    calibrated: Calibrated,
    batches: Sequence[Batch],
    guard: Sequence[Batch],
    recipe: Recipe,
    context: PolishContext,
) -> Calibrated:
    """What PD-Quant makes of a calibrated network; its activation scales are learned and stay as they are."""
    from quant.methods.distribution_correction import BatchNormMemory
    from quant.methods.pd_quant import pd_quant  # the heaviest step, loaded when asked for

    if all(product.kind == "matmul" for product in GraphRunner(calibrated.module).products.values()):
        return calibrated  # no stored weights, no rounding to learn
    architecture = str(recipe.setting("pd", "architecture"))
    if architecture == "auto":
        architecture = architecture_of(GraphRunner(calibrated.module))
    options = _pd_options(recipe, architecture)
    corrects = architecture != "transformer" and options.lambda_r != float("inf")
    memory = {
        name: BatchNormMemory.of_output(mean, deviation)
        for name, (mean, deviation) in context.batch_norms.items()
        if corrects
    }
    if guard and options.holdout > 0:
        batches = [*batches, *guard]
        options = replace(options, holdout=len(guard) / len(batches))
    made = pd_quant(
        calibrated,
        batches,
        options,
        memory=memory,
        checkpoint=context.checkpoint,
        progress=context.progress,
    )
    return replace(made, folded=frozenset(made.placement.activations))


def check_recipe(recipe: Recipe) -> None:
    """Find what is wrong with a recipe before anything is fitted: what is dropped later must not decide."""
    calibration_options(recipe)
    if "pd" in recipe.steps:
        _pd_options(recipe, "resnet")


def run_recipe(
    module: fx.GraphModule,
    assignment: Mapping[str, Scheme],
    batches: Sequence[Batch],
    recipe: Recipe,
    *,
    holdout: float = 0.2,
    tolerance: float = 0.01,
    progress: Progress | None = None,
    polish: PolishContext | None = None,
) -> PipelineResult:
    """Fit item by item, keeping each unless the held-out prediction difference grows.

    It grows if it does by more than ``tolerance``, and by more than noise (`held_out.grew`): an item that helps is
    not given up for what few samples cannot tell. A bias is asked to stay within the tolerance.
    Batches must be interchangeable (shuffle beforehand): the last ``holdout`` share of them is held out.
    With ``holdout=0`` every item is kept and nothing is measured. An item that relies on a step that was dropped is not
    tried; of an alias that is dropped the steps are tried one by one.
    """
    check_recipe(recipe)
    if not 0 <= holdout < 1:
        raise QuantError(f"pipeline holdout {holdout:g}: use a share from 0 to below 1")
    held = round(holdout * len(batches))
    held = max(held, 1) if holdout > 0 else 0
    if held >= len(batches):
        raise QuantError(
            "recipe: one batch of samples leaves none to fit on beside the one that is held out; give more samples"
        )
    fit, test = batches[: len(batches) - held], batches[len(batches) - held :]
    if not test:
        return PipelineResult(
            apply_recipe(module, assignment, fit, recipe, progress, polish), recipe, (), len(fit), 0
        )
    reference = float_predictions(module, test)
    kept = recipe.only(())
    best = apply_recipe(module, assignment, fit, kept, progress)
    before = divergences(best, test, reference)
    verdicts: list[Verdict] = []
    waiting = [item for item in recipe.items if item != "rtn"]
    while waiting:
        item = waiting.pop(0)
        lacking = kept.lacks(item)
        if lacking is not None and any(item in ALIASES.get(later, ()) for later in waiting):
            continue  # that alias brings it along
        if lacking is not None:
            score = float(before.mean())
            verdicts.append(Verdict(item, score, score, False, f"needs {lacking}, which was dropped"))
            continue
        trial = replace(kept, items=(*kept.items, item))
        if item == "bc":
            calibrated, trial = _compensated(best, assignment, fit, trial, progress)
        else:
            calibrated = apply_recipe(module, assignment, fit, trial, progress, polish, test)
        after = divergences(calibrated, test, reference)
        bound = float(before.mean()) * (1 + tolerance) + ROUND_OFF
        good, reason = float(after.mean()) <= bound or torch.equal(after, before), ""
        if not good and item != "bc" and tolerance >= 0 and not grew(before, after, tolerance):
            good, reason = True, f"worse by no more than the noise of {len(after)} held-out samples"
        known = {*kept.steps, *waiting}
        parts = [] if good else [step for step in ALIASES.get(item, ()) if step not in known]
        if parts:
            reason = "its steps were tried one by one"
        verdicts.append(Verdict(item, float(before.mean()), float(after.mean()), good, reason))
        waiting = [*parts, *waiting]
        if good:
            before, kept, best = after, trial, calibrated
    return PipelineResult(best, kept, tuple(verdicts), len(fit), len(test))
