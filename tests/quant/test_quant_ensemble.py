"""Telescoped ensembles: exact for one network, better than the base for more, bias counted once."""

import pytest
import torch
from torch import fx, nn

from quant.ensemble import networks, runnable, split_orders, with_ensemble
from quant.errors import QuantError
from quant.observe import observe_ranges
from quant.qmodel import QuantizedModel, quantize
from quant.scheme import Scheme

LAYERS = ["a", "b", "c", "d"]


class Mlp(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in LAYERS)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = x + torch.nn.functional.gelu(layer(self.norm(x)))
        return (self.layers[-1](x),)


@pytest.fixture(scope="module")
def traced():
    torch.manual_seed(3)
    graph = torch.export.export(Mlp().eval(), (torch.randn(64, 48),)).module()
    nodes = [n for n in graph.graph.nodes if n.target is torch.ops.aten.linear.default]
    for node, name in zip(nodes, LAYERS, strict=True):
        node.meta["layer"] = name
    for node in list(graph.graph.nodes):
        if node.op == "call_module":
            graph.graph.erase_node(node)
    graph.recompile()
    return graph, torch.randn(64, 48)


def make(traced, text) -> QuantizedModel:
    graph, x = traced
    names = dict.fromkeys(LAYERS, Scheme.parse(text))
    return with_ensemble(quantize(graph, names, ranges=observe_ranges(graph, names, [(x,)])))


def run(module, x):
    with torch.no_grad():
        return module(x)[0]


def test_orders_are_split_in_consecutive_groups():
    assert split_orders(3, 2) == ((1, 2), (1, 3))
    assert split_orders(5, 2) == ((1, 2, 3), (1, 4, 5))
    assert split_orders(2, 1) == ((1, 2),)
    assert split_orders(2, 2) in (((1,), (1, 2)), ((1, 2), (1,)))


@pytest.mark.parametrize("text", ["w4a8.o2", "w4a8.o3.g50"])
def test_one_group_equals_the_plain_expansion(traced, text):
    model = make(traced, text)
    alone = with_ensemble(model, {n: (tuple(range(1, len(model.layers[n].terms) + 1)),) for n in LAYERS})
    assert torch.allclose(
        run(runnable(alone), traced[1]), run(model.integer(), traced[1]), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("text", ["w3a12.o3.e2", "w2a12.o4.e2", "w2a12.o4.e3", "w3a12.o3.g50.e2"])
def test_ensemble_is_closer_to_float_than_its_base(traced, text):
    graph, x = traced
    model = make(traced, text)
    reference = run(graph, x)
    base, *expanded = networks(model)
    error = float((run(runnable(model), x) - reference).norm())
    assert len(expanded) == Scheme.parse(text).predictors
    assert error < 0.75 * float((run(base.integer(), x) - reference).norm())
    assert error < min(float((run(m.integer(), x) - reference).norm()) for m in expanded[1:])


def test_bias_counts_once_with_zero_weights():
    module = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 4))
    for layer in module:
        nn.init.zeros_(layer.weight)
    x = torch.randn(3, 5)
    graph = torch.export.export(module, (x,)).module()
    nodes = [n for n in graph.graph.nodes if n.target is torch.ops.aten.linear.default]
    for node, name in zip(nodes, "ab", strict=True):
        node.meta["layer"] = name
    names = dict.fromkeys("ab", Scheme.parse("w4a8.o4.e3"))
    model = with_ensemble(quantize(graph, names, ranges=observe_ranges(graph, names, [(x,)])))
    assert torch.allclose(run(runnable(model), x), module[1].bias.detach().expand(3, 4), atol=1e-6)


def test_ensemble_survives_the_disk(traced, tmp_path):
    model = make(traced, "w4a8.o3.e2")
    model.save(tmp_path)
    again = QuantizedModel.load(tmp_path, traced[0])
    assert again.holds == model.holds
    assert torch.equal(run(runnable(again), traced[1]), run(runnable(model), traced[1]))


@pytest.mark.parametrize("holds", [((1, 2), (2, 3)), ((1, 2), (1, 2, 3)), ((1, 2), (1,))])
def test_wrong_groups_are_refused(traced, holds):
    with pytest.raises(QuantError, match="ensemble, a"):
        with_ensemble(make(traced, "w4a8.o3"), {"a": holds})


def test_integer_module_is_a_graph(traced):
    assert isinstance(runnable(make(traced, "w4a8.o2")), fx.GraphModule)
