"""PD-Quant (arXiv 2212.07048): unit-wise AdaRound under QDrop, steered by the difference of final predictions.

Starts from a calibrated network, walks its units in order on the quantized path, trains each (pd_training),
and keeps the result only if the held-out prediction difference, at the temperature of the loss, did not grow: at a
temperature of 1 a few confident samples carry the mean, and good units were lost to them. With ``lambda_r=inf`` and
no batch-norm memory it is QDrop. State is written to one checkpoint file; a killed run resumes bit for bit.
"""
# pyright: basic
# torch's stubs leave most tensor methods untyped.

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from quant.activation import ActQuantizer
from quant.errors import QuantError
from quant.methods.activation_cache import ActivationCache
from quant.methods.adaround import learned_term, with_codes
from quant.methods.calibrate import Calibrated
from quant.methods.checkpoint import read_checkpoint, write_checkpoint
from quant.methods.distribution_correction import BatchNormMemory, correct_inputs, refuse_layer_norm
from quant.methods.graph_units import Unit, UnitPlan, cut_into_units
from quant.methods.interpret import GraphRunner, Placement, value_of_terms
from quant.methods.pd_options import PdOptions
from quant.methods.pd_polish import PolishData, polish
from quant.methods.pd_training import UnitData, UnitTraining, hard_placement, start_training, train_unit
from quant.methods.prediction_loss import prediction_difference
from quant.methods.retained_heap import retained_heap
from quant.methods.sample_axis import sample_leading
from quant.predictions import output_power

UnitProgress = Callable[[str, int, int, int, int], None]
"""(unit, units done, units, iteration, iterations); the polish counts as one more unit"""


def pd_quant(
    calibrated: Calibrated,
    batches: Sequence[Sequence[Tensor]],
    options: PdOptions,
    *,
    memory: Mapping[str, BatchNormMemory] | None = None,
    checkpoint: Path | None = None,
    progress: UnitProgress | None = None,
) -> Calibrated:
    """Learn rounding and activation scales of every unit; batches have the batch size of the exported graph."""
    run = _Run(calibrated, batches, options, dict(memory or {}), checkpoint, progress)
    with retained_heap():
        return run.finish()


@dataclass(eq=False)
class _Streams:
    """Tensors of all samples at the current cut."""

    exact: Tensor
    quantized: Tensor


class _Run:
    def __init__(
        self,
        calibrated: Calibrated,
        batches: Sequence[Sequence[Tensor]],
        options: PdOptions,
        memory: dict[str, BatchNormMemory],
        checkpoint: Path | None,
        progress: UnitProgress | None,
    ) -> None:
        sizes = {len(batch[0]) for batch in batches}
        if len(sizes) != 1:
            raise QuantError(
                "pd: all calibration batches must have one size (the size the model was exported with)"
            )
        self.size = sizes.pop()
        self.options = replace(options, batch=self.size)
        self.runner, self.memory = GraphRunner(calibrated.module), memory
        if memory:
            refuse_layer_norm(self.runner)
        self.calibrated, self.placement = calibrated, calibrated.placement
        self.inputs = tuple(torch.cat([batch[i] for batch in batches]) for i in range(len(batches[0])))
        self.count = len(self.inputs[0])
        held = round(options.holdout * len(batches))
        self.held = (max(held, 1) if options.holdout > 0 and len(batches) > 1 else 0) * self.size
        leading = sample_leading(self.runner, batches[0])
        self.plan: UnitPlan = cut_into_units(self.runner, leading)
        if not {self.runner.output, self.plan.units[-1].exit} <= leading:
            raise QuantError(
                "pd: the samples do not lie along the first axis of the model's output; return it as (samples, ...)"
            )
        polishes = options.polish > 0 and math.isfinite(options.lambda_r)
        self.stages = len(self.plan.units) + polishes
        self.checkpoint, self.progress = checkpoint, progress
        self.cache = ActivationCache(options.memory)
        self.run = _fingerprint(calibrated, self.inputs, options) if checkpoint is not None else ""
        self.notes = dict(calibrated.notes)
        self.trained: list[str] = []

    def finish(self) -> Calibrated:
        saved = read_checkpoint(self.checkpoint) if self.checkpoint is not None else None
        if saved is not None and saved[0].get("run") != self.run:
            saved = None  # of another network, other samples or other options: it will be replaced
        with torch.no_grad():
            logits = self._batched(self._exact_logits)
            streams = self._enter()
            for number, unit in enumerate(self.plan.units):
                resume = (
                    saved
                    if saved is not None and saved[0]["unit"] == number and saved[0]["iteration"]
                    else None
                )
                if saved is not None and number < saved[0]["unit"]:
                    self._restore(unit, saved)
                else:
                    self._train(number, unit, streams, logits, resume)
                streams = self._advance(unit, streams)
            if self.stages > len(self.plan.units):
                self._polish(logits)
        return Calibrated(self.calibrated.module, self.placement, self.notes)

    def _polish(self, logits: Tensor) -> None:
        def after_step(iteration: int) -> None:
            if self.progress is not None:
                self.progress("polish", self.stages - 1, self.stages, iteration, self.options.polish)

        data = PolishData(self.inputs, logits, self.size, self.held)
        self.placement, before, after = polish(self.runner, self.placement, data, self.options, after_step)
        self.notes["pd polish"] = f"held-out difference {before:.5g} -> {after:.5g}"

    # data

    def _batched(self, compute: Callable[[Tensor], Tensor], count: int | None = None) -> Tensor:
        """Results for the first samples (all, unless told), a graph batch at a time."""
        whole: Tensor | None = None
        count = self.count if count is None else count
        for part in torch.arange(count).split(self.size):
            found = compute(part)
            if whole is None:
                whole = self.cache.empty((count, *found.shape[1:]), found.dtype)
            whole[part] = found
        assert whole is not None, "pd: no samples"
        return whole

    def _exact_logits(self, numbers: Tensor) -> Tensor:
        return self.runner.logits([tensor[numbers] for tensor in self.inputs])

    def _side(self, numbers: Tensor) -> dict[fx.Node, Any]:
        """Values no product influences, and the graph inputs, for some samples."""
        env: dict[fx.Node, Any] = self.runner.feed([tensor[numbers] for tensor in self.inputs])
        self.runner.run(env, self.plan.side, None, frozenset({*self.plan.side, *env}))
        return env

    def _enter(self) -> _Streams:
        entry = self.plan.units[0].entry

        def compute(numbers: Tensor) -> Tensor:
            env = self._side(numbers)
            if entry not in env:
                self.runner.run(env, [entry], None, frozenset(env))
            return env[entry]

        first = self._batched(compute)
        return _Streams(first, first)

    def _through(self, unit: Unit, x: Tensor, placement: Placement | None) -> Tensor:
        def compute(numbers: Tensor) -> Tensor:
            env = {**self._side(numbers), unit.entry: x[numbers]}
            self.runner.run(env, unit.nodes, placement, frozenset({unit.exit}))
            return env[unit.exit]

        return self._batched(compute)

    def _advance(self, unit: Unit, streams: _Streams) -> _Streams:
        return _Streams(
            self._through(unit, streams.exact, None), self._through(unit, streams.quantized, self.placement)
        )

    # one unit

    def _tail(self, unit: Unit) -> tuple[fx.Node, ...]:
        number = self.plan.units.index(unit)
        return tuple(node for later in self.plan.units[number + 1 :] for node in later.nodes)

    def _train(
        self,
        number: int,
        unit: Unit,
        streams: _Streams,
        logits: Tensor,
        saved: tuple[dict[str, Any], dict[str, Tensor]] | None,
    ) -> None:
        training = start_training(self.runner, unit, self.placement, set(self.trained), self.options)
        if not training.has_variables:
            return
        fit = self.count - self.held
        corrected = streams.exact[:fit]
        if self.memory:
            corrected = self._batched(lambda part: self._corrected(unit, streams.exact[part]), fit)
        target = self._batched(lambda part: self._unit_output(unit, corrected[part], part), fit)
        if saved is not None:
            training.restore(int(saved[0]["iteration"]), saved[1])

        def after_step(iteration: int) -> None:
            if iteration % self.options.checkpoint_every == 0 and iteration < self.options.iterations:
                self._save(number, training)
            if self.progress is not None:
                self.progress(unit.name, number, self.stages, iteration, self.options.iterations)

        data = UnitData(streams.quantized[:fit], corrected, target, logits[:fit], self._side)
        train_unit(self.runner, training, self.placement, data, self._tail(unit), after_step)
        self._accept(unit, training, streams, logits)
        if self.checkpoint is not None:
            self._save(number + 1, None)

    def _corrected(self, unit: Unit, x: Tensor) -> Tensor:
        return correct_inputs(self.runner, unit, x, self.memory, self.options.correction)

    def _unit_output(self, unit: Unit, x: Tensor, numbers: Tensor) -> Tensor:
        env = {**self._side(numbers), unit.entry: x}
        self.runner.run(env, unit.nodes, None, frozenset({unit.exit}))
        return env[unit.exit]

    def _accept(self, unit: Unit, training: UnitTraining, streams: _Streams, logits: Tensor) -> None:
        """Keep the trained unit unless its held-out prediction difference grew (trap D10)."""
        trained = hard_placement(self.placement, training)
        keys = list(training.scales)
        if self.held:
            before = self._held_out(unit, self.placement, streams, logits)
            after = self._held_out(unit, trained, streams, logits)
            verdict = "kept" if after <= before else "reverted"
            self.notes[f"pd {unit.name}"] = f"{verdict}: held-out difference {before:.5g} -> {after:.5g}"
            if after > before:
                return
        self.placement = trained
        self.trained += keys

    def _held_out(self, unit: Unit, placement: Placement, streams: _Streams, logits: Tensor) -> float:
        """Prediction difference on the held-out samples with this unit quantized and all later ones float."""
        total, numbers = 0.0, torch.arange(self.count - self.held, self.count)
        parts, power = numbers.split(self.size), output_power(logits)
        for part in parts:
            side = self._side(part)
            env = {**side, unit.entry: streams.quantized[part]}
            self.runner.run(env, unit.nodes, placement, frozenset({unit.exit, *side}))
            self.runner.run(env, self._tail(unit), None, frozenset({self.runner.output, *side}))
            found = env[self.runner.output]
            total += float(prediction_difference(logits[part], found, self.options.temperature, power))
        return total / len(parts)

    # checkpoint

    def _save(self, number: int, training: UnitTraining | None) -> None:
        """Codes and scales of finished units, and the state of the one under training."""
        if self.checkpoint is None:
            return
        tensors: dict[str, Tensor] = {}
        scales: dict[str, float] = {}
        for unit in self.plan.units[:number]:
            for product in unit.products:
                layer = self.placement.layers.get(product.name)
                if layer is not None and layer.terms:
                    tensors[f"codes.{product.name}"] = layer.terms[learned_term(layer.terms)].codes
                if layer is not None and layer.bias is not None:
                    tensors[f"bias.{product.name}"] = layer.bias
                for key in layer.inputs if layer is not None else ():
                    grid = self.placement.activations.get(key) if key is not None else None
                    if key is not None and isinstance(grid, ActQuantizer):
                        scales[key] = grid.scale
        state: dict[str, Any] = {"unit": number, "iteration": 0, "run": self.run, "scales": scales}
        state["trained"], state["notes"] = self.trained, self.notes
        if training is not None:
            state["iteration"] = training.iteration
            tensors |= training.state()
        write_checkpoint(self.checkpoint, state, tensors)

    def _restore(self, unit: Unit, saved: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
        """Put a finished unit back."""
        state, tensors = saved
        self.trained, self.notes = list(state["trained"]), dict(state["notes"])
        for product in unit.products:
            layer = self.placement.layers.get(product.name)
            if layer is None:
                continue
            if layer.terms:
                codes = tensors[f"codes.{product.name}"]
                terms = with_codes(layer.terms, learned_term(layer.terms), codes)
                shape = tuple(layer.weight.shape) if layer.weight is not None else ()
                bias = tensors.get(f"bias.{product.name}")
                layer = replace(layer, terms=terms, weight=value_of_terms(terms, shape), bias=bias)
                self.placement = self.placement.with_layer(product.name, layer)
            for key in layer.inputs:
                grid = self.placement.activations.get(key) if key is not None else None
                if key is not None and isinstance(grid, ActQuantizer):
                    self.placement = self.placement.with_activation(
                        key, replace(grid, scale=state["scales"][key])
                    )


def _fingerprint(calibrated: Calibrated, inputs: Sequence[Tensor], options: PdOptions) -> str:
    """What a checkpoint must have been made from to be continued."""
    digest = hashlib.sha256(repr(options).encode())
    for name, layer in sorted(calibrated.placement.layers.items()):
        digest.update(f"{name} {layer.inputs}".encode())
        stored = [t for term in layer.terms for t in (term.codes, term.scale)]
        for tensor in stored if layer.bias is None else [*stored, layer.bias]:
            digest.update(tensor.contiguous().numpy().tobytes())
    digest.update(repr(sorted(calibrated.placement.activations.items(), key=lambda item: item[0])).encode())
    for tensor in inputs:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
