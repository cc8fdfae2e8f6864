"""The gain against numpy, its way into the integer codes, and the deep network that a bias alone silences."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from quant.errors import QuantError
from quant.methods.bias_choice import CANDIDATES, choose_bias, likely
from quant.methods.calibrate import CalibrationOptions, calibrate
from quant.methods.held_out import divergence, float_predictions
from quant.methods.interpret import GraphRunner, integer_model
from quant.methods.output_gain import LIMIT, amplified, output_gain
from quant.model_pass import find_products
from quant.pipeline import apply_recipe, bias_kinds, calibration_options, run_recipe, uniform_assignment
from quant.recipe import Recipe
from quant.scheme import Scheme
from quant.terms import Term
from tests.quant.methods.toy_networks import batches, loaded


@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 4, 3), 1), ((6, 7, 5), 2), ((9, 5), 1)])
def test_gain_is_the_ratio_of_deviations(shape, axis):
    generator = np.random.default_rng(0)
    exact = generator.normal(3, 2, shape)
    output = generator.normal(-1, 1, shape) * np.expand_dims(
        [0.7, 1, 1.5, 2, 0.9], tuple(i for i in range(len(shape)) if i != axis)
    )
    rest = tuple(i for i in range(len(shape)) if i != axis)
    wanted = exact.std(rest) / output.std(rest)
    pairs = [tuple(torch.tensor(part[i : i + 3]) for part in (exact, output)) for i in range(0, shape[0], 3)]
    np.testing.assert_allclose(output_gain(pairs, axis, "channel"), wanted.clip(1 / LIMIT, LIMIT), rtol=1e-6)
    layer = output_gain(pairs, axis, "layer")
    np.testing.assert_allclose(layer, np.exp(np.log(wanted.clip(1 / LIMIT, LIMIT)).mean()), rtol=1e-6)


def test_channels_without_spread_and_silent_ones_are_left_bounded():
    exact = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    output = exact.clone()
    output[:, 0], output[:, 1] = 5.3, output[:, 1] * 1e-3
    gain = output_gain([(exact, output)], 1, "channel")
    assert gain[0] == 1.0
    assert gain[1] == LIMIT
    assert gain[2] == pytest.approx(1.0)


def test_scales_take_the_gain_and_codes_stay():
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-3, 4, (4, 6), generator=generator).to(torch.int8)
    rows = torch.tensor([1, 3], dtype=torch.int32)
    terms = (Term(codes, torch.rand(4) + 0.1, 3), Term(codes[:2], torch.rand(2) + 0.1, 3, rows=rows))
    gain = torch.tensor([0.5, 1.0, 2.0, 3.0])
    more = amplified(terms, gain)
    for old, new in zip(terms, more, strict=True):
        assert torch.equal(old.codes, new.codes)
        torch.testing.assert_close(new.value((4, 6)), gain[:, None] * old.value((4, 6)))


class Carrier(nn.Module):
    """Four numbers written into 64 channels, rectified and read out again by least squares, eight times over.

    Like a trained network and unlike a random one: the signal is of low rank, so it outlives the noise of the codes.
    """

    def __init__(self, depth=8, width=64, count=4):
        super().__init__()
        self.body = nn.ModuleList(nn.Linear(width if i else count, width) for i in range(depth))
        self.head = nn.Linear(width, count)
        wanted = torch.randn(2048, count)
        x, read, shift = wanted, torch.eye(count), torch.zeros(count)
        with torch.no_grad():
            for layer in self.body:
                write = torch.randn(width, count) / 2
                layer.weight.copy_(write @ read)
                layer.bias.copy_(write @ shift - 0.5)
                x = torch.relu(layer(x))
                found = torch.linalg.lstsq(torch.cat([x, torch.ones(2048, 1)], 1), wanted).solution
                read, shift = found[:-1].T, found[-1]
            self.head.weight.copy_(3 * read)
            self.head.bias.copy_(3 * shift)

    def forward(self, x):
        for layer in self.body:
            x = torch.relu(layer(x))
        return self.head(x)


def carrier():
    """Graph, plan, calibration batches and fresh ones."""
    torch.manual_seed(4)
    graph = torch.export.export(Carrier().eval(), (torch.zeros(32, 4),)).module()
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.linear.default:
            node.meta["layer"] = str(node.args[1]).removesuffix("_weight")
    names = [product.name for product in find_products(graph)]
    plan = uniform_assignment(names, Scheme.parse("w2a4"), first_last_bits=8)
    data = [(torch.randn(32, 4),) for _ in range(20)]
    return graph, plan, data[:10], data[10:]


def test_the_default_mends_a_deep_network_that_a_bias_alone_does_not():
    """At 2 bits the codes eat the spread layer by layer: the right mean in every layer is worth nothing."""
    graph, plan, data, fresh = carrier()
    reference = float_predictions(graph, fresh)

    def error(steps, **bias):
        recipe = Recipe.parse({"steps": steps, **({"bc": bias} if bias else {})})
        return divergence(apply_recipe(graph, plan, data, recipe), fresh, reference)

    plain, ours = error(["mse"]), error(["mse", "bc"])
    alone = min(error(["mse", "bc"], path=path) for path in ("quantized", "local", "float"))
    assert ours < 0.5 * plain
    assert ours < 0.8 * alone
    refereed = run_recipe(graph, plan, data, Recipe.parse("mse+bc"), tolerance=1e9)
    assert refereed.recipe.setting("bc", "gain") != "none"
    assert divergence(refereed.calibrated, fresh, reference) < 0.5 * plain
    integers = refereed.quantized_model().integer()
    with torch.no_grad():
        whole = integers(*fresh[0])
    whole = whole[0] if isinstance(whole, tuple) else whole
    torch.testing.assert_close(whole, refereed.calibrated.logits(fresh[0]), rtol=1e-3, atol=1e-3)


def test_the_candidate_is_chosen_on_the_half_that_it_was_not_fitted_to_and_fitted_on_all():
    graph, plan, data, _ = carrier()
    options = CalibrationOptions("mse", "mse", bias="layer", bias_axes="groups")
    rounded = calibrate(graph, plan, data, replace(options, bias=None))
    even, odd = data[::2], data[1::2]
    scores = {}
    for path, gain in CANDIDATES:
        kind = replace(options, bias_path=path, bias_gain=gain)
        made = calibrate(graph, plan, even, kind, start=rounded)
        scores[path, gain] = divergence(made, odd, float_predictions(graph, odd))
    best = min(scores, key=scores.__getitem__)
    assert choose_bias(rounded, plan, options, CANDIDATES, data) == best
    assert choose_bias(rounded, plan, options, CANDIDATES, data[:1]) == CANDIDATES[0]  # nothing to choose on
    ours = apply_recipe(graph, plan, data, Recipe.parse("mse+bc"))
    kind = replace(options, bias_path=best[0], bias_gain=best[1])
    wanted = calibrate(rounded.module, plan, data, kind, start=rounded)
    assert torch.equal(ours.logits(data[0]), wanted.logits(data[0]))


@pytest.mark.parametrize("name", ["pre_norm", "post_norm", "gated", "residual"])
def test_a_pass_on_an_earlier_one_keeps_its_rounding_and_its_folding(name):
    """Codes and the grids of folded norms stay; mean and spread of every layer become the float ones."""
    data = batches(name, 6)
    plan = {
        p.name: Scheme.parse("w4a6" if p.kind != "matmul" else "w6a6") for p in find_products(loaded(name))
    }
    options = CalibrationOptions("mse", "mse", reparameterize=True, bias="none", bias_gain="channel")
    rounded = calibrate(loaded(name), plan, data, replace(options, bias=None))
    made = calibrate(rounded.module, plan, data, options, start=rounded)
    for layer, before in rounded.placement.layers.items():
        after = made.placement.layers[layer]
        assert all(torch.equal(a.codes, b.codes) for a, b in zip(after.terms, before.terms, strict=True))
    assert all(made.placement.activations[k] is rounded.placement.activations[k] for k in rounded.folded)
    assert bool(rounded.folded) == (name != "residual")
    runner = GraphRunner(made.module)
    for node, product in runner.products.items():
        if product.kind == "matmul":
            continue
        upto, found = runner.nodes[: runner.nodes.index(node) + 1], []
        for placement in (None, made.placement):
            parts = []
            for batch in data:
                env = runner.feed(batch)
                with torch.no_grad():
                    runner.run(env, upto, placement, frozenset({node}))
                parts.append(env[node])
            rows = torch.cat(parts).movedim(1 if product.kind == "conv2d" else -1, 0).flatten(1).double()
            found.append((rows.mean(1), rows.std(1)))
        torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)
    whole = integer_model(made.module, made.placement).integer()
    with torch.no_grad():
        logits = whole(*data[0])
    logits = logits[0] if isinstance(logits, tuple) else logits
    torch.testing.assert_close(logits, made.logits(data[0]), rtol=1e-3, atol=1e-3)


def test_settings_of_the_gain():
    def kinds(**settings):
        return bias_kinds(Recipe.parse({"steps": ["bc"], "bc": settings}))

    assert kinds() == list(CANDIDATES)
    assert kinds(path="fp") == [("float", "none")]
    assert kinds(path="local", gain="layer") == [("local", "layer")]
    assert kinds(gain="none") == [("quantized", "none"), ("local", "none")]
    assert bias_kinds(Recipe.parse("pow2+bc")) == [("quantized", "none"), ("local", "none")]
    with pytest.raises(QuantError, match=r"bc.gain: no 'loud'"):
        kinds(gain="loud")
    with pytest.raises(QuantError, match="powers of two"):
        bias_kinds(Recipe.parse({"steps": ["pow2", "bc"], "bc": {"gain": "layer"}}))


@pytest.mark.parametrize(
    ("scheme", "steps", "missing"),
    [
        ("w4a4", "mse+bc", ("quantized", "none")),
        ("w8a8", "mse+bc", ("quantized", "channel")),
        ("w4a4.o2", "mse+bc", ("quantized", "channel")),
        ("w4a4", "gptq+bc", None),
    ],
)
def test_what_is_tried_follows_from_the_rounding(scheme, steps, missing):
    tried = likely({"layer": Scheme.parse(scheme)}, calibration_options(Recipe.parse(steps)), 64)
    assert set(CANDIDATES) - set(tried) == ({missing} if missing else set())


@pytest.mark.parametrize(("scheme", "steps"), [("w2a4", "mse+bc"), ("w4a4", "mse+gptq+bc")])
def test_no_channel_gain_is_tried_on_a_handful_of_samples(scheme, steps):
    few = likely({"layer": Scheme.parse(scheme)}, calibration_options(Recipe.parse(steps)), 7)
    assert "channel" not in {gain for _, gain in few} and len(few) == len(CANDIDATES) - 1


def test_a_gain_that_the_recipe_names_stays_on_a_handful_of_samples():
    data = batches("pre_norm", 4, batch=1)
    assignment = dict.fromkeys((p.name for p in find_products(loaded("pre_norm", 1))), Scheme(4, 8))
    recipe = Recipe.parse({"steps": ["mse", "bc"], "bc": {"gain": "channel"}})
    result = run_recipe(loaded("pre_norm", 1), assignment, data, recipe, tolerance=1e9)
    assert result.recipe.setting("bc", "gain") == "channel"
