"""PD-Quant: traps D1 to D10, units, and resume after a kill."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from quant.activation import ActQuantizer
from quant.errors import QuantError
from quant.methods.adaround import (
    RoundingVariable,
    inverse_rectified_sigmoid,
    rectified_sigmoid,
    rounding_variable,
)
from quant.methods.calibrate import CalibrationOptions, calibrate
from quant.methods.checkpoint import read_checkpoint, write_checkpoint
from quant.methods.distribution_correction import (
    BatchNormMemory,
    CorrectionOptions,
    correct_inputs,
    correction_loss,
    refuse_layer_norm,
)
from quant.methods.graph_units import cut_into_units
from quant.methods.interpret import GraphRunner, integer_model, value_of_terms
from quant.methods.learned_scale import LearnedScale, drop_mix
from quant.methods.pd_options import PdOptions, fast_options, paper_options, preset_options
from quant.methods.pd_quant import pd_quant
from quant.methods.pd_training import UnitTraining, add_gradients
from quant.methods.prediction_loss import (
    prediction_difference,
    reconstruction,
    rounding_regulariser,
    rounding_temperature,
)
from quant.methods.sample_axis import sample_leading
from quant.model_pass import attribute, find_products
from quant.scheme import Scheme
from tests.quant.methods.toy_networks import batches, eager, loaded

FAST = PdOptions(
    iterations=40,
    difference_every=2,
    learning_rate_rounding=1e-2,
    relative_scale_rate=True,
    learning_rate_scale=1e-3,
    learning_rate_bias=1e-3,
    polish=5,
    checkpoint_every=7,
)


def calibrated(name="residual", text="w3a4", count=5):
    plan = {p.name: Scheme.parse(text) for p in find_products(loaded(name))}
    return calibrate(loaded(name), plan, batches(name, count), CalibrationOptions("mse", "mse"))


def memory():
    model, found = eager("residual"), {}
    for conv, norm in (("stem", "bn0"), ("a", "bn1"), ("depthwise", "bn2"), ("b", "bn3")):
        bn = getattr(model, norm)
        found[conv] = BatchNormMemory(
            bn.running_mean, bn.running_var, bn.weight.detach(), bn.bias.detach(), bn.eps
        )
    return found


def test_kl_points_from_float_to_quantized():
    """D1."""
    g = torch.Generator().manual_seed(0)
    z, q = torch.randn(6, 5, generator=g), torch.randn(6, 5, generator=g, requires_grad=True)
    p, r = torch.softmax(z / 4, -1).numpy(), torch.softmax(q.detach() / 4, -1).numpy()
    expected = (p * np.log(p / r)).sum(1).mean()
    assert float(prediction_difference(z, q.detach(), 4.0)) == pytest.approx(expected, rel=1e-4)
    assert float(prediction_difference(z, q.detach())) != pytest.approx(
        float(prediction_difference(q.detach(), z)), rel=1e-3
    )
    shifted = (z + 3.0).requires_grad_()
    prediction_difference(z, shifted).backward()
    assert float(shifted.grad.abs().max()) < 1e-7
    prediction_difference(z, q).backward()
    assert float(q.grad.abs().max()) > 1e-3


def test_reconstruction_sums_over_channels_only():
    """D2."""
    a, b = torch.arange(24.0).reshape(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    assert float(reconstruction(a, b)) == pytest.approx(sum(v * v for v in range(24)) / 8)
    tokens = torch.ones(2, 7, 3)
    assert float(reconstruction(tokens, torch.zeros_like(tokens), -1)) == 3.0


def one_variable(share):
    """A unit under training with two rounding variables and one activation scale, all equal to 1."""
    alpha = torch.ones(2, requires_grad=True)
    scale = LearnedScale(ActQuantizer(4), torch.tensor(1.0, requires_grad=True), 0.0, torch.Generator())
    variable = RoundingVariable(alpha, alpha, alpha, alpha, (), (2,))
    options = PdOptions(difference_share=share)
    return UnitTraining(None, options, {"a": variable}, {"a.in0": scale}, {}, torch.Generator(), ())


@pytest.mark.parametrize(("share", "kept"), [(math.inf, 1.0), (0.5, 0.5 * 5 / 50), (0.0, 0.0), (100.0, 1.0)])
def test_losses_meet_in_the_gradients(share, kept):
    """D3: nothing but the prediction difference is divided by lambda, and a share bounds it on the rounding alone."""
    training, lambda_r = one_variable(share), 0.1
    alpha, scale = training.rounding["a"].alpha, training.scales["a.in0"].scale
    local = 3 * alpha[0] + 4 * alpha[1] + 7 * scale  # gradient of length 5 on the rounding
    difference = (3 * alpha[0] - 4 * alpha[1] + scale) / lambda_r  # of length 50
    add_gradients(training, local, difference)
    torch.testing.assert_close(alpha.grad, torch.tensor([3 + 30 * kept, 4 - 40 * kept]))
    assert float(scale.grad) == 17.0
    alpha.grad = scale.grad = None
    add_gradients(training, 3 * alpha[0] + 4 * alpha[1] + 7 * scale, None)  # the last gradient stands
    torch.testing.assert_close(alpha.grad, torch.tensor([3 + 30 * kept, 4 - 40 * kept]))
    assert float(scale.grad) == 17.0
    alone = one_variable(share)
    add_gradients(alone, 2 * alone.rounding["a"].alpha.sum(), None)
    assert torch.equal(alone.rounding["a"].alpha.grad, torch.tensor([2.0, 2.0]))


def test_rounding_schedule_and_regulariser():
    assert rounding_temperature(0, 100) is None
    assert rounding_temperature(19, 100) is None
    assert rounding_temperature(20, 100) == pytest.approx(20.0)
    assert rounding_temperature(100, 100) == pytest.approx(2.0)
    h = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert float(rounding_regulariser(h, 2.0)) == pytest.approx(0 + (1 - 0.25) + 1 + 0)


def test_soft_rounding_starts_at_the_float_weight_and_hardens_by_the_sign():
    """D5."""
    fraction = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        rectified_sigmoid(inverse_rectified_sigmoid(fraction)), fraction, atol=1e-4, rtol=0
    )
    model = calibrated()
    for product in find_products(model.module):
        layer = model.placement.layers[product.name]
        weight = attribute(model.module, product.weight).detach()
        variable = rounding_variable(weight, layer.terms)
        lowest = -variable.limit - 1
        inside = (variable.floor >= lowest) & (variable.floor < variable.limit)
        soft = variable.soft_weight().detach().reshape(inside.shape)
        flat = weight.reshape(inside.shape)
        assert float((soft - flat).abs()[inside].max()) < 1e-4
        codes = variable.hard_terms()[-1].codes
        up = (variable.alpha >= 0) & inside
        assert torch.equal(codes[up].float(), (variable.floor + 1)[up])
        nearest = (flat / variable.scale).round().clamp(lowest, variable.limit)
        assert float((codes.float() != nearest).float().mean()) < 0.01  # ties and clipping aside


def test_expanded_layer_learns_the_rounding_of_its_last_term():
    plan = {p.name: Scheme.parse("w3a8.o2") for p in find_products(loaded("residual"))}
    model = calibrate(loaded("residual"), plan, batches("residual", 2))
    layer, weight = model.placement.layers["a"], attribute(loaded("residual"), "a.weight").detach()
    variable = rounding_variable(weight, layer.terms)
    assert torch.equal(variable.hard_terms()[0].codes, layer.terms[0].codes)
    rebuilt = value_of_terms(variable.hard_terms(), weight.shape)
    assert float((rebuilt - weight).abs().max()) <= float(layer.terms[1].scale.max()) * 1.001


@pytest.mark.parametrize("text", ["w3a8.o2.g50", "w3a8.o2.c50"])
def test_before_a_sparse_term_the_last_whole_one_is_learned(text, tmp_path):
    """The sparse terms stand, the network comes nearer, and a killed run goes on with the term that was learned."""
    model, data = calibrated("pre_norm", text, 8), batches("pre_norm", 8)
    options = replace(FAST, iterations=60, polish=0)
    ours = pd_quant(model, data, options)
    runner, moved = GraphRunner(model.module), 0
    for name, layer in model.placement.layers.items():
        for number, (old, new) in enumerate(zip(layer.terms, ours.placement.layers[name].terms, strict=True)):
            new.check(name, tuple(layer.weight.flatten(1).shape))
            moved += number == 0 and not torch.equal(old.codes, new.codes)
            assert number == 0 or torch.equal(old.codes, new.codes)
    assert moved > 0
    with torch.no_grad():
        exact = torch.cat([runner.logits(batch) for batch in data])
    before, after = (torch.cat([m.logits(batch) for batch in data]) for m in (model, ours))
    assert float(prediction_difference(exact, after)) < float(prediction_difference(exact, before))
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        pd_quant(model, data, options, checkpoint=path, progress=kill_at(70))
    resumed = pd_quant(model, data, options, checkpoint=path)
    assert torch.equal(resumed.logits(data[0]), ours.logits(data[0]))


@pytest.mark.parametrize(
    "floats", [("head",), ("stem", "a", "depthwise"), ("stem", "a", "depthwise", "b", "head")]
)
def test_units_in_float_are_left_alone(floats):
    plan = {
        product.name: Scheme.parse("fp" if product.name in floats else "w3a6")
        for product in find_products(loaded("residual"))
    }
    data = batches("residual", 3)
    model = calibrate(loaded("residual"), plan, data, CalibrationOptions("mse", "mse"))
    ours = pd_quant(model, data, replace(FAST, iterations=5))
    assert set(ours.placement.layers) == set(plan) - set(floats)
    assert set(ours.notes) >= {f"pd {name}" for name in ("stem", "a", "b", "head") if name not in floats}
    assert not {f"pd {name}" for name in floats} & set(ours.notes)


def test_drop_mix_takes_aligned_elements():
    """D6: every element comes from the same place of one of the two tensors."""
    a, b = torch.arange(1000.0), -torch.arange(1000.0)
    mixed = drop_mix(a, b, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.abs(), a)
    assert 300 < int((mixed < 0).sum()) < 700
    assert drop_mix(a, b, 0.0, None) is a


@pytest.mark.parametrize("name", ["residual", "pre_norm", "post_norm", "gated"])
def test_units_cover_all_products_once_and_compose_to_the_network(name):
    runner = GraphRunner(loaded(name))
    plan = cut_into_units(runner)
    inside = [product.name for unit in plan.units for product in unit.products]
    assert sorted(inside) == sorted(p.name for p in find_products(loaded(name)))
    data = batches(name, 1)[0]
    with torch.no_grad():
        env = runner.feed(data)
        runner.run(env, plan.side, None, frozenset({*plan.side, *env}))
        entry = plan.units[0].entry
        if entry not in env:
            runner.run(env, [entry], None, frozenset(env))
        x = env[entry]
        for unit in plan.units:
            local = {**env, unit.entry: x}
            runner.run(local, unit.nodes, None, frozenset({unit.exit}))
            x = local[unit.exit]
        assert torch.equal(x, runner.logits(data))
    if name == "residual":
        assert [unit.name for unit in plan.units][:2] == ["stem", "a"]
        assert {p.name for p in plan.units[1].products} == {"a", "depthwise"}


def test_correction_recovers_the_batch_norm_input():
    """D7: statistics from the folded output equal those of the live batch norm."""
    model, runner = eager("residual"), GraphRunner(loaded("residual"))
    seen = {}
    model.bn1.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    data = batches("residual", 1)[0]
    env = runner.feed(data)
    node = next(n for n, p in runner.products.items() if p.name == "a")
    with torch.no_grad():
        model(*data)
        runner.run(env, runner.nodes[: runner.nodes.index(node) + 1], None, frozenset({node}))
    recovered, live = memory()["a"].input_of(env[node])
    assert bool(live.all())
    torch.testing.assert_close(recovered, seen["x"], rtol=1e-3, atol=1e-4)
    flat = seen["x"].double().numpy().reshape(8, 8, -1)
    bn = model.bn1
    mean = ((flat.mean(2) - bn.running_mean.numpy()) ** 2).sum(1).mean()
    deviation = np.sqrt(flat.var(2, ddof=1) + 1e-6) - np.sqrt(bn.running_var.numpy() + 1e-6)
    x = torch.zeros(8, 8, 10, 10)
    ours = correction_loss([(env[node], memory()["a"])], x + 1, x, 0.5)
    assert float(ours) == pytest.approx(mean + (deviation**2).sum(1).mean() + 8 / 0.5, rel=1e-3)


def test_memory_behind_the_norm_compares_the_folded_output_itself():
    """A loader keeps beta and |gamma|; a dead channel (gamma 0) is left out."""
    g = torch.Generator().manual_seed(0)
    kept = BatchNormMemory.of_output(torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.5, 2.0, 0.0]))
    y = torch.randn(2, 3, 4, 4, generator=g)
    values, live = kept.input_of(y)
    torch.testing.assert_close(values[:, :2], y[:, :2])
    assert live.tolist() == [True, True, False]
    flat = y[:, :2].flatten(2).numpy().astype(np.float64)
    gap = ((flat.mean(2) - [0.3, -1.0]) ** 2).sum(1).mean()
    gap += ((np.sqrt(flat.var(2, ddof=1) + 1e-6) - np.sqrt(np.array([0.25, 4.0]) + 1e-6)) ** 2).sum(1).mean()
    assert float(correction_loss([(y, kept)], y, y, 0.02)) == pytest.approx(gap, rel=1e-5)


def test_correction_moves_towards_the_memory_and_is_tied_by_lambda():
    runner, data = GraphRunner(loaded("residual")), batches("residual", 1)[0]
    unit = cut_into_units(runner).units[0]
    options = CorrectionOptions(iterations=60, learning_rate=1e-2, lambda_c=10.0)
    corrected = correct_inputs(runner, unit, data[0], memory(), options)

    def statistics_gap(x):
        env = {unit.entry: x}
        with torch.no_grad():
            node = unit.products[0].node
            runner.run(env, unit.nodes, None, frozenset({node}))
            return float(correction_loss([(env[node], memory()["stem"])], x, x, 1.0))

    assert statistics_gap(corrected) < statistics_gap(data[0])
    tied = correct_inputs(runner, unit, data[0], memory(), replace(options, lambda_c=1e-6))
    assert float((tied - data[0]).abs().max()) < 0.02
    assert torch.equal(
        correct_inputs(runner, unit, data[0], memory(), replace(options, lambda_c=0.0)), data[0]
    )
    assert correct_inputs(runner, unit, data[0], {}, options) is data[0]
    with pytest.raises(QuantError, match="LayerNorm"):
        refuse_layer_norm(GraphRunner(loaded("pre_norm")))
    with pytest.raises(QuantError, match="LayerNorm"):
        pd_quant(calibrated("pre_norm", "w8a8", 1), batches("pre_norm", 1), FAST, memory=memory())


@pytest.mark.parametrize("size", [1, 7, 8])
@pytest.mark.parametrize("name", ["tokens_first", "in_one_row", "queries"])
def test_cuts_go_where_samples_lead(name, size):
    """The seven tokens in front are no samples, not even in a batch of seven."""
    model, data = loaded(name, size), batches(name, 3, size)
    runner = GraphRunner(model)
    leading = sample_leading(runner, data[0])
    units = cut_into_units(runner, leading).units
    assert len(units) == {"tokens_first": 2, "in_one_row": 3, "queries": 2}[name]
    assert {unit.exit for unit in units} | {units[0].entry} <= leading
    inside = [product.name for unit in units for product in unit.products]
    assert sorted(inside) == sorted(product.name for product in find_products(model))
    plan = {product.name: Scheme.parse("w3a6") for product in find_products(model)}
    start = calibrate(model, plan, data, CalibrationOptions("mse", "mse"))
    seen: set[str] = set()
    options = replace(FAST, iterations=20, holdout=0.0)
    ours = pd_quant(start, data, options, progress=lambda unit, *_: seen.add(unit))
    assert seen == {*(unit.name for unit in units), "polish"}
    changed = [
        not torch.equal(a.weight, b.weight)
        for a, b in zip(ours.placement.layers.values(), start.placement.layers.values(), strict=True)
        if a.weight is not None
    ]
    assert any(changed)


@pytest.mark.parametrize("name", ["residual", "pre_norm", "post_norm", "gated"])
def test_cuts_of_ordinary_networks_need_no_samples(name):
    runner = GraphRunner(loaded(name))
    leading = sample_leading(runner, batches(name, 1)[0])
    plans = [cut_into_units(runner, known).units for known in (None, leading)]
    assert [unit.nodes for unit in plans[0]] == [unit.nodes for unit in plans[1]]


@pytest.mark.parametrize("name", ["residual", "pre_norm"])
def test_training_lowers_the_prediction_difference(name):
    """D4, D5, D8, D9, D10 on one run each."""
    model = calibrated(name, "w3a8" if name == "pre_norm" else "w2a6", 10)
    data = batches(name, 10)
    units: list[str] = []
    ours = pd_quant(
        model, data, replace(FAST, iterations=60, holdout=0.2), progress=lambda u, *_: units.append(u)
    )
    runner = GraphRunner(loaded(name))
    with torch.no_grad():
        exact = torch.cat([runner.logits(batch) for batch in data])
    before, after = (torch.cat([m.logits(batch) for batch in data]) for m in (model, ours))
    assert float(prediction_difference(exact, after)) < float(prediction_difference(exact, before))
    assert torch.equal(
        after, torch.cat([ours.logits(batch) for batch in data])
    )  # D5: nothing random is left on
    changed = 0
    for key, layer in ours.placement.layers.items():
        old = model.placement.layers[key]
        assert len(layer.terms) == len(old.terms)
        for term in layer.terms:
            term.check(key, (term.codes.shape[0], term.codes.shape[1]))
        changed += any(not torch.equal(a.codes, b.codes) for a, b in zip(layer.terms, old.terms, strict=True))
    assert changed > 0
    for grid in ours.placement.activations.values():
        assert grid.scale >= 1e-8
    notes = {k: v for k, v in ours.notes.items() if k.startswith("pd ")}
    assert len(notes) == len(set(units))  # the last one is the polish
    assert notes.pop("pd polish").startswith("held-out difference")  # stands within the noise as well
    for note in notes.values():  # D10
        first, last = (float(x) for x in note.split("difference ")[1].split(" -> "))
        assert note.startswith("kept" if last <= first else "reverted")


def test_the_fast_preset_polishes_what_qdrop_has_trained():
    """Its units do not see the prediction difference: without the polish both are one."""
    model, data = calibrated("residual", "w3a4", 5), batches("residual", 5)
    short = {"iterations": 12, "checkpoint_every": 100}
    qdrop = pd_quant(model, data, replace(preset_options("qdrop", "resnet"), **short))
    units = pd_quant(model, data, replace(fast_options("resnet"), **short, polish=0))
    whole = pd_quant(model, data, replace(fast_options("resnet"), **short, polish=12))
    assert torch.equal(qdrop.logits(data[0]), units.logits(data[0]))
    assert "pd polish" in whole.notes and "pd polish" not in qdrop.notes
    assert not torch.equal(qdrop.logits(data[0]), whole.logits(data[0]))


def test_polish_tunes_numbers_and_leaves_the_codes():
    """The last step alone: no unit trained, codes as they were, the prediction nearer on samples it never saw."""
    model, data = calibrated("residual", "w2a4", 10), batches("residual", 10)
    options = replace(FAST, iterations=0, polish=30, holdout=0.3, learning_rate_scale=0.0)
    ours = pd_quant(model, data, options)
    first, last = (float(x) for x in ours.notes["pd polish"].split("difference ")[1].split(" -> "))
    assert last < 0.9 * first
    runner, held = GraphRunner(loaded("residual")), data[7:]
    with torch.no_grad():
        found = [float(prediction_difference(runner.logits(b), ours.logits(b))) for b in held]
    assert sum(found) / 3 == pytest.approx(last, rel=1e-4)
    for name, layer in model.placement.layers.items():
        for old, new in zip(layer.terms, ours.placement.layers[name].terms, strict=True):
            assert torch.equal(old.codes, new.codes)
            assert not torch.equal(old.scale, new.scale)
    integer = integer_model(ours.module, ours.placement).integer()
    torch.testing.assert_close(integer(*data[0])[0], ours.logits(data[0]), rtol=1e-3, atol=1e-3)


def test_at_sixteen_bits_the_quantized_path_is_the_float_path():
    """D4: nothing but quantization separates the streams."""
    model = calibrated("residual", "w12a12", 2)
    data = batches("residual", 2)
    runner = GraphRunner(loaded("residual"))
    with torch.no_grad():
        exact = torch.cat([runner.logits(batch) for batch in data])
    still = replace(FAST, iterations=3, drop_input=0.0, drop_inside=0.0, holdout=0.0, learning_rate_scale=0.0)
    ours = pd_quant(model, data, still)
    got = torch.cat([ours.logits(batch) for batch in data])
    assert float((got - exact).square().mean() / exact.square().mean()) < 1e-4


class Killed(Exception):
    pass


def kill_at(step):
    count = [0]

    def progress(*_):
        count[0] += 1
        if count[0] == step:
            raise Killed

    return progress


def test_resume_after_a_kill_is_bit_identical(tmp_path):
    data, options = (
        batches("residual", 4),
        replace(FAST, iterations=8, checkpoint_every=3, correction=CorrectionOptions(iterations=2)),
    )
    model = calibrated("residual", "w3a4", 4)
    whole = pd_quant(model, data, options, memory=memory())
    steps = 8 * len(cut_into_units(GraphRunner(loaded("residual"))).units) + options.polish
    moments = np.random.default_rng(0).permutation(steps)[:10] + 1
    for number, moment in enumerate(moments):
        path = tmp_path / f"{number}.safetensors"
        with pytest.raises(Killed):
            pd_quant(model, data, options, memory=memory(), checkpoint=path, progress=kill_at(int(moment)))
        resumed = pd_quant(model, data, options, memory=memory(), checkpoint=path)
        assert resumed.notes == whole.notes
        for name, layer in whole.placement.layers.items():
            twin = resumed.placement.layers[name]
            assert all(torch.equal(a.codes, b.codes) for a, b in zip(layer.terms, twin.terms, strict=True))
            assert torch.equal(layer.bias, twin.bias)
        assert resumed.placement.activations == whole.placement.activations
        assert torch.equal(resumed.logits(data[0]), whole.logits(data[0]))


def test_checkpoint_of_another_run_is_not_continued(tmp_path):
    path, data = tmp_path / "state.safetensors", batches("residual", 2)
    model, options = calibrated("residual", "w3a4", 2), replace(FAST, iterations=4, checkpoint_every=2)
    with pytest.raises(Killed):
        pd_quant(model, data, options, checkpoint=path, progress=kill_at(7))
    other = replace(options, seed=7)
    ours, fresh = pd_quant(model, data, other, checkpoint=path), pd_quant(model, data, other)
    assert torch.equal(ours.logits(data[0]), fresh.logits(data[0]))


def test_broken_checkpoint_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    assert read_checkpoint(path) is None
    write_checkpoint(path, {"unit": 1}, {"x": torch.arange(3)})
    state, tensors = read_checkpoint(path)
    assert state == {"unit": 1}
    assert torch.equal(tensors["x"], torch.arange(3))
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(QuantError, match="not a checkpoint"):
        read_checkpoint(path)
    assert list(tmp_path.iterdir()) == [path]


def test_presets():
    paper = paper_options("resnet")
    assert (paper.iterations, paper.batch, paper.rounding_weight, paper.temperature) == (20000, 32, 0.01, 4.0)
    assert (paper.lambda_r, paper.learning_rate_rounding, paper.holdout) == (0.1, 3e-3, 0.0)
    assert paper_options("mobilenet").correction.lambda_c == 0.005
    fast = fast_options("mobilenet")
    assert (fast.iterations, fast.polish, fast.holdout, fast.difference_every) == (300, 300, 0.2, 0)
    assert (paper.polish, paper.learning_rate_bias, paper.difference_share) == (0, 0.0, math.inf)
    assert preset_options("qdrop", "resnet") == replace(fast_options("resnet"), lambda_r=math.inf)
    assert preset_options("paper", "resnet") == paper
    with pytest.raises(QuantError, match="fast, paper, qdrop"):
        preset_options("slow", "resnet")
    with pytest.raises(QuantError, match="no preset"):
        paper_options("nosuch")
