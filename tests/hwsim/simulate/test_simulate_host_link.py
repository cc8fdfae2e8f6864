"""A device behind a host link: what crosses it in each inference, and what its instructions cost in time and room."""

from types import SimpleNamespace

import pytest

from hwsim.errors import UserError
from hwsim.simulate.calibration import prior, workload_of
from hwsim.simulate.cost import layer_costs, machine_of
from hwsim.simulate.cycle import simulate_scheme
from hwsim.simulate.vector import vector_costs
from hwsim.target.load import parse_target
from hwsim.target.schema import Target
from quant.scheme import Scheme
from tests.hwsim.simulate.fake_graph import linear

W8A8 = Scheme(8, 8)
LINK, SIZE, ROWS, LAYERS = 1e8, 64, 16, 5
WEIGHTS = LAYERS * (SIZE * SIZE + 4 * SIZE)  # codes and scales


def stick(instructions=None, sram=1 << 20, latency=0.0, bandwidth=LINK):
    return Target.model_validate(
        {
            "schema_version": 1, "name": "stick", "clock_hz": 1e9, "units": 1,
            "engines": [{"macs_per_cycle": {"w8a8": 64}, "tile": {"m": 1, "n": 8, "k": 8}}],
            "memories": [{"name": "sram", "kind": "sram", "bytes": sram, "bytes_per_cycle": 64}],
            "host_link": {
                "name": "usb", "bandwidth": bandwidth, "latency": latency,
                "carries": ["inputs", "outputs", "weights"],
            },
            "launch": {"per_layer": 0, "per_inference": 0, "instructions": instructions}, "power_w": 1,
        }
    )  # fmt: skip


def chain():
    return [linear(f"p{i}", ROWS, SIZE, SIZE, (f"p{i - 1}" if i else "input:x",)) for i in range(LAYERS)]


def simulate(target):
    return simulate_scheme(SimpleNamespace(layers=chain()), W8A8, target)


def test_each_operator_brings_its_instructions_over_the_link():
    """Cycle mode, cost mode and calibration all pay bytes / bandwidth for each operator."""
    plain, stuffed = stick(), stick(2000)
    wanted = LAYERS * 2000 / LINK
    assert simulate(stuffed).seconds - simulate(plain).seconds == pytest.approx(wanted, rel=1e-6)
    costs = [
        sum(options[0].cycles for options in layer_costs(chain(), [[W8A8]] * LAYERS, target))
        for target in (plain, stuffed)
    ]
    assert costs[1] - costs[0] == pytest.approx(wanted * 1e9, rel=1e-6)
    predicted = [prior(t).predict(workload_of(chain(), W8A8, t)).seconds for t in (plain, stuffed)]
    assert predicted[1] - predicted[0] == pytest.approx(wanted, rel=1e-3)
    assert simulate(stick(2000, bandwidth=2 * LINK)).seconds < simulate(stuffed).seconds


def test_instructions_take_room_from_the_weights():
    """Weights that just fit beside the activations come in part over the link once instructions lie there too."""
    activations = 2 * ROWS * SIZE
    exact = WEIGHTS + activations
    assert simulate(stick(sram=exact)).placement.resident == pytest.approx(0.0)  # nothing comes over the link
    assert simulate(stick(sram=exact)).weight_home == "sram"
    found = simulate(stick(1000, sram=exact)).placement
    assert found.resident == pytest.approx((WEIGHTS - LAYERS * 1000) / WEIGHTS, rel=1e-6)
    assert vector_costs(chain(), stick(1000, sram=exact)) == []
    streamed = simulate(stick(1000, sram=exact)).traffic_bytes["usb"]
    assert streamed == pytest.approx(LAYERS * 1000, rel=1e-6)


def test_calibration_sends_inputs_and_outputs_over_the_link_and_waits_for_it():
    """As cycle mode does: the elements of both ends at the link's rate, and its latency before each."""
    target = stick(latency=1e-4)
    load = workload_of(chain(), W8A8, target)
    assert load.memory[-1] == pytest.approx(2 * ROWS * SIZE / LINK)
    assert load.vector[-1]
    assert prior(target).parameters()["start"] == pytest.approx(2e-4)
    assert machine_of(target).link_bytes_per_cycle == pytest.approx(LINK / 1e9)
    near, far = stick(), stick(latency=1e-4)
    assert simulate(far).seconds - simulate(near).seconds == pytest.approx(2e-4, rel=1e-6)


def test_instructions_without_a_link_are_a_mistake():
    text = "schema_version: 1\nname: alone\nclock_hz: 1e9\nunits: 1\nengines: [{macs_per_cycle: 8}]\n"
    text += "memories: [{name: ram, bandwidth: 1e9}]\npower_w: 1\nlaunch: {instructions: 5 kB}\n"
    with pytest.raises(UserError, match="give a host_link") as raised:
        parse_target(text, "alone.yaml")
    assert "alone.yaml:8" in str(raised.value)


def test_a_scheme_that_no_engine_runs_is_one_line():
    with pytest.raises(UserError, match="no engine of stick runs its products in w8a16"):
        workload_of(chain(), Scheme(8, 16), stick().replace({"float_fallback": False}), "net")


def test_weights_come_in_one_stream():
    """However many layers stream their weights, the link's latency is waited for before the inputs and the outputs."""
    near, far = (simulate(stick(sram=4096, latency=latency)) for latency in (0.0, 1e-4))
    assert near.weight_home == "usb"
    assert far.seconds - near.seconds == pytest.approx(2e-4, rel=1e-6)
    for found in (near, far):
        assert found.roofline_cycles <= found.cycles <= found.serial_cycles
