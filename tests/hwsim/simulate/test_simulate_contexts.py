"""Dataflow devices: what fits stays, what does not is loaded in turn, and a batch pays for it once."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hwsim.simulate.calibration import workload_of
from hwsim.simulate.cost import layer_costs
from hwsim.simulate.cycle import simulate_scheme
from hwsim.simulate.launches import starts_of
from hwsim.simulate.machine import Engine, Level, Machine
from hwsim.simulate.vector import vector_costs
from hwsim.target.load import load_target
from hwsim.target.schema import Target
from quant.scheme import Scheme
from tests.hwsim.simulate.fake_graph import FakeLayer, linear

W8A8 = Scheme(8, 8)
LOAD = 1000.0


def dataflow(operators=8, sram=1 << 20, load=LOAD, link=4.0):
    engine = Engine("mac", "simd", frozenset({"linear"}), {(8, 8): 64.0, (4, 8): 64.0}, tile=(1, 8, 8))
    levels = (
        Level("flow", 1 << 30, 64.0, True, holds_weights=False),
        Level("weights", sram, 64.0, True, holds_activations=False),
        Level("host", float("inf"), link, True, holds_activations=False),
    )
    return Machine(
        "d", 1e9, 1, (engine,), levels, {"add": 8.0, "softmax": 8.0, "other": 8.0}, context_operators=operators,
        context_load_cycles=load, operator_parts={"softmax": 5}, prefetch=False,
    )  # fmt: skip


def chain(products, n=64, softmax=False):
    layers = [linear(f"p{i}", 16, n, n, (f"p{i - 1}" if i else "input:x",)) for i in range(products)]
    if softmax:
        previous = layers[-1].name
        layers.append(
            FakeLayer(
                "s", "softmax", m=16, n=n, inputs=(previous,), input_shapes=((16, n),), output_shape=(16, n)
            )
        )
    return layers


def simulate(layers, machine, scheme=W8A8):
    return simulate_scheme(SimpleNamespace(layers=layers), scheme, machine)


def test_one_operator_too_many_brings_all_weights_in_again():
    machine = dataflow(operators=4)
    fits, swapped = simulate(chain(4), machine), simulate(chain(5), machine)
    assert not fits.placement.swapped
    assert fits.traffic_bytes["host"] == 0
    assert swapped.placement.swapped
    # 8-bit weights and one float scale a row
    assert swapped.traffic_bytes["host"] == pytest.approx(5 * (64 * 64 + 4 * 64))
    assert swapped.cycles - fits.cycles > 5 * LOAD + 5 * 64 * 64 / 4.0


def test_weights_that_do_not_fit_swap_too_and_fewer_bits_fit_again():
    machine = dataflow(sram=5 * 64 * 48)
    assert simulate(chain(5), machine).placement.swapped
    assert not simulate(chain(5), replace(machine, engines=_packing(machine)), Scheme(4, 8)).placement.swapped


def _packing(machine):
    return (replace(machine.engines[0], packed_weight_bits=frozenset({4})),)


def test_a_softmax_takes_the_room_of_its_parts():
    layers = chain(3, softmax=True)
    assert starts_of(layers, dataflow()).laid_out == 3 + 5
    assert starts_of(layers, dataflow(operators=8)).fit
    assert not starts_of(layers, dataflow(operators=7)).fit
    cost = vector_costs(layers, dataflow(operators=7))[0]
    assert cost.start_cycles == 5 * LOAD
    assert vector_costs(layers, dataflow(operators=8))[0].start_cycles == 0


def test_cost_and_cycle_mode_and_the_workload_pay_the_same_loads():
    layers = chain(6, softmax=True)
    for machine, count in ((dataflow(operators=3), 11), (dataflow(operators=11), 0)):
        free = replace(machine, context_load_cycles=0.0)
        assert simulate(layers, machine).cycles - simulate(layers, free).cycles == pytest.approx(count * LOAD)
        costs = [layer_costs(layers[:-1], [[W8A8]] * 6, m, graph_layers=layers) for m in (machine, free)]
        products = sum(a[0].cycles - b[0].cycles for a, b in zip(*costs, strict=True))
        assert products == pytest.approx(LOAD * min(count, 6))
        assert workload_of(layers, W8A8, machine).launches * 1e-9 == pytest.approx(count * LOAD * 1e-9)


def test_more_room_and_a_faster_link_are_never_slower():
    rng = random.Random(3)
    for _ in range(40):
        layers = chain(rng.randint(1, 10), rng.choice([16, 64, 96]), rng.random() < 0.5)
        given = {"operators": rng.randint(1, 14), "sram": rng.choice([1 << 12, 1 << 15, 1 << 18])}
        slow = simulate(layers, dataflow(**given, link=2.0)).cycles
        for better in (
            {"operators": given["operators"] + 4},
            {"sram": 1 << 22},
            {"load": LOAD / 2},
        ):
            assert simulate(layers, dataflow(**{**given, **better}, link=2.0)).cycles <= slow * (1 + 1e-9)
        assert simulate(layers, dataflow(**given, link=8.0)).cycles <= slow * (1 + 1e-9)


def test_a_device_without_contexts_is_priced_as_before():
    """Room for everything is no contexts at all."""
    plain = replace(dataflow(), context_operators=float("inf"), context_load_cycles=0.0)
    layers = chain(5, softmax=True)
    assert simulate(layers, plain).cycles == simulate(layers, dataflow(operators=99)).cycles


def test_the_descriptor_reaches_the_kernels():
    target = load_target("hailo8")
    assert target.contexts is not None
    layers = chain(target.contexts.operators + 1)
    assert simulate(layers, target).placement.swapped
    assert not simulate(layers[1:], target).placement.swapped
    assert not simulate(layers, target.replace({"contexts.operators": 200})).placement.swapped


def test_contexts_need_somewhere_to_load_from():
    document = load_target("hailo8").document()
    document["memories"] = [{"name": "only", "bytes": "1 GB", "bandwidth": "10 GB/s"}]
    document["energy"] = {}
    with pytest.raises(ValueError, match="outside it to load them from"):
        Target.model_validate(document)
