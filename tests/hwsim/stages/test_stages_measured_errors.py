"""The error profile put right by measurement: anchors equal what a direct run finds, the others follow."""

import json

import numpy as np
import pytest
import torch

from hwsim.cli.main import run
from hwsim.model.load import load_model
from hwsim.stages.error_profile import profile_errors
from hwsim.stages.measured_errors import LEAST, anchors, compensated, measure_errors
from quant.expansion import expand
from quant.measured import divergence
from quant.observe import observe_ranges
from quant.qmodel import quantize
from quant.scheme import Scheme
from quant.sensitivity import first_tensor
from tests.small_models import SmallTransformer

SCHEMES = [
    Scheme.parse(text) for text in ("w2a8", "w3a4", "w4a8", "w8a8", "w2a8.o2", "w2a8.o2.g50", "w3a8.o3")
]


@pytest.fixture(scope="module")
def made(pytestconfig):
    model = load_model(f"{pytestconfig.rootpath}/tests/small_models.py:transformer")
    torch.manual_seed(1)
    batches = [(torch.randn(1, 16, 12),) for _ in range(4)]
    offered = [
        SCHEMES if layer.weight is not None else [Scheme(2, 8), Scheme(4, 4), Scheme(8, 4), Scheme(8, 8)]
        for layer in model.graph.products()
    ]
    profile = profile_errors(model, offered, batches, data="test", seed=0)
    return model, batches, profile, measure_errors(model, profile, batches, prior=0)


def mean_divergence(floats, outputs):
    """Mean over the batches of the divergence of the first outputs."""
    return np.mean(
        [
            divergence([first_tensor(f)], [first_tensor(o)], "classes")
            for f, o in zip(floats, outputs, strict=True)
        ]
    )


def test_anchors_are_what_a_direct_run_finds(made):
    model, batches, profile, measured = made
    state = model.module.state_dict()
    for layer in model.graph.products():
        if layer.weight is None:
            continue
        for scheme in anchors(profile.layers[layer.name]):
            weight = state[layer.weight]
            kept = weight.clone()
            with torch.no_grad():
                floats = [model.module(*batch) for batch in batches]
                weight.copy_(expand(kept, scheme).weight().reshape(kept.shape))
                outputs = [model.module(*batch) for batch in batches]
                weight.copy_(kept)
            expected = mean_divergence(floats, outputs)
            found = measured.layers[layer.name].weights[scheme].loss
            assert found == pytest.approx(expected, rel=0.02, abs=1e-8), (layer.name, scheme)


def test_in_a_product_of_two_activations_each_width_is_that_of_its_operand(made):
    """The quantized model puts the second operand on the grid of `w`: two bits there must cost what they lose."""
    model, batches, profile, measured = made
    for layer in model.graph.products():
        if layer.weight is not None:
            continue
        for errors in (profile.layers[layer.name], measured.layers[layer.name]):
            assert errors.error(Scheme(2, 8)) > 10 * errors.error(Scheme(8, 8))
            assert errors.error(Scheme(4, 4)) > errors.error(Scheme(8, 4)) > errors.error(Scheme(8, 8))
        only = {p.name: Scheme(None, None) for p in model.graph.products()} | {layer.name: Scheme(2, 8)}
        ranges = observe_ranges(model.module, only, batches, method="mse")
        quantized = quantize(model.module, only, ranges=ranges).integer()
        with torch.no_grad():
            floats, outputs = ([form(*batch) for batch in batches] for form in (model.module, quantized))
        found = mean_divergence(floats, outputs)
        assert measured.layers[layer.name].error(Scheme(2, 8)) == pytest.approx(found, rel=0.1)


def test_options_between_anchors_keep_their_order(made):
    _, _, profile, measured = made
    for name, errors in profile.layers.items():
        if not errors.weights:
            continue
        factors = [
            measured.layers[name].weights[scheme].loss / errors.weights[scheme].loss
            for scheme in errors.weights
        ]
        known = [
            measured.layers[name].weights[scheme].loss / errors.weights[scheme].loss
            for scheme in anchors(errors)
        ]
        assert all(min(known) * 0.999 <= factor <= max(known) * 1.001 for factor in factors)


def test_few_samples_move_an_estimate_only_part_of_the_way(made):
    model, batches, profile, measured = made
    some = measure_errors(model, profile, batches, prior=12)  # 4 samples: a quarter of the way

    def between(found, own):
        return max(found, LEAST) ** 0.25 * max(own, LEAST) ** 0.75

    for name, errors in profile.layers.items():
        for scheme in anchors(errors):
            own, found = errors.weights[scheme].loss, measured.layers[name].weights[scheme].loss
            assert some.layers[name].weights[scheme].loss == pytest.approx(
                between(found, own), rel=1e-6, abs=LEAST
            )
            if compensated(scheme) in measured.layers[name].weights:
                gains = [form.layers[name].weights[compensated(scheme)].loss / form.layers[name].weights[scheme].loss
                         for form in (some, measured)]  # fmt: skip
                assert gains[0] == pytest.approx(gains[1], rel=1e-6)
        for bits, own in errors.activations.items():
            if bits is not None:
                found = measured.layers[name].activations[bits]
                assert some.layers[name].activations[bits] == pytest.approx(
                    between(found, own), rel=1e-6, abs=LEAST
                )


def test_float_stays_free_and_the_basis_says_what_was_measured(made):
    _, _, profile, measured = made
    assert "measured on 4 of the samples" in measured.basis
    assert measured.layers["qkv"].error(Scheme.parse("fp")) == 0.0
    assert set(measured.layers) == set(profile.layers)
    assert measured.layers["qkv"].activations[4] > measured.layers["qkv"].activations[8] > 0


def test_compensation_is_what_a_corrected_bias_gives(made):
    """The mean error of every output of fc1 is taken out of its bias; the profile knew what that leaves."""
    model, batches, _, measured = made
    scheme = Scheme.parse("w2")
    state = model.module.state_dict()
    layer = next(layer for layer in model.graph.products() if layer.name == "fc1")
    weight, bias = state[layer.weight], state[layer.bias]
    kept_weight, kept_bias = weight.clone(), bias.clone()
    inputs = []

    def outputs():
        found = [model.module(*batch) for batch in batches]
        return [y[0] if isinstance(y, tuple) else y for y in found]

    plain = SmallTransformer().eval()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    plain.fc1.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        floats = outputs()
        for batch in batches:
            plain(*batch)
        weight.copy_(expand(kept_weight, scheme).weight())
        shift = torch.stack([(x @ (weight - kept_weight).T).mean(dim=(0, 1)) for x in inputs]).mean(0)
        bias.sub_(shift)
        corrected = outputs()
        weight.copy_(kept_weight)
        bias.copy_(kept_bias)
    expected = np.mean([divergence([f], [o], "classes") for f, o in zip(floats, corrected, strict=True)])
    assert measured.layers["fc1"].weights[compensated(scheme)].loss == pytest.approx(
        expected, rel=0.02, abs=1e-8
    )


def test_the_planner_buys_a_bias_where_it_helps(pytestconfig, tmp_path):
    """Compensated options cost the same, so a measured plan takes them exactly where they have less error."""
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(32, 16, 12)).astype("float32"))
    model, data = f"{pytestconfig.rootpath}/tests/small_models.py:transformer", str(tmp_path / "data.npz")
    common = ["--quiet", "plan", "-t", "edge_gpu", "-m", model, "--calibration-data", data, "--measured", "4"]
    common += ["--bits", "w4a8,w8a8", "--forbid", "*=fp", "--max-latency", "1ms"]
    assert run([*common, "-o", str(tmp_path)]) == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    profile = json.loads((tmp_path / "profile.json").read_text())
    taken = 0
    for layer in plan["layers"]:
        weights = profile["layers"][layer["name"]]["weights"]
        if layer["scheme"] == "fp" or not any(scheme.endswith("+bc") for scheme in weights):
            continue
        taken += layer["recipe"] == ["bc"]
        body = layer["scheme"].removesuffix("+bc").replace("a8", "")
        other = body if layer["recipe"] else body + "+bc"
        own = body + "+bc" if layer["recipe"] else body
        assert weights[own][0] <= weights[other][0], layer["name"]
    assert taken > 0
    made = ["--quiet", "quantize", "--plan", str(tmp_path / "plan.json"), "-o", str(tmp_path / "q")]
    made += ["--model", model, "--calibration-data", data]
    assert run(made) == 0
    assert json.loads((tmp_path / "q" / "source.json").read_text())["recipe"] == "bc"
