"""Parallel units: term split, ensembles and row split give the bits of one core; memory of units does not overlap."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

sys.path.insert(0, str(Path(__file__).parent))

from test_compile_networks import quantized

from hwsim.compile.artifact import write_artifact
from hwsim.compile.check import run_program, unequal_products
from hwsim.compile.isa import host_isa
from hwsim.compile.lower import lower
from hwsim.compile.lower_ensemble import lower_model
from hwsim.compile.program import lifetimes, plan_memory, side_by_side
from hwsim.compile.proof import integer_proof
from hwsim.compile.together import Together, balanced
from hwsim.runtime import load
from hwsim.runtime.model import schedule
from quant.ensemble import networks, runnable, with_ensemble


def ensemble(factory, scheme):
    model, inputs, _ = quantized(factory, scheme)
    return with_ensemble(model), [x.numpy() for x in inputs], inputs


@pytest.mark.parametrize("scheme", ["w4a8.o3.e2", "w4a8.o3.g50-25.e2"])
def test_predictors_on_two_units(tmp_path, scheme):
    """Exact operators only but for one pooled sum: the ensemble equals torch's combination of the networks."""
    model, arrays, inputs = ensemble("cnn", scheme)
    expected = runnable(model)(*inputs)[0].numpy()
    outputs = []
    for units in (1, 2):
        program = lower_model(model, host_isa(), units=units)
        write_artifact(program, host_isa(), tmp_path / str(units), threads=units)
        outputs.append(load(tmp_path / str(units))(*arrays)["output0"])
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-6, atol=1e-6)
    assert np.array_equal(*outputs)
    two = load(tmp_path / "2")
    with two.on_one_core():
        assert np.array_equal(two(*arrays)["output0"], outputs[0])
    macs = sum(network_macs(network) for network in networks(model))
    assert integer_proof(lower_model(model, host_isa()), host_isa()).integer_macs == macs


def network_macs(network):
    """Multiply-accumulates of one network alone."""
    return integer_proof(lower_model(network, host_isa()), host_isa()).integer_macs


def test_concurrent_buffers_lie_apart():
    model, _, _ = ensemble("transformer", "w4a8.o3.e2")
    program = lower_model(model, host_isa(), units=2)
    offsets, size = plan_memory(program)
    used, spans = side_by_side(program), lifetimes(program)
    lanes = schedule([step.unit for step in program.steps])
    assert [len(block) for block in lanes] == [2, 1]
    places = [(offsets[b], offsets[b] + b.bytes, b) for b in offsets]
    assert max(end for _, end, _ in places) <= size
    compared = 0
    for start, end, one in places:
        for other_start, other_end, two in places:
            mine, other = used.get(one, {}), used.get(two, {})
            together = any(mine[block] != other[block] for block in mine.keys() & other.keys())
            alive = spans[one][0] <= spans[two][1] and spans[two][0] <= spans[one][1]
            if one is not two and (together or alive):
                compared += 1
                assert end <= other_start or other_end <= start
    assert compared > 100


@pytest.mark.parametrize("scheme", ["w4a8.o2", "w4a8.o3.g50-25"])
def test_term_split_has_the_same_bits(scheme):
    model, arrays, inputs = ensemble("cnn", scheme)
    module = model.integer()
    head = next(n for n in reversed(module.graph.nodes) if str(n.target) == "hwsim.rescale.default")
    next(n for n in module.graph.nodes if n.op == "output").args = ((head,),)
    expected = module(*inputs)[0].numpy()
    program = lower(module, host_isa(), units=2, ways=dict.fromkeys(model.layers, "terms"))
    split = [step.kernel for step in program.steps if isinstance(step.kernel, Together)]
    assert len(split) == 1 and len(split[0].branches) == 2  # the head is the one linear layer
    assert integer_proof(program, host_isa()).share == 1.0
    np.testing.assert_allclose(run_program(program, host_isa(), arrays)[0], expected, rtol=1e-6, atol=1e-6)


def test_terms_go_to_the_core_with_least_work():
    assert balanced([100, 50, 50], 2) == [[0], [1, 2]]
    assert balanced([10, 10, 10], 2) == [[0, 2], [1]]
    assert balanced([7], 2) == [[0]]


@pytest.mark.parametrize(
    ("factory", "scheme"), [("cnn", "w4a6.o3.g50-25"), ("cnn", "w8a12"), ("transformer", "w4a8.o2.c25")]
)
def test_every_product_alone_is_bit_equal(factory, scheme):
    model, _, _ = quantized(factory, scheme)
    count, wrong = unequal_products(model.integer(), host_isa())
    assert count == {"cnn": 7, "transformer": 14}[factory]
    assert wrong == []
