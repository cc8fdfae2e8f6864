"""A descriptor fitted to measured latencies: it meets them, learns from relatives, and says how well it does."""

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from hwsim.cli.main import app
from hwsim.errors import UserError
from hwsim.measure.fitted import Row, fit_rows, read_rows, scaled
from hwsim.simulate.calibration import PARAMETERS, Calibration, prior, workload_of
from hwsim.simulate.cycle import simulate_scheme
from hwsim.simulate.graph_source import layer_graph
from hwsim.target.load import load_target
from quant.scheme import Scheme

MODELS = ["tests/small_models.py:conv_net", "tests/small_models.py:transformer"]


def seconds_on(target, network, scheme="w8a8"):
    load = workload_of(layer_graph(network).layers, Scheme.parse(scheme), target)
    return prior(target).predict(load).seconds


@pytest.fixture(scope="module")
def networks(pytestconfig):
    return [str(pytestconfig.rootpath / name) for name in MODELS]


@pytest.mark.parametrize("name", ["hexagon", "mcu_m7", "edge_tpu", "x86_avx512_vnni", "fpga_zu9eg", "hailo8"])
def test_a_scaled_descriptor_predicts_what_the_calibration_does(networks, name):
    """Parameters far from the descriptor's, among them engines beyond their peak."""
    target = load_target(name)
    if target.contexts is not None:  # too little room, so that the contexts of both networks take turns
        target = target.replace({"contexts.operators": 3})
    logs = prior(target).logs + np.array([0.5, -0.4, -1.5, 0.6, 0.3, 0.2, -0.7, 0.4])
    found = Calibration(logs, 0.01 * prior(target).covariance, 1)
    assert len(logs) == len(PARAMETERS)
    fitted = scaled(target, found)
    for network in networks:
        layers = layer_graph(network).layers
        # In floats, depthwise products and outputs share an engine's fields, which the factor on floats leaves alone.
        for text in ("w8a8", "fp") if target.float_path is not None else ("w8a8",):
            scheme = Scheme.parse(text)
            expected = found.predict(workload_of(layers, scheme, target)).seconds
            assert prior(fitted).predict(workload_of(layers, scheme, fitted)).seconds == pytest.approx(
                expected, rel=0.05 if text == "w8a8" else 0.2
            ), (name, network, text)


def test_measured_networks_are_met_and_the_replay_follows(networks):
    target = load_target("mobile_cpu")
    slower = target.replace({"software.efficiency": 0.2, "launch.per_layer": "20 us"})
    rows = [Row("", network, Scheme(8, 8), seconds_on(slower, network)) for network in networks]
    found = fit_rows(target, rows, relative=True)
    for row in found.rows:
        assert abs(math.log(row.after / row.seconds)) < 0.5 * abs(math.log(row.before / row.seconds))
        assert row.after == pytest.approx(row.seconds, rel=0.15)
        assert row.held_out is not None
        assert abs(math.log(row.held_out / row.seconds)) < abs(math.log(row.before / row.seconds))
    before, after = (
        simulate_scheme(layer_graph(networks[0]), Scheme(8, 8), t) for t in (target, found.target)
    )
    assert after.seconds > 1.5 * before.seconds
    assert found.target.calibration.points == 2


def test_other_devices_of_the_class_tell_of_a_network_this_one_never_ran(networks):
    """All relatives are slow to start a layer; the new device was measured on the network with few of them."""
    target = load_target("mobile_cpu")
    odd = target.replace({"launch.per_layer": "20 us"})
    rows = [Row("new", networks[0], Scheme(8, 8), seconds_on(odd, networks[0]))]
    alone = fit_rows(target, rows)
    rows += [
        Row(device, network, Scheme(8, 8), factor * seconds_on(odd, network))
        for device, factor in (("one", 0.8), ("two", 1.3), ("three", 1.0))
        for network in networks
    ]
    together = fit_rows(target, rows, "new")
    wanted = seconds_on(odd, networks[1])
    errors = [abs(math.log(seconds_on(f.target, networks[1]) / wanted)) for f in (alone, together)]
    assert errors[1] < 0.6 * errors[0]
    assert together.relatives == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("network,latency\nresnet18,1ms\n", "no column 'scheme'"),
        ("network,scheme,latency\n", "no measurement"),
        ("network,scheme,latency\nresnet18,w8a8,12\n", "not a time value"),
        ("network,scheme,latency\nresnet18,w8a8,\n", "each line needs"),
        ("network,scheme,latency\nresnet18,w9q,1ms\n", "w9q"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(tmp_path, text, said):
    path = tmp_path / "measured.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_rows(path)


def test_several_devices_need_a_name(networks):
    rows = [Row(device, networks[0], Scheme(8, 8), 1e-3) for device in ("a", "b")]
    with pytest.raises(UserError, match="--device"):
        fit_rows(load_target("mobile_cpu"), rows)
    with pytest.raises(UserError, match="not in the table"):
        fit_rows(load_target("mobile_cpu"), rows, "c")


def test_the_command_writes_a_descriptor_that_loads(networks, tmp_path):
    table, output = tmp_path / "measured.csv", tmp_path / "mine.yaml"
    table.write_text(f"network, scheme, latency\n{networks[0]}, w8a8, 150us\n{networks[1]}, w8a8, 260us\n")
    command = ["target", "fit", "mobile_cpu", "--measured", str(table), "-o", str(output)]
    plain = CliRunner().invoke(app, command)
    assert plain.exit_code == 0, plain.output
    assert "Fitted to 2 measured latencies" in plain.output
    assert seconds_on(load_target(str(output)), networks[0]) == pytest.approx(150e-6, rel=0.2)
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [row["seconds"] for row in found["rows"]] == pytest.approx([150e-6, 260e-6])
    assert found["target"]["document"]["calibration"]["points"] == 2
