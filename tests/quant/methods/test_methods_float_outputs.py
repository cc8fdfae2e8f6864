"""Float outputs that passes share: the same results as with a float stream of their own, within their memory."""

from dataclasses import replace

import pytest
import torch

from quant.methods import bias_choice
from quant.methods.bias_choice import CANDIDATES, choose_bias
from quant.methods.calibrate import CalibrationOptions, calibrate
from quant.methods.float_outputs import float_outputs
from quant.methods.gptq import GptqOptions
from quant.methods.interpret import GraphRunner
from quant.model_pass import find_products
from quant.scheme import Scheme
from tests.quant.methods.toy_networks import batches, loaded

OPTIONS = CalibrationOptions("mse", "mse", reparameterize=True, bias="layer", bias_axes="groups")


def plan(name):
    return {
        p.name: Scheme.parse("w4a6" if p.kind != "matmul" else "w6a6") for p in find_products(loaded(name))
    }


@pytest.fixture
def float_calls(monkeypatch):
    """Names of the nodes that are evaluated without a placement."""
    called: list[str] = []
    evaluate = GraphRunner.evaluate

    def watched(self, node, env, placement=None):
        if placement is None:
            called.append(node.name)
        return evaluate(self, node, env, placement)

    monkeypatch.setattr(GraphRunner, "evaluate", watched)
    return called


@pytest.mark.parametrize("name", ["pre_norm", "post_norm", "paired", "residual"])
@pytest.mark.parametrize(("path", "gain"), [*CANDIDATES, ("float", "none")])
def test_a_pass_gives_the_same_bytes_with_and_without_them(name, path, gain):
    data, options = batches(name, 4), replace(OPTIONS, bias_path=path, bias_gain=gain)
    rounded = calibrate(loaded(name), plan(name), data, replace(OPTIONS, bias=None))
    wanted = float_outputs(rounded.module, plan(name), data, 1 << 30)
    assert wanted is not None
    for part in (slice(None), slice(1, None, 2)):
        alone = calibrate(rounded.module, plan(name), data[part], options, start=rounded)
        ours = calibrate(
            rounded.module, plan(name), data[part], options, start=rounded, wanted=wanted.of(part)
        )
        assert all(torch.equal(alone.logits(batch), ours.logits(batch)) for batch in data)
        for layer, placed in alone.placement.layers.items():
            bias = ours.placement.layers[layer].bias
            assert placed.bias is bias is None or torch.equal(placed.bias, bias)
    exact = [GraphRunner(rounded.module).predictions(batch) for batch in data]
    assert {len(outputs) for outputs in exact} == {2 if name == "paired" else 1}
    for ours, theirs in zip(exact, wanted.predictions, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_they_stay_within_half_of_the_memory():
    name = "pre_norm"
    data = batches(name, 4)
    wanted = float_outputs(loaded(name), plan(name), data, 1 << 30)
    assert wanted is not None
    assert sorted(wanted.products) == sorted(
        p.name for p in find_products(loaded(name)) if p.kind != "matmul"
    )
    size = wanted.cache.live
    assert size == sum(
        t.nbytes for kept in (*wanted.products.values(),) for t in kept
    )  # the head's are the logits
    assert float_outputs(loaded(name), plan(name), data, 2 * size) is not None
    assert float_outputs(loaded(name), plan(name), data, 2 * size - 1) is None
    assert float_outputs(loaded(name), {}, data, 2 * size).products == {}


def test_the_float_network_runs_only_where_a_step_looks_at_it(float_calls):
    name = "pre_norm"
    data = batches(name, 2)
    products = {p.node.name for p in find_products(loaded(name))}

    def runs(options, **given):
        float_calls.clear()
        calibrate(loaded(name), plan(name), data, options, **given)
        return sum(node in products for node in float_calls)

    plain = CalibrationOptions("mse", "mse", gptq=GptqOptions())
    rounded = calibrate(loaded(name), plan(name), data, replace(plain, gptq=None))
    wanted = float_outputs(loaded(name), plan(name), data, 1 << 30)
    all_products = len(products) * len(data)
    assert runs(plain) == 0
    assert runs(replace(plain, asymmetric=True)) == all_products
    assert runs(replace(plain, bias="layer")) == all_products
    assert runs(replace(plain, bias="layer"), start=rounded, wanted=wanted) == 0
    assert runs(replace(plain, bias="layer", bias_path="float"), start=rounded, wanted=wanted) == all_products


def test_the_choice_runs_the_float_network_once_for_each_sample(float_calls, monkeypatch):
    name = "post_norm"
    data = batches(name, 4)
    rounded = calibrate(loaded(name), plan(name), data, replace(OPTIONS, bias=None))
    kinds = (("quantized", "none"), ("quantized", "channel"), ("quantized", "layer"))
    float_calls.clear()
    ours = choose_bias(rounded, plan(name), OPTIONS, kinds, data)
    first = next(p.node.name for p in find_products(rounded.module))
    assert float_calls.count(first) == len(data)
    wanted = float_outputs(rounded.module, plan(name), data, 1 << 30)
    float_calls.clear()
    assert choose_bias(rounded, plan(name), OPTIONS, kinds, data, wanted) == ours
    assert float_calls.count(first) == 0
    monkeypatch.setattr(bias_choice, "float_outputs", lambda *_: None)  # as if they took too much memory
    assert choose_bias(rounded, plan(name), OPTIONS, kinds, data) == ours
