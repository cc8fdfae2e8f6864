"""Residual sums written over the residual: the same bits from less memory, and never over a value still wanted."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")
import torch

from hwsim.compile import lower as lowering
from hwsim.compile.check import run_program
from hwsim.compile.isa import host_isa
from hwsim.compile.program import plan_memory
from hwsim.model.load import load_model
from hwsim.stages.quantize import uniform_assignment
from quant.observe import observe_ranges
from quant.qmodel import quantize
from quant.scheme import Scheme

NETWORKS = Path(__file__).with_name("tiny_networks.py")


def programs(monkeypatch, factory, scheme):
    """The program as it is and without shared buffers, and its inputs."""
    model = load_model(f"{NETWORKS}:{factory}")
    assignment = uniform_assignment(model.graph, Scheme.parse(scheme))
    generator = torch.Generator().manual_seed(1)
    inputs = tuple(torch.randn(x.shape, generator=generator) for x in model.example_inputs)
    ranges = observe_ranges(model.module, assignment, [inputs])
    module = quantize(model.module, assignment, ranges=ranges).integer()
    ours = lowering.lower(module, host_isa())
    with monkeypatch.context() as patch:
        patch.setattr(lowering, "reuse_operands", lambda program: None)
        apart = lowering.lower(module, host_isa())
    return ours, apart, [x.numpy() for x in inputs], module


def sums(program):
    """Layers whose product writes over an operand."""
    return [step.layer for step in program.steps if getattr(step.kernel, "in_place", None) is not None]


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8.o2.g50"])
@pytest.mark.parametrize(("factory", "found"), [("cnn", 1), ("transformer", 4), ("bottleneck", 3)])
def test_sums_take_the_place_of_the_residual(monkeypatch, factory, found, scheme):
    ours, apart, inputs, _ = programs(monkeypatch, factory, scheme)
    assert len(sums(ours)) == found and not sums(apart)
    assert len(ours.buffers()) == len(apart.buffers()) - found
    assert plan_memory(ours)[1] <= plan_memory(apart)[1]
    made, expected = (run_program(program, host_isa(), inputs) for program in (ours, apart))
    for left, right in zip(made, expected, strict=True):
        assert np.array_equal(left, right)


def test_a_value_that_is_read_later_keeps_its_place(monkeypatch):
    """``x`` is read after the first sum, ``y`` by the third layer; ``z`` is an output."""
    ours, apart, inputs, module = programs(monkeypatch, "reread", "w8a8")
    made, expected = (run_program(program, host_isa(), inputs) for program in (ours, apart))
    with torch.no_grad():
        torch_made = module(*map(torch.from_numpy, inputs))
    for left, right, reference in zip(made, expected, torch_made, strict=True):
        assert np.array_equal(left, right)
        np.testing.assert_allclose(left, reference.numpy(), rtol=1e-5, atol=1e-5)
    assert len({id(port.buffer) for port in ours.outputs}) == 2


def test_the_arena_of_a_residual_network_shrinks(monkeypatch):
    """Residual and sum, 50 x 96 floats each, no longer live at the same time."""
    ours, apart, _, _ = programs(monkeypatch, "bottleneck", "w8a8")
    assert plan_memory(ours)[1] < 2 * 4 * 50 * 96 <= plan_memory(apart)[1]
