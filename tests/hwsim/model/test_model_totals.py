"""Totals against published figures.

Counted: multiply-accumulates of all products, the two of attention included; biases, norms, softmax, activations and
pools are not. Published figures that leave attention products out are compared with them left out.
"""

import resource
import sys

import pytest

from hwsim.model.graph import LayerGraph
from hwsim.model.load import load_model

# GMAC and millions of parameters: timm's results tables and the papers (He 2016, Sandler 2018, Touvron 2021,
# Liu 2021, Radosavovic 2020, Tan 2019).
PUBLISHED = {
    "resnet18": (1.82, 11.69),
    "resnet50": (4.10, 25.56),
    "mobilenet_v2": (0.30, 3.50),
    "vit_b": (17.58, 86.57),
    "deit_t": (1.26, 5.72),
    "swin_t": (4.50, 28.29),
    "regnetx_600mf": (0.60, 6.20),
    "regnetx_3.2gf": (3.2, 15.30),
    "mnasnet": (0.314, 4.38),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_and_parameters_agree_with_the_published_ones(name):
    macs, parameters = PUBLISHED[name]
    loaded = load_model(name, device="meta")
    assert loaded.weights.kind == "meta"
    assert loaded.illustrative
    assert loaded.graph.total_macs == pytest.approx(macs * 1e9, rel=0.01)
    assert loaded.graph.parameters == pytest.approx(parameters * 1e6, rel=0.01)
    assert LayerGraph.from_json(loaded.graph.to_json()) == loaded.graph


def test_bert_base_macs_equal_the_closed_form():
    n, d, f, v, layers = 128, 768, 3072, 30522, 12
    graph = load_model("bert_base", device="meta").graph
    block = n * (4 * d * d + 2 * d * f) + 2 * n * n * d
    assert graph.total_macs == layers * block + n * d * d + n * d * v
    assert graph.tied_weights() == {
        "cls.predictions.decoder.weight": ("bert.embeddings.word_embeddings", "cls.predictions.decoder")
    }


def test_batch_and_sequence_scale_the_counts():
    one = load_model("minilm_l6", device="meta", sequence=32).graph
    four = load_model("minilm_l6", device="meta", sequence=32, batch=4).graph
    weighted = [layer for layer in one.products() if layer.kind == "linear" and "pooler" not in layer.name]
    assert four.total_macs == 4 * one.total_macs
    assert all(four.by_name(layer.name).m == 4 * layer.m == 4 * 32 for layer in weighted)


def test_depthwise_and_grouped_convolutions_are_counted_per_group():
    graph = load_model("mobilenet_v2", device="meta").graph
    depthwise = [layer for layer in graph.products() if layer.is_depthwise]
    assert len(depthwise) == 17
    assert all(layer.n == 1 and layer.k == 9 for layer in depthwise)
    assert all(layer.macs == layer.elements * 9 for layer in depthwise)


@pytest.mark.slow
def test_seven_billion_parameters_are_planned_from_shapes_alone():
    before = _peak_gib()
    loaded = load_model("llama_7b", sequence=64)
    graph = loaded.graph
    assert loaded.weights.kind == "meta"
    assert graph.parameters == 6_738_415_616
    names = {layer.name for layer in graph.products()}
    assert len(names) == 32 * 9 + 1
    for step in ("q_proj", "k_proj", "v_proj", "o_proj", "qk", "av"):
        assert f"model.layers.31.self_attn.{step}" in names
    for step in ("gate_proj", "up_proj", "down_proj"):
        assert f"model.layers.31.mlp.{step}" in names
    assert graph.by_name("lm_head").n == 32000
    block = 64 * (4 * 4096**2 + 3 * 4096 * 11008) + 2 * 64 * 64 * 4096
    assert graph.total_macs == 32 * block + 64 * 4096 * 32000
    assert graph.by_name("model.layers.0.self_attn.q_proj").group == "model.layers.0.input_layernorm"
    assert _peak_gib() < max(2.5, before + 1)


def _peak_gib():
    scale = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
