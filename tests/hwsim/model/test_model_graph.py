"""The layer graph as a document: round trip, networkx view, live ranges, and that reading it is cheap."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.errors import UserError
from hwsim.model.graph import ConvShape, Layer, LayerGraph
from hwsim.model.live import live_ranges


def _layer(name, inputs, elements, kind="add", **more):
    shapes = ((2, 3),) * len(inputs)
    return Layer(name, kind, kind, tuple(inputs), shapes, (elements,), elements=elements, **more)


def _graph(layers, outputs):
    return LayerGraph("timm:some", tuple(layers), ("x",), tuple(outputs), 7, ((2, 3),))


CONV = ConvShape((3, 3), (2, 2), (1, 1), (1, 1), 8, 16, (8, 8), (4, 4))
SAMPLE = _graph(
    [
        _layer(
            "conv", ["input:x"], 256, "conv2d", conv=CONV, m=16, n=4, k=18, groups=4, macs=4608, weight="w"
        ),
        _layer("act", ["conv"], 256),
        _layer("tie", ["act", "conv"], 9, "linear", m=1, n=9, k=2, macs=18, weight="w", group="act"),
    ],
    ["tie"],
)


def test_json_round_trip_is_exact():
    assert LayerGraph.from_json(SAMPLE.to_json()) == SAMPLE


def test_unknown_schema_version_is_refused():
    with pytest.raises(UserError, match="schema_version 9"):
        LayerGraph.from_json(SAMPLE.to_json().replace('"schema_version": 1', '"schema_version": 9'))


def test_totals_products_and_lookup():
    assert SAMPLE.total_macs == 4626
    assert [layer.name for layer in SAMPLE.products()] == ["conv", "tie"]
    assert [layer.name for layer in SAMPLE.vector_work()] == ["act"]
    assert SAMPLE.by_name("act").elements == 256
    assert SAMPLE.tied_weights() == {"w": ("conv", "tie")}
    with pytest.raises(UserError, match="no layer 'nope'"):
        SAMPLE.by_name("nope")


def test_networkx_view_has_the_same_edges_and_bytes():
    found = SAMPLE.to_networkx()
    assert set(found.edges) == {("input:x", "conv"), ("conv", "act"), ("act", "tie"), ("conv", "tie")}
    assert found.nodes["conv"]["output_bytes"] == 1024
    assert found.edges["act", "tie"]["bytes"] == 24


def test_reading_the_document_imports_nothing_heavy():
    code = (
        "import sys, hwsim.model.graph, hwsim.model.sources, hwsim.model.live, hwsim.cli.model\n"
        "print([m for m in ('torch', 'timm', 'transformers', 'networkx', 'numpy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@st.composite
def graphs(draw):
    """Random directed acyclic graphs."""
    count = draw(st.integers(1, 12))
    names = ["input:x"]
    layers = []
    for index in range(count):
        inputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
        layers.append(_layer(f"n{index}", inputs, draw(st.integers(1, 100))))
        names.append(f"n{index}")
    outputs = draw(st.lists(st.sampled_from(names[1:]), min_size=1, max_size=2, unique=True))
    return _graph(layers, outputs)


@given(graphs())
def test_live_ranges_equal_a_simulation_that_frees_after_the_last_use(graph):
    sizes = {"input:x": 6, **{layer.name: layer.elements for layer in graph.layers}}
    alive, peak = {"input:x"}, 0
    for step, layer in enumerate(graph.layers):
        alive.add(layer.name)
        peak = max(peak, sum(sizes[name] for name in alive))
        later = {name for other in graph.layers[step + 1 :] for name in other.inputs}
        alive = {name for name in alive if name in later or name in graph.outputs}
    assert live_ranges(graph).peak == peak
