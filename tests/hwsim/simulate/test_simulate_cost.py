"""Cost mode: closed forms by hand, conservation, bounds, and agreement with cycle mode."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.simulate.cost import boundary_cost, layer_costs, vector_costs
from hwsim.simulate.cycle import LayerAssignment, simulate_plan, simulate_scheme
from hwsim.simulate.systolic import SystolicLayer, systolic_counts
from quant.scheme import Scheme
from tests.hwsim.simulate.fake_graph import FakeLayer, conv, cpu, linear, matmul, network, systolic

W8A8 = Scheme.parse("w8a8")


def price(layer, scheme, machine, way="single"):
    options = layer_costs([layer], [[Scheme.parse(scheme)]], machine)[0]
    return next(option for option in options if option.way == way)


@pytest.mark.parametrize("dataflow", ["os", "ws", "is"])
@pytest.mark.parametrize("shape", [(197, 768, 768), (1, 1000, 512), (49, 512, 4608), (7, 5, 3)])
def test_systolic_compute_is_the_corrected_closed_form(dataflow, shape):
    machine = systolic(32, 16, dataflow=dataflow)
    option = price(linear("l", *shape), "w8a8", machine)
    assert option.compute_cycles == systolic_counts(SystolicLayer.gemm(*shape), 32, 16, dataflow).cycles


def test_simd_compute_pads_to_tiles():
    option = price(linear("l", 5, 17, 6), "w8a8", cpu())
    assert option.compute_cycles == 5 * 32 * 8 / 128


def test_depthwise_lies_across_the_lanes():
    """32 channels, 3x3: channels fill the 16 lanes, so the work is pixels x 32 x 12 (9 padded to 12)."""
    option = price(conv("dw", 10, 32, 32, 3, groups=32), "w8a8", cpu())
    assert option.compute_cycles == 100 * 32 * 12 / 128


def test_depthwise_channels_share_a_weight_stationary_array():
    """3x3 on 32 rows: three channels a fold, so 32 channels take 11 folds of 100 + 2·32 + 16 - 2 cycles."""
    option = price(conv("dw", 10, 32, 32, 3, groups=32), "w8a8", systolic(32, 16))
    assert option.compute_cycles == 11 * (100 + 2 * 32 + 16 - 2)


def test_expansion_adds_a_sparse_product():
    layer, machine = linear("l", 64, 256, 256), cpu(1)
    one, two = price(layer, "w4a8", machine), price(layer, "w4a8.o2.g50", machine)
    assert two.compute_cycles == pytest.approx(1.5 * one.compute_cycles)
    assert two.term_bops == (layer.macs * 32, layer.macs * 16)
    assert two.bops == sum(two.term_bops)
    kept_rows, kept_columns = 4 * 128, 4 * 64  # lists of int32
    assert two.weight_bytes == pytest.approx((256 * 256 * 1.5) / 2 + 4 * 384 + kept_rows)
    columns = price(layer, "w4a8.o2.c25", machine)
    assert columns.weight_bytes == pytest.approx((256 * 256 * 1.25) / 2 + 4 * 512 + kept_columns)
    assert columns.bops == layer.macs * 32 * 1.25


def test_float_layers_run_on_the_float_engine():
    machine = cpu()
    float_engine = replace(
        machine.engines[0], name="float", rates={(32, 32): 32.0}, is_float=True, tile=(1, 1, 1)
    )
    machine = replace(machine, engines=(*machine.engines, float_engine))
    option = price(linear("l", 8, 64, 64), "fp", machine)
    assert (option.engine, option.compute_cycles) == ("float", 8 * 64 * 64 / 32)
    assert option.weight_bytes == 64 * 64 * 4


def test_narrow_weights_are_stored_packed_only_where_they_are_unpacked():
    packing, plain = cpu(1), systolic()
    narrow = linear("l", 64, 256, 256)
    assert price(narrow, "w2a8", packing).weight_bytes == 256 * 256 / 4 + 4 * 256
    engine = replace(plain.engines[0], rates={(8, 8): 1024.0})
    held = replace(plain, engines=(engine,))
    assert price(narrow, "w2a8", held).weight_bytes == 256 * 256 + 4 * 256


def test_products_of_activations_store_nothing_and_read_both_operands():
    option = price(matmul("m", 4, 64, 64, 64), "w2a8", cpu(1))
    assert option.weight_bytes == 0
    assert option.traffic_bytes[0] >= 4 * 64 * 64 / 2 + 4 * 64 * 64  # native w4a8


def test_resident_weights_are_not_streamed():
    layer, slow = linear("l", 1, 512, 512), {"dram_rate": 1.0}
    near = price(layer, "w8a8", systolic(**slow))
    far = price(layer, "w8a8", systolic(sram=1000, **slow))
    assert near.traffic_bytes[1] == 0
    assert far.traffic_bytes[1] >= 512 * 512
    assert far.memory_cycles >= 512 * 512


layers = st.one_of(
    st.builds(lambda m, n, k: linear("l", m, n, k), *(st.integers(1, 300),) * 3),
    st.builds(lambda b, m, n, k: matmul("l", b, m, n, k), st.integers(1, 16), *(st.integers(1, 100),) * 3),
    st.builds(
        lambda o, n, c, k, s: conv("l", o, n, c, k, s), st.integers(1, 20), *(st.integers(1, 96),) * 2,
        st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]),
    ),
    st.builds(lambda o, c: conv("l", o, c, c, 3, groups=c), st.integers(1, 20), st.integers(2, 96)),
)  # fmt: skip
schemes = st.sampled_from(["w8a8", "w4a8", "w4a4", "w4a8.o2", "w4a8.o2.g50", "w4a8.o3.c25", "w4a8.o2.b1"])


@settings(max_examples=60, deadline=None)
@given(layers, schemes, st.integers(1, 8))
def test_roofline_below_cycle_below_serial(layer, scheme, units):
    for machine in (systolic(16, 16, units, sram=2**14), cpu(units, l3=2**15)):
        graph = SimpleNamespace(layers=(layer, replace(layer, name="next", inputs=("l",))))
        simulation = simulate_scheme(graph, Scheme.parse(scheme), machine)
        assert simulation.roofline_cycles <= simulation.cycles * (1 + 1e-9)
        assert simulation.cycles <= simulation.serial_cycles * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(layers, schemes, st.integers(1, 24), st.integers(1, 24))
def test_more_units_bandwidth_or_buffer_is_never_slower(layer, scheme, units, more):
    """Units that share a product read its other operand each for itself; where that costs more, some stay idle."""

    def best(machine):
        options = layer_costs([layer], [[Scheme.parse(scheme)]], machine)[0]
        return min(options, key=lambda option: option.cycles)

    for build in (lambda u, **f: systolic(16, 16, u, sram=2**14, **f), lambda u, **f: cpu(u, l3=2**15, **f)):
        base = best(build(units))
        wider = best(build(units + more))
        assert wider.cycles <= base.cycles * (1 + 1e-9)
        assert wider.units <= units + more
        assert best(build(units, dram_rate=320.0)).cycles <= base.cycles * (1 + 1e-9)


def test_units_stay_idle_where_their_reading_costs_more():
    """24 rows split over units that each read all 384 kB of weights through one memory: five of eight work."""
    layer = linear("l", 24, 64, 6000)
    found = {units: price(layer, "w8a8", cpu(units), "rows") for units in range(2, 9)}
    assert [found[units].units for units in (2, 4, 5, 8)] == [2, 4, 5, 5]
    assert found[8].cycles == min(option.cycles for option in found.values()) < found[4].cycles
    alone = {layer.name: LayerAssignment(W8A8, "dot", "rows")}
    replayed = simulate_plan(SimpleNamespace(layers=(layer,)), alone, 1, cpu(8))
    assert {event.unit for event in replayed.timeline} == set(range(5))


@settings(max_examples=40, deadline=None)
@given(layers, schemes, st.integers(2, 8))
def test_splitting_conserves_work(layer, scheme, units):
    machine = systolic(16, 16, units, sram=2**22)
    single, rows = price(layer, scheme, machine), price(layer, scheme, machine, "rows")
    assert single.bops == rows.bops
    assert single.weight_bytes == rows.weight_bytes
    assert single.traffic_bytes[1] == pytest.approx(rows.traffic_bytes[1])
    assert rows.compute_cycles <= single.compute_cycles


@settings(max_examples=30, deadline=None)
@given(layers, schemes, st.floats(1.1, 8))
def test_a_faster_clock_is_never_slower_in_seconds(layer, scheme, factor):
    """Main memory keeps its bytes a second, so it loses bytes a cycle."""
    graph = SimpleNamespace(layers=(layer,))
    slow = systolic(16, 16, 2)
    levels = (
        slow.levels[0],
        replace(slow.levels[1], bytes_per_cycle=slow.levels[1].bytes_per_cycle / factor),
    )
    fast = replace(slow, clock_hz=slow.clock_hz * factor, levels=levels)
    assert simulate_scheme(graph, W8A8, fast).seconds <= simulate_scheme(graph, W8A8, slow).seconds * (
        1 + 1e-9
    )


@pytest.mark.parametrize("model", ["vit_b16", "resnet50", "mobilenetv2"])
@pytest.mark.parametrize("scheme", ["w8a8", "w4a8.o2.g50"])
def test_cost_mode_is_near_cycle_mode(model, scheme):
    graph = SimpleNamespace(layers=network(model))
    for machine in (systolic(units=4), systolic(32, 32), cpu()):
        assert abs(simulate_scheme(graph, Scheme.parse(scheme), machine).cost_error) < 0.15


def test_a_plan_with_all_ways_and_an_ensemble():
    layers_ = (
        linear("a", 64, 256, 256),
        linear("b", 64, 256, 256, ("a",)),
        linear("c", 64, 256, 256, ("b",)),
    )
    graph, machine = SimpleNamespace(layers=layers_), cpu(4)
    three = Scheme.parse("w4a8.o3")
    plan = {
        "a": LayerAssignment(three, "dot", "terms"),
        "b": LayerAssignment(three, "dot", "rows"),
        "c": LayerAssignment(W8A8, "dot", "single"),
    }
    simulation = simulate_plan(graph, plan, 1, machine)
    assert [layer.way for layer in simulation.layers] == ["terms", "rows", "single"]
    assert simulation.bops == 2 * 3 * 32 * 64 * 256**2 + 64 * 64 * 256**2
    assert {event.unit for event in simulation.timeline if event.name == "a"} == {0, 1, 2}
    members = {name: LayerAssignment(three, "dot", "single", ((1, 2), (1, 3))) for name in "abc"}
    ensemble = simulate_plan(graph, members, 2, machine)
    held = {
        network_: sum(1 for layer in ensemble.layers if layer.network == network_) for network_ in range(3)
    }
    assert held == {0: 3, 1: 3, 2: 3}
    assert ensemble.bops == 3 * (2 + 2 + 1) * 32 * 64 * 256**2


def test_simulation_is_deterministic_and_energy_adds_up():
    graph = SimpleNamespace(layers=network("resnet18"))
    first, second = (simulate_scheme(graph, W8A8, cpu()) for _ in range(2))
    assert first == second
    macs = sum(layer.macs for layer in graph.layers)
    assert first.energy_pj["mac"] == pytest.approx(0.5 * macs)
    assert first.energy_pj["ddr"] == pytest.approx(first.traffic_bytes["ddr"] * 60)
    assert first.bops == macs * 64


def test_vector_work_and_boundaries():
    producer = linear("p", 8, 64, 64)
    norm = FakeLayer("n", "norm", m=8, n=64, inputs=("p",), input_shapes=((8, 64),))
    act = replace(norm, name="g", kind="activation")
    machine = cpu(1)
    found = vector_costs([producer, norm, act], machine)
    assert [cost.name for cost in found] == ["n", "g"]
    assert found[0].cycles == 8 * 64 / 4 + machine.launch_cycles
    assert found[1].fixed_cycles == 0  # fused into its producer
    assert boundary_cost(1000, 8, 8, machine) == (0.0, 0.0)
    assert boundary_cost(1000, 8, 4, machine)[0] == 1000 / 16


@pytest.mark.parametrize("exposed", [0.0, 0.25, 1.0])
def test_transfers_that_are_not_fetched_ahead_hold_compute_up(exposed):
    """A compute-bound layer takes its compute, and that share of its transfers; a memory-bound one its transfers."""
    machine = cpu(1)
    levels = (*machine.levels[:-1], replace(machine.levels[-1], exposed=exposed, latency_cycles=0.0))
    waiting = replace(machine, levels=levels)
    for layer, bound in ((linear("a", 4096, 4096, 4096), "compute"), (linear("b", 1, 8192, 8192), "memory")):
        hidden, found = (price(layer, "w8a8", m) for m in (replace(waiting, levels=machine.levels), waiting))
        if bound == "compute":
            transfers = found.traffic_bytes[-1] / levels[-1].bytes_per_cycle
            assert found.cycles == pytest.approx(hidden.cycles + exposed * transfers)
        else:
            assert hidden.cycles <= found.cycles <= hidden.cycles * (1 + exposed)
        graph = SimpleNamespace(layers=[layer])
        replayed = simulate_scheme(graph, W8A8, waiting)
        assert replayed.cost_cycles == pytest.approx(replayed.cycles, rel=0.05)
        assert replayed.roofline_cycles <= replayed.cycles <= replayed.serial_cycles
