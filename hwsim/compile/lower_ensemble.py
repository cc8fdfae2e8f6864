"""Telescoped predictors: the networks of an ensemble as one program, side by side on different units.

``F = sum of the expanded networks - (P - 1) base`` (quant/ensemble.py). The expanded networks exchange nothing, so
each unit runs whole networks and the only wait is at the end. The base network, which would be left over on
one unit, is spread over all of them layer by layer.
"""
# pyright: basic

from collections.abc import Mapping
from dataclasses import replace

from hwsim.compile.emit import Emitter
from hwsim.compile.expr import leaf, op
from hwsim.compile.isa import Isa
from hwsim.compile.lower import lower
from hwsim.compile.program import Buffer, Port, Program
from hwsim.compile.together import balanced
from hwsim.compile.values import View, row_major
from quant.ensemble import networks, predictor_count
from quant.qmodel import QuantizedModel


def lower_model(
    model: QuantizedModel, isa: Isa, *, units: int = 1, ways: Mapping[str, str] | None = None
) -> Program:
    """The quantized model as deployed: one network, or its ensemble on ``units`` cores."""
    if predictor_count(model) == 1:
        return lower(model.integer(), isa, units=units, ways=ways)
    base, *expanded = networks(model)
    # A predictor without residual orders is the base itself: F + (base - base).
    expanded = [network for network in expanded if _terms(network) != _terms(base)]
    if len(expanded) < 2:
        return lower((expanded or [base])[0].integer(), isa, units=units, ways=ways)
    parts = [lower(network.integer(), isa) for network in expanded]
    ground = lower(base.integer(), isa, units=units, ways=ways)
    merged = Program(inputs=ground.inputs)
    shares = balanced([sum(step.macs for step in part.steps) for part in parts], units)
    for unit, share in enumerate(shares):
        for index in share:
            _add(merged, parts[index], f"predictor{index}", unit if len(shares) > 1 else -1)
    _add(merged, ground, "base", -1)
    emitter = Emitter(isa)
    emitter.program = merged
    for index, port in enumerate(ground.outputs):
        emitter.layer = port.name
        runs = [part.outputs[index].buffer for part in parts]
        merged.outputs.append(_combined(emitter, port, runs))
    return merged


def _terms(network: QuantizedModel) -> dict[str, int]:
    return {name: len(layer.terms) for name, layer in network.layers.items()}


def _add(merged: Program, part: Program, name: str, unit: int) -> None:
    """The steps of one network, reading the inputs of the whole; its constants get names of their own."""
    inputs = {own.buffer: port.buffer for own, port in zip(part.inputs, merged.inputs, strict=True)}
    for buffer in part.constants():
        buffer.name = f"{name}.{buffer.name}"
    merged.steps.extend(
        replace(step, buffers=tuple(inputs.get(b, b) for b in step.buffers), unit=unit) for step in part.steps
    )


def _combined(emitter: Emitter, ground: Port, runs: list[Buffer]) -> Port:
    """Sum of the runs minus (P - 1) times the base, in that order."""
    tree = leaf(1)
    for index in range(1, len(runs)):
        tree = op("add", tree, leaf(index + 1))
    tree = op("sub", tree, op("mul", float(len(runs) - 1), leaf(len(runs) + 1)))
    views = [View(buffer, 0, ground.shape, row_major(ground.shape)) for buffer in [*runs, ground.buffer]]
    result = emitter.work(ground.buffer.elements)
    emitter.elementwise(tree, views, View(result, 0, ground.shape, row_major(ground.shape)))
    return Port(ground.name, ground.shape, ground.dtype, result)
