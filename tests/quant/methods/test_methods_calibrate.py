"""The sequential pass on every topology: equivalences, no side effects, and the order of errors."""

import pytest
import torch

from quant.errors import QuantError
from quant.methods.calibrate import CalibrationOptions, calibrate
from quant.methods.dual_clipping import DualClippingOptions
from quant.methods.gptq import GptqOptions
from quant.methods.interpret import GraphRunner, integer_model
from quant.methods.norm_sites import find_norm_sites
from quant.model_pass import attribute, find_products
from quant.qmodel import QuantizedModel
from quant.scheme import Scheme
from tests.quant.methods.toy_networks import batches, eager, loaded

NAMES = ("pre_norm", "post_norm", "gated", "residual")


def assignment(name, text):
    return {product.name: Scheme.parse(text) for product in find_products(loaded(name))}


def weighted(name, text, rest):
    return {p.name: Scheme.parse(rest if p.kind == "matmul" else text) for p in find_products(loaded(name))}


def float_logits(name, data):
    runner = GraphRunner(loaded(name))
    with torch.no_grad():
        return torch.cat([runner.logits(batch) for batch in data])


def logits(calibrated, data):
    return torch.cat([calibrated.logits(batch) for batch in data])


@pytest.mark.parametrize("name", NAMES)
def test_runner_equals_the_eager_network(name):
    data = batches(name, 2)
    with torch.no_grad():
        expected = torch.cat([eager(name)(*batch) for batch in data])
    torch.testing.assert_close(float_logits(name, data), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_reparameterized_graph_is_the_same_function_and_the_original_is_untouched(name):
    """R1, R10: all topologies, RMSNorm, post-LN residual, shared norm; B3: nothing shared is written."""
    module, data = loaded(name), batches(name, 3)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    options = CalibrationOptions(reparameterize=True, clip=DualClippingOptions(steps=20))
    result = calibrate(module, assignment(name, "w8a8"), data, options)
    with torch.no_grad():
        moved = torch.cat([GraphRunner(result.module).logits(batch) for batch in data])
    torch.testing.assert_close(moved, float_logits(name, data), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in before.items())
    sites = find_norm_sites(module, GraphRunner(module).products)
    assert len(sites) == {"pre_norm": 2, "post_norm": 2, "gated": 1, "residual": 0}[name]
    assert sum("reparameterized, r1" in note for note in result.notes.values()) == len(sites)


@pytest.mark.parametrize("name", NAMES)
def test_eight_bits_are_close_and_integers_agree_with_the_simulation(name):
    data = batches(name, 3)
    exact = float_logits(name, data)
    recipe = CalibrationOptions("minmax", "minmax", reparameterize=True, gptq=GptqOptions(), bias="layer")
    result = calibrate(loaded(name), assignment(name, "w8a8"), data, recipe)
    ours = logits(result, data)
    assert float((ours - exact).square().mean() / exact.square().mean()) < 5e-3
    integers = integer_model(result.module, result.placement).integer()
    with torch.no_grad():
        whole = torch.cat([integers(*batch)[0] for batch in data])
    assert float((whole - ours).square().mean() / exact.square().mean()) < 1e-5


@pytest.mark.parametrize("name", ["pre_norm", "post_norm"])
def test_reparameterization_helps_at_four_bit_activations(name):
    data = batches(name, 6)
    exact = float_logits(name, data)
    errors = {}
    for flag in (False, True):
        result = calibrate(
            loaded(name),
            assignment(name, "w8a4"),
            data,
            CalibrationOptions("mse", "mse", reparameterize=flag),
        )
        errors[flag] = float((logits(result, data) - exact).square().mean())
    assert errors[True] < errors[False]


@pytest.mark.parametrize("name", NAMES)
def test_gptq_and_expansion_lower_the_error(name):
    data = batches(name, 6)
    exact = float_logits(name, data)

    def error(text, **options):
        result = calibrate(
            loaded(name), weighted(name, text, "fp"), data, CalibrationOptions("mse", "minmax", **options)
        )
        return float((logits(result, data) - exact).square().mean())

    nearest, ours = error("w3"), error("w3", gptq=GptqOptions())
    expanded = error("w3.o2", gptq=GptqOptions())
    assert ours < nearest
    assert expanded < 0.2 * ours
    assert error("w3.o2.g50", gptq=GptqOptions()) < nearest


def test_sequential_bias_beats_float_path_bias_and_there_is_one_per_layer():
    """B6 and B8."""
    data = batches("pre_norm", 8)
    exact = float_logits("pre_norm", data)
    errors = {}
    for path in ("none", "float", "quantized"):
        options = CalibrationOptions(
            "mse",
            "mse",
            bias=None if path == "none" else "none",
            bias_path="float" if path == "float" else "quantized",
        )
        result = calibrate(loaded("pre_norm"), assignment("pre_norm", "w3a4"), data, options)
        errors[path] = float((logits(result, data) - exact).square().mean())
    assert errors["quantized"] <= errors["float"]
    assert errors["quantized"] < errors["none"]
    two = calibrate(
        loaded("pre_norm"), weighted("pre_norm", "w2a8.o2", "w8a8"), data, CalibrationOptions(bias="layer")
    )
    layer = two.placement.layers["fc1"]
    assert len(layer.terms) == 2
    assert layer.bias is not None
    assert layer.bias.shape == (32,)
    output = GraphRunner(two.module)
    env, node = output.feed(data[0]), next(n for n, p in output.products.items() if p.name == "fc1")
    with torch.no_grad():
        output.run(env, output.nodes[: output.nodes.index(node) + 1], two.placement, frozenset({node}))
        expected = env[node]
    assert torch.isfinite(expected).all()


def test_positional_bias_leaves_no_error_at_any_position_and_fits_one_length():
    """B7: the authors' size of B, simulation only."""
    data = batches("pre_norm", 6)
    options = CalibrationOptions("mse", "mse", bias="none", bias_axes="position")
    result = calibrate(loaded("pre_norm"), assignment("pre_norm", "w3a6"), data, options)
    assert result.placement.layers["fc1"].offset.shape == (7, 32)
    runner, name = GraphRunner(result.module), "fc1"
    node = next(node for node, product in runner.products.items() if product.name == name)
    gaps = []
    for batch in data:
        exact, ours = runner.feed(batch), runner.feed(batch)
        upto = runner.nodes[: runner.nodes.index(node) + 1]
        with torch.no_grad():
            runner.run(exact, upto, None, frozenset({node}))
            runner.run(ours, upto, result.placement, frozenset({node}))
        gaps.append(exact[node] - ours[node])
    assert float(torch.cat(gaps).mean(0).abs().max()) < 1e-5
    with pytest.raises(QuantError, match="does not fit outputs"):
        runner.evaluate(node, _cut(runner, node, 5), result.placement)
    with pytest.raises(QuantError, match="one bias a position has no integer"):
        integer_model(result.module, result.placement)


def test_local_bias_repairs_what_the_layer_itself_adds():
    """Float against quantized product of the same inputs, those of the quantized path: no mean error is left."""
    data = batches("pre_norm", 6)
    options = CalibrationOptions("mse", "mse", bias="none", bias_path="local")
    result = calibrate(loaded("pre_norm"), assignment("pre_norm", "w3a4"), data, options)
    runner = GraphRunner(result.module)
    node = next(node for node, product in runner.products.items() if product.name == "fc2")
    gaps = []
    for batch in data:
        env = runner.feed(batch)
        with torch.no_grad():
            runner.run(
                env,
                runner.nodes[: runner.nodes.index(node)],
                result.placement,
                frozenset(node.all_input_nodes),
            )
            gaps.append(runner.evaluate(node, env) - runner.evaluate(node, env, result.placement))
    error = torch.cat(gaps)
    assert float(error.mean((0, 1)).abs().max()) < 1e-5
    assert float(error.abs().max()) > 1e-2


def _cut(runner, node, length):
    """The input of a product, shortened to a number of tokens."""
    source = runner.products[node].inputs[0]
    return {source: torch.zeros(8, length, source.meta["val"].shape[-1])}


def test_bias_leaves_the_structure_of_several_outputs():
    """B4: a network that returns a tuple of batches still does, and only the layers' outputs move."""
    data = batches("paired", 3)
    result = calibrate(loaded("paired"), assignment("paired", "w3a8"), data, CalibrationOptions(bias="layer"))
    with torch.no_grad():
        exact, ours = (
            loaded("paired")(*data[0]),
            integer_model(result.module, result.placement).integer()(*data[0]),
        )
    assert isinstance(ours, tuple)
    assert [tuple(x.shape) for x in ours] == [tuple(x.shape) for x in exact] == [(8, 7, 5), (8, 7, 16)]
    plain = calibrate(loaded("paired"), assignment("paired", "w3a8"), data)
    gap = [
        (logits(made, data) - float_logits("paired", data)).mean((0, 1)).abs().max()
        for made in (result, plain)
    ]
    assert float(gap[0]) < 0.2 * float(gap[1])


def test_sequential_bias_leaves_no_mean_error_at_the_logits():
    data = batches("residual", 6)
    result = calibrate(
        loaded("residual"),
        assignment("residual", "w3a6"),
        data,
        CalibrationOptions("mse", "mse", bias="none"),
    )
    gap = logits(result, data) - float_logits("residual", data)
    assert float(gap.mean(0).abs().max()) < 1e-4


def test_weights_of_touched_layers_follow_the_reparameterization():
    """R3: the terms approximate the rewritten weight, not the old one."""
    result = calibrate(
        loaded("pre_norm"),
        assignment("pre_norm", "w8a8"),
        batches("pre_norm"),
        CalibrationOptions(reparameterize=True),
    )
    for product in find_products(result.module):
        layer = result.placement.layers[product.name]
        if product.kind == "matmul":
            continue
        weight = attribute(result.module, product.weight).detach()
        assert float((layer.weight - weight).abs().max() / weight.abs().max()) < 0.01, product.name


@pytest.mark.parametrize(
    ("scheme", "zero", "steps", "loss"),
    [("w8a8", "strict", 2, 0.05), ("w8a4", "extended", 2, 0.5), ("w8a8", "strict", 1, 0.05)],
)
def test_log_softmax_in_simulation_and_in_integers(tmp_path, scheme, zero, steps, loss):
    """Both agree to float rounding, also after saving and loading, and so does the differentiable twin."""
    data = batches("pre_norm", 3)
    options = CalibrationOptions(log_softmax=zero, log_steps=steps)
    result = calibrate(loaded("pre_norm"), assignment("pre_norm", scheme), data, options)
    exact = float_logits("pre_norm", data)
    assert float((logits(result, data) - exact).square().mean() / exact.square().mean()) < loss
    (note,) = [text for text in result.notes.values() if "log codes" in text]
    assert 0.9 < float(note.rpartition(" ")[2]) < 1.1  # R7
    model = integer_model(result.module, result.placement)
    assert any(str(n.target) == "hwsim.int_log_matmul.default" for n in model.integer().graph.nodes)
    model.save(tmp_path)
    again = QuantizedModel.load(tmp_path, result.module)
    assert again.activations == model.activations
    simulated = logits(result, data[:1])
    for module in (again.integer(), again.fake()):
        with torch.no_grad():
            found = module(*data[0])[0]
        assert float((found - simulated).abs().max()) < 0.02 * float(simulated.abs().max())


def test_user_mistakes():
    with pytest.raises(QuantError, match="no samples"):
        calibrate(loaded("pre_norm"), {}, [])
    with pytest.raises(QuantError, match="not a product"):
        calibrate(loaded("pre_norm"), {"nosuch": Scheme(4, 4)}, batches("pre_norm", 1))
    with pytest.raises(QuantError, match="both widths"):
        calibrate(loaded("pre_norm"), assignment("pre_norm", "w4"), batches("pre_norm", 1))


def test_a_layer_that_reads_a_parameter_is_calibrated_like_any_other():
    """Learned queries stand in no stream: they are read from the graph."""
    module, data = loaded("queries"), batches("queries", 4)
    errors = []
    for options in (
        CalibrationOptions(),
        CalibrationOptions("mse", "mse", gptq=GptqOptions(), asymmetric=True, bias="layer"),
    ):
        ours = calibrate(module, assignment("queries", "w4a6"), data, options)
        integer = integer_model(ours.module, ours.placement).integer()
        torch.testing.assert_close(integer(*data[0])[0], ours.logits(data[0]), rtol=1e-3, atol=1e-3)
        errors.append(float((logits(ours, data) - float_logits("queries", data)).square().mean()))
    assert errors[1] < errors[0]
