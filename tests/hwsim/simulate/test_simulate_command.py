"""``hwsim simulate`` as a user meets it: plans, sweeps, traces, and its mistakes."""

import itertools
import json
import random
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from hwsim.cli import simulate as command
from hwsim.errors import UserError
from hwsim.model.graph import Layer, LayerGraph
from hwsim.simulate import graph_source
from hwsim.simulate.cost import boundary_cost, layer_costs, vector_costs
from hwsim.simulate.cycle import LayerAssignment, simulate_plan, simulate_scheme
from hwsim.simulate.sweep import changed_target, parse_sweep, sweep
from hwsim.simulate.trace import chrome_trace
from hwsim.simulate.vector import handovers
from hwsim.target.load import list_targets, load_target
from quant.scheme import Scheme
from tests.hwsim.simulate.fake_graph import network

OFFERED = ("w8a8", "w4a8", "w8a16", "w4a8.o2.g50", "w4a4", "w2a8", "fp")


def product(name, source, m, n, k):
    return Layer(
        name, "linear", "linear", (source,), ((1, m, k),), (1, m, n), 1, m, n, k, macs=m * n * k,
        params=n * k, weight=f"{name}.weight", elements=m * n,
    )  # fmt: skip


def small_graph():
    act = Layer("act", "activation", "gelu", ("fc1",), ((1, 64, 512),), (1, 64, 512), elements=64 * 512)
    norm = Layer("norm", "norm", "layer_norm", ("input:x",), ((1, 64, 128),), (1, 64, 128), elements=64 * 128)
    layers = (norm, product("fc1", "norm", 64, 512, 128), act, product("fc2", "act", 64, 128, 512))
    return LayerGraph("small", layers, ("x",), ("fc2",), 2 * 512 * 128, ((1, 64, 128),))


@pytest.fixture
def graph(monkeypatch):
    made = small_graph()
    monkeypatch.setattr(graph_source, "layer_graph", lambda *_args, **_kwargs: made)
    return made


def run(*arguments):
    import typer

    app = typer.Typer()
    app.command()(command.simulate)
    return CliRunner().invoke(app, list(arguments))


def test_model_and_scheme(graph, tmp_path):
    trace = tmp_path / "trace.json"
    result = run(
        "--model", "small", "--scheme", "w8a8", "--target", "edge_gpu", "--json", "--trace", str(trace)
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout[result.stdout.index("{") :])
    expected = simulate_scheme(graph, Scheme.parse("w8a8"), load_target("edge_gpu"))
    assert document["cycles"] == expected.cycles
    assert document["roofline_cycles"] <= document["cycles"] <= document["serial_cycles"]
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"}
    assert {"fc1", "fc2", "norm"} <= names


def test_table_names_every_layer_and_says_what_it_is(graph):
    result = run("--model", "small", "--target", "edge_gpu")
    assert result.exit_code == 0, result.output
    for word in ("fc1", "norm", "roofline", "Modelled, not measured"):
        assert word in result.output


def test_sweep(graph):
    result = run("--model", "small", "--target", "edge_gpu", "--sweep", "units=1:8,clock=1GHz", "--json")
    points = json.loads(result.stdout)
    assert [point["units"] for point in points] == [1, 8]
    assert points[1]["seconds"] <= points[0]["seconds"]


@pytest.mark.parametrize(
    "text", ["voltage=1", "units=0", "units=1.5", "clock", "units=1,units=2", "clock=fast"]
)
def test_sweep_mistakes(text):
    with pytest.raises(UserError):
        parse_sweep(text)


def test_sweep_keeps_bandwidth_in_bytes_a_second():
    target = load_target("edge_gpu")
    changed = changed_target(target, {"clock": target.clock_hz * 2, "dram_gbps": 34.0})
    assert changed.bytes_per_cycle("lpddr5") * changed.clock_hz == pytest.approx(34e9)
    assert (
        len(sweep(target, {"units": (1.0, 2.0)}, lambda t: simulate_scheme(small_graph(), Scheme(8, 8), t)))
        == 2
    )


def test_neither_or_both_of_plan_and_model(graph):
    assert isinstance(run("--target", "edge_gpu").exception, UserError)


@pytest.mark.parametrize("flag", [("--batch", "4"), ("--sequence", "7"), ("--scheme", "w4a4")])
def test_what_a_plan_has_decided_is_not_asked_again(flag, tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "graph.json").write_text(small_graph().to_json())
    result = run("--target", "edge_gpu", "--plan", str(tmp_path / "plan.json"), *flag)
    assert isinstance(result.exception, UserError) and str(result.exception).startswith(flag[0])


def test_a_file_that_is_no_plan(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text("{}")
    assert "not a plan" in str(run("--target", "edge_gpu", "--plan", path).exception)


@pytest.mark.parametrize("target", list_targets())
def test_every_shipped_target_prices_and_replays(target):
    graph_, device = small_graph(), load_target(target)
    products = [layer for layer in graph_.layers if layer.is_product]
    scheme = Scheme(*device.legal_widths("linear")[-1])
    options = layer_costs(products, [[scheme, Scheme(None, None)]] * 2, device, graph_layers=graph_.layers)
    assert all(any(option.scheme == scheme for option in found) for found in options)
    assert all(option.cycles > 0 and option.energy_pj > 0 for found in options for option in found)
    assert all(cost.cycles > 0 for cost in vector_costs(graph_.layers, device))
    simulation = simulate_scheme(graph_, scheme, device)
    assert simulation.roofline_cycles <= simulation.cycles * (1 + 1e-9)
    assert simulation.cycles <= simulation.serial_cycles * (1 + 1e-9)
    assert abs(simulation.cost_error) < 0.15
    assert json.loads(chrome_trace(simulation))["traceEvents"]
    assert "compute" in simulation.provenance


@pytest.mark.parametrize("model", ["vit_b16", "resnet50", "mobilenetv2"])
def test_cost_mode_is_near_cycle_mode_on_every_shipped_target(model):
    graph_ = SimpleNamespace(layers=network(model))
    for target in list_targets():
        for scheme in ("w8a8", "w4a8.o2.g50"):
            simulation = simulate_scheme(graph_, Scheme.parse(scheme), load_target(target))
            assert abs(simulation.cost_error) < 0.15, (target, scheme, simulation.cost_error)


@pytest.mark.parametrize("model", ["vit_b16", "resnet18", "mobilenetv2"])
def test_any_plan_runs_as_its_options_were_priced(model):
    """Plans of random options, float layers among them, on every target that ships: priced where they lie."""
    layers, offered = network(model), [[Scheme.parse(text) for text in OFFERED]] * len(network(model))
    for target in map(load_target, list_targets()):
        for seed in range(2):
            choice = random.Random(seed)
            first = [choice.choice(options) for options in layer_costs(layers, offered, target)]
            picks = [(option.scheme, option.engine, option.way) for option in first]
            plan = {layer.name: LayerAssignment(*pick) for layer, pick in zip(layers, picks, strict=True)}
            simulation = simulate_plan(SimpleNamespace(layers=layers), plan, 1, target)
            again = layer_costs(layers, offered, target, placement=simulation.placement)
            predicted = simulation.cycles - simulation.layers[-1].end  # start and host link: equal in both
            for options, pick in zip(again, picks, strict=True):
                predicted += next(o.cycles for o in options if (o.scheme, o.engine, o.way) == pick)
            for link in handovers(layers):
                widths = (plan[name].scheme.act_bits for name in (link.source, link.target))
                predicted += boundary_cost(link.elements, *widths, target)[0]
            assert abs(simulation.cycles / predicted - 1) < 0.15, (target.name, seed)


@pytest.mark.parametrize("parameter", ["units", "clock"])
def test_more_is_never_slower_in_the_replay(parameter):
    """A whole network on every target that ships, replayed with more units and with a faster clock."""
    graph_ = SimpleNamespace(layers=network("resnet18"))
    for name in list_targets():
        target, base = load_target(name), {"units": 1.0, "clock": load_target(name).clock_hz}[parameter]
        seconds = [
            simulate_scheme(graph_, Scheme(8, 8), changed_target(target, {parameter: base * times})).seconds
            for times in (1, 2, 3, 5, 8)
        ]
        assert all(more <= less * (1 + 1e-9) for less, more in itertools.pairwise(seconds)), (name, seconds)


def test_plans_name_missing_layers_and_engines():
    device = load_target("edge_gpu")
    with pytest.raises(UserError, match="fc1"):
        simulate_plan(small_graph(), {}, 1, device)
    wrong = {name: LayerAssignment(Scheme(8, 8), "abacus") for name in ("fc1", "fc2")}
    with pytest.raises(UserError, match="abacus"):
        simulate_plan(small_graph(), wrong, 1, device)


def test_replay_with_its_graph_beside_it_needs_no_torch(tmp_path):
    """``graph.json`` beside the plan: the whole command runs without torch, timm and transformers."""
    import json
    import shutil
    import subprocess
    import sys
    from pathlib import Path

    from hwsim.simulate.graph_source import layer_graph

    kept = Path(__file__).resolve().parents[3] / "reports" / "vit_b-edge_gpu" / "plan.json"
    shutil.copy(kept, tmp_path / "plan.json")
    (tmp_path / "graph.json").write_text(layer_graph(json.loads(kept.read_text())["model"]).to_json())
    code = (
        "import sys; from hwsim.cli.main import run; "
        f"code = run(['simulate', '--plan', {str(tmp_path / 'plan.json')!r}, '-t', 'edge_gpu', '--json']); "
        "print(code, *{m.split('.')[0] for m in sys.modules} & {'torch', 'timm', 'transformers'}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "0"
    assert json.loads(done.stdout)["seconds"] > 0
