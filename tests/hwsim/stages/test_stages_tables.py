"""The planner's tables of real graphs: conversions of width, agreements, live activations."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hwsim.cli.main import run
from hwsim.model.load import load_model
from hwsim.simulate import schedule
from hwsim.simulate.cost import layer_costs, machine_of, vector_costs
from hwsim.simulate.cycle import LayerAssignment, simulate_plan, simulate_scheme
from hwsim.simulate.plan_file import replay
from hwsim.simulate.stored_weights import layer_weight_bytes
from hwsim.simulate.vector import handovers
from hwsim.stages.decide import Run, price_again
from hwsim.stages.error_profile import profile_errors, profile_shapes, synthetic_inputs
from hwsim.stages.options import network_schemes
from hwsim.stages.request import Widths
from hwsim.stages.tables import fill_tables
from hwsim.target.load import load_target
from planner.request import Limits, Request
from planner.solve import solve
from planner.verify import recount
from quant.expansion import make_terms
from quant.scheme import Scheme
from tests import small_models

MODELS = {"conv": "tests/small_models.py:conv_net", "vit": "tests/small_models.py:transformer"}


@pytest.fixture(scope="module", params=MODELS)
def model(request, pytestconfig):
    return load_model(str(pytestconfig.rootpath / MODELS[request.param]))


def tables_of(model, target):
    graph = model.graph
    offered = network_schemes(graph.products(), target, Widths())
    costs = layer_costs(graph.products(), offered, target, graph_layers=graph.layers)
    profile = profile_shapes(model, offered)
    return fill_tables(graph, target, costs, vector_costs(graph.layers, target), profile.layers, {})


def upstream(graph, layer):
    """Products met first on the way back from a layer's first input: an oracle that walks the other way."""
    by_name = {other.name: other for other in graph.layers}
    found = set()
    for name in layer.inputs:
        while name in by_name and not by_name[name].is_product:
            name = by_name[name].inputs[0] if by_name[name].inputs else ""
        if name in by_name:
            found.add(name)
    return found


def test_every_product_is_handed_its_operands(model):
    found = {}
    for handover in handovers(model.graph.layers):
        found.setdefault(handover.target, set()).add(handover.source)
    for layer in model.graph.products():
        assert found.get(layer.name, set()) == upstream(model.graph, layer), layer.name


def test_boundaries_cost_what_the_simulator_says(model):
    target = load_target("edge_gpu")
    machine = machine_of(target)
    tables = tables_of(model, target)
    rate = machine.vector_rates.get("mul", 1.0) * machine.units
    sizes = {(h.source, h.target): h.elements for h in handovers(model.graph.layers)}
    assert tables.boundaries
    for boundary in tables.boundaries:
        elements = sizes[boundary.source, boundary.target]
        pairs = {(rule.source_act_bits, rule.target_act_bits) for rule in boundary.rules}
        assert all(a != b for a, b in pairs) and len(pairs) == len(boundary.rules)
        for rule in boundary.rules:
            assert rule.cycles == math.ceil(elements / rate)
            assert rule.energy_pj == pytest.approx(elements * machine.vector_pj, abs=1e-3)


def extreme(layer, widest):
    """The scheme of the narrowest or widest activations that the layer may take."""
    plain = [option for option in layer.options if option.order == 1 and option.way == "single"]
    return sorted(plain, key=lambda option: option.act_bits or 32)[-1 if widest else 0].scheme


@pytest.mark.parametrize(("name", "ensembles"), [("fpga_zu9eg", False), ("edge_gpu", True)])
def test_replay_charges_what_the_planner_charged(model, name, ensembles, monkeypatch):
    """Widths that alternate along the network cost the replay as many cycles as the tables."""
    target = load_target(name)
    tables = tables_of(model, target)
    if ensembles:  # nothing else is worth it
        tables = tables.model_copy(update={"fixed_cycles": 10**9})
    pins = tuple(f"{layer.name}={extreme(layer, i % 2)}" for i, layer in enumerate(tables.layers))
    plan = solve(tables, Request(objective=("latency",), pins=pins, ensembles=ensembles))
    assert (plan.ensemble is not None) == ensembles
    paid = plan.totals.cycles - recount(tables.model_copy(update={"boundaries": ()}), plan)["latency"]
    assert paid > 0
    charged = replay(plan, model.graph, target)
    monkeypatch.setattr(schedule, "boundary_cost", lambda *_: (0.0, 0.0))
    free = replay(plan, model.graph, target)
    count = len(tables.boundaries)  # the tables round each conversion up to a whole cycle
    assert paid - count <= charged.cost_cycles - free.cost_cycles <= paid
    assert charged.cycles > free.cycles
    assert charged.total_energy_pj > free.total_energy_pj


def test_vector_work_of_an_ensemble_costs_what_the_replay_charges(model):
    """Each network runs on one unit, at whose price its vector work stands in the tables."""
    target = load_target("edge_gpu")
    tables = tables_of(model, target)
    mode = tables.ensembles[0]
    assignments = {layer.name: LayerAssignment(Scheme(8, 8)) for layer in model.graph.products()}
    found = simulate_plan(model.graph, assignments, mode.predictors, target)
    products = {layer.name for layer in model.graph.products()}
    network = [layer for layer in found.layers if layer.network == 0]
    vectors = sum(layer.cost_cycles for layer in network if layer.name not in products)
    ends = found.cost_cycles - sum(layer.cost_cycles for layer in network)
    assert mode.fixed_cycles + mode.combine_cycles == pytest.approx(vectors + ends, rel=0.02)


@pytest.mark.parametrize("name", ["edge_gpu", "mobile_cpu", "fpga_zu9eg"])
@pytest.mark.parametrize("ensembles", [False, True])
def test_energy_is_what_the_replay_charges(model, name, ensembles):
    """Static power is paid over the elapsed time, once: not again by each network of an ensemble."""
    target = load_target(name)
    tables = tables_of(model, target)
    assert machine_of(target).static_w > 0
    if ensembles:  # nothing else is worth it
        tables = tables.model_copy(update={"fixed_cycles": 10**9})
    plan = solve(tables, Request(objective=("latency",), pins=("*=w8a8*",), ensembles=ensembles))
    assert (plan.ensemble is not None) == ensembles
    found = replay(plan, model.graph, target)
    assert found.energy_pj["static"] > 0.5 * found.total_energy_pj
    assert plan.totals.energy_pj == pytest.approx(found.total_energy_pj, rel=0.05)


@pytest.mark.parametrize("name", ["edge_gpu", "orin_agx", "mobile_cpu"])
def test_layers_spread_over_an_ensemble_cost_what_the_replay_charges(model, name):
    """Whatever terms a network holds, it starts each of its layers: orders 1 and 3 are not two thirds of three."""
    target = load_target(name)
    tables = tables_of(model, target)
    holds = ((1, 3), (1, 2))
    compared = 0
    for table in tables.layers:
        spread = next((o for o in table.options if o.scheme == "w4a8.o3" and o.splits), None)
        if spread is None:
            continue
        assignments = {layer.name: LayerAssignment(Scheme(8, 8)) for layer in model.graph.products()}
        scheme = Scheme.parse(spread.scheme)
        assignments[table.name] = LayerAssignment(scheme, spread.engine, "single", holds)
        found = simulate_plan(model.graph, assignments, 2, target)
        charged = next(a for a in found.layers if a.network == 0 and a.name == table.name).cost_cycles
        planned = spread.term_cycles[0] + spread.term_cycles[2]
        assert planned == pytest.approx(charged, rel=0.1), table.name
        compared += 1
    assert compared


class ThreeReaders(nn.Module):
    """Query, key and value are layers of their own behind one norm."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.norm(x)
        mixed = nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.head(mixed.mean(dim=1))


def three_readers():
    """Factory for ``load_model``."""
    return ThreeReaders().eval(), (torch.randn(1, 8, 16),)


def test_weights_are_what_the_replay_places(model):
    """Codes, scales and what stays in float32; of the latter as much as torch counts beside the product weights."""
    target = load_target("mcu_m7")
    tables = tables_of(model, target)
    stem = 16 if model.graph.layers[0].conv else 0  # its batch norm became a bias
    others = [
        p for name, p in named_parameters(model) if p.dim() == 1 and not (stem and name.startswith("norm."))
    ]
    assert tables.fixed_weight_bytes == 4 * (stem + sum(p.numel() for p in others))
    plan = solve(tables, Request(objective=("latency",)))
    assert replay(plan, model.graph, target).weight_bytes == pytest.approx(
        plan.totals.weight_bytes, abs=len(plan.layers)
    )


@pytest.mark.parametrize("text", ["w4a8.o2.c25", "w4a8.o2.g50", "w4a8.o3.g50-25"])
def test_bytes_of_an_expanded_layer_are_those_of_its_terms(text):
    """Codes at their bits, float32 scales, int32 numbers of kept rows or columns, as quant makes them."""
    scheme = Scheme.parse(text)
    torch.manual_seed(0)
    terms = make_terms("layer", torch.randn(40, 64), scheme, None)
    wanted = sum(
        term.codes.numel() * term.bits / 8 + 4 * term.scale.numel()
        + 4 * sum(len(kept) for kept in (term.rows, term.cols) if kept is not None)
        for term in terms
    )  # fmt: skip
    machine = machine_of(load_target("edge_gpu"))
    engine = next(engine for engine in machine.engines if not engine.is_float and "linear" in engine.serves)
    layer = replace(load_model(f"{__file__}:tied").graph.products()[0], n=40, k=64)
    assert layer_weight_bytes(layer, scheme, machine, engine) == wanted


def named_parameters(model):
    factory = small_models.conv_net if model.graph.layers[0].conv else small_models.transformer
    return list(factory()[0].named_parameters())


class Tied(nn.Module):
    """An embedding whose table is the output layer's weight, too."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(500, 16), nn.Linear(16, 500, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(torch.relu(self.table(ids)))


def tied():
    return Tied().eval(), (torch.zeros(1, 4, dtype=torch.long),)


def test_weights_of_a_tied_embedding_are_what_an_artifact_stores(tmp_path):
    """The integer product packs codes of its own beside the float table that the embedding reads."""
    model = load_model(f"{__file__}:tied")
    assert tables_of(model, load_target("mcu_m7")).fixed_weight_bytes == 4 * 500 * 16
    found = simulate_scheme(model.graph, Scheme(8, 8), load_target("mcu_m7")).weight_bytes
    assert found == 500 * 16 * (4 + 1) + 4 * 500
    assert (
        run(
            [
                "--quiet",
                "compile",
                "--model",
                f"{__file__}:tied",
                "--scheme",
                "w8a8",
                "-o",
                str(tmp_path / "art"),
            ]
        )
        == 0
    )
    assert (tmp_path / "art" / "params.safetensors").stat().st_size == pytest.approx(found, rel=0.1)


class LearnedQueries(nn.Module):
    """A parameter with an axis of heads multiplies keys: an operand, no weight of rows."""

    def __init__(self):
        super().__init__()
        self.queries, self.keys = nn.Parameter(torch.randn(4, 6, 8)), nn.Linear(8, 8)

    def forward(self, x):
        return self.queries @ self.keys(x).transpose(-1, -2)


def learned_queries():
    torch.manual_seed(0)
    return LearnedQueries().eval(), (torch.randn(1, 4, 9, 8),)


def test_errors_of_a_learned_operand_are_those_of_an_activation(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(8, 4, 9, 8)).astype(np.float32))
    assert run([
        "--quiet", "plan", "-t", "mobile_cpu", "-m", f"{__file__}:learned_queries", "--pin", "*=w8a8",
        "--max-latency", "1s", "--measured", "8", "--calibration-data", str(tmp_path / "x.npz"),
        "-o", str(tmp_path / "out"),
    ]) == 0  # fmt: skip
    model = load_model(f"{__file__}:learned_queries")
    product = next(layer for layer in model.graph.products() if layer.kind == "matmul")
    assert product.weight is not None and product.packed_weight is None
    offered = network_schemes(model.graph.products(), load_target("mobile_cpu"), Widths())
    errors = profile_errors(model, offered, synthetic_inputs(model, 0), data=None, seed=0).layers[
        product.name
    ]
    assert 0 < errors.error(Scheme(8, 8)) < 0.01


class Upsampled(nn.Module):
    """A picture that grows sixteenfold between two convolutions."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 2, 3, 1, 1)

    def forward(self, x):
        return self.up(nn.functional.interpolate(torch.relu(self.down(x)), scale_factor=4.0))


def upsampled():
    return Upsampled().eval(), (torch.randn(1, 3, 32, 32),)


@pytest.mark.parametrize("scheme", ["w8a8", "w8a16"])
def test_live_activations_are_what_the_replay_holds(scheme):
    """A tensor larger than its product's output has that product's width as well."""
    model, target = load_model(f"{__file__}:upsampled"), load_target("hexagon")
    plan = solve(tables_of(model, target), Request(objective=("latency",), pins=(f"*={scheme}",)))
    peak = max(replay(plan, model.graph, target).schedule.live)
    assert peak == (8 + 2) * 32 * 32 * (2 if scheme == "w8a16" else 1)
    assert plan.totals.activation_bytes == peak


def test_layers_that_read_one_tensor_agree():
    tables = tables_of(load_model(f"{__file__}:three_readers"), load_target("fpga_zu9eg"))
    assert [(set(group.layers), group.on) for group in tables.agreements] == [
        ({"q", "k", "v"}, ("act_bits",))
    ]
    least = solve(tables, Request(objective=("latency",))).totals.latency
    plan = solve(tables, Request(limits=Limits(latency=1.2 * least)))
    assert len({layer.act_bits for layer in plan.layers if layer.name in "qkv"}) == 1


def test_a_dearer_conversion_leaves_fewer_changes_of_width(model):
    """With conversions a thousand times dearer, the best plan changes width no more often than before."""
    tables = tables_of(model, load_target("fpga_zu9eg"))
    least = solve(tables, Request(objective=("latency",))).totals.latency
    request = Request(limits=Limits(latency=1.3 * least))

    def changes(plan):
        bits = {layer.name: layer.act_bits for layer in plan.layers}
        return sum(bits[b.source] != bits[b.target] for b in tables.boundaries)

    dear = tables.model_copy(
        update={
            "boundaries": tuple(
                boundary.model_copy(
                    update={
                        "rules": tuple(
                            rule.model_copy(update={"cycles": 1000 * rule.cycles, "alone_cycles": None})
                            for rule in boundary.rules
                        )
                    }
                )
                for boundary in tables.boundaries
            )
        }
    )
    assert changes(solve(dear, request)) <= changes(solve(tables, request))


def test_tables_are_priced_again_where_the_plan_has_its_tensors(model):
    """A plan whose weights stay in flash although each of its schemes alone was priced with them on the chip."""
    target, graph = load_target("mcu_m55_u55"), model.graph
    offered = network_schemes(graph.products(), target, Widths())
    costs = layer_costs(graph.products(), offered, target, graph_layers=graph.layers)
    profile, vectors = profile_shapes(model, offered), vector_costs(graph.layers, target)
    tables = fill_tables(graph, target, costs, vectors, profile.layers, {})
    run = Run(None, target, model, profile, costs, vectors, tables)
    assignments = {layer.name: LayerAssignment(Scheme(8, 8)) for layer in graph.products()}
    near = simulate_plan(graph, assignments, 1, target)
    far = replace(near, placement=near.placement._replace(weights=1))
    assert near.weight_home == "sram"
    assert not price_again(run, near)
    assert price_again(run, far)
    assert not price_again(run, far)
    slower = [
        (option.cycles, old.cycles)
        for layer, known in zip(run.tables.layers, tables.layers, strict=True)
        for option, old in zip(layer.options, known.options, strict=True)
    ]
    assert all(new >= old for new, old in slower)
    assert any(new > old for new, old in slower)
