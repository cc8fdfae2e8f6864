"""No bound is ever violated: shapes, bits, orders, sparsities, rules and nasty distributions by hypothesis.

Together the properties below draw more than 10,000 cases in every run.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant.bounds import (
    decay_bound,
    ensemble_bound,
    layer_bound,
    network_bound,
    row_bound,
    spectral_norm,
    weight_error_norm,
)
from quant.errors import QuantError
from quant.expansion import SMALLEST, expand
from quant.first_order import gptq_order, power_of_two, round_to_nearest, squant_flips
from quant.profile import profile_layer
from quant.scheme import Scheme

MANY = settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))
SOME = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
KINDS = ("normal", "student", "uniform", "zeros", "denormal", "constant", "one_hot", "grid", "huge", "spikes")


def draw_weight(kind, rows, columns, seed):
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((rows, columns))
    match kind:
        case "student":
            weight = generator.standard_t(1.5, (rows, columns))
        case "uniform":
            weight = generator.uniform(-1, 1, (rows, columns))
        case "zeros":
            weight[generator.random(rows) < 0.5] = 0
        case "denormal":
            weight *= 1e-39
            weight[: rows // 2] *= 1e28
        case "constant":
            weight[:] = weight[:, :1]
        case "one_hot":
            weight = np.eye(rows, columns) * generator.standard_normal((rows, 1))
        case "grid":
            weight = generator.integers(-7, 8, (rows, columns)) * 0.125
        case "huge":
            weight *= 1e12
        case "spikes":
            weight[:, 0] *= 1e6
    return torch.from_numpy(weight.astype(np.float32))


@st.composite
def cases(draw):
    bits = draw(st.integers(1, 8))
    deepest = {1: 5, 2: 6, 3: 6, 4: 5, 5: 4, 6: 4, 7: 3, 8: 3}[bits]
    order = draw(st.integers(1, deepest))
    kept = tuple(draw(st.integers(0, 100)) for _ in range(order - 1)) if draw(st.booleans()) else ()
    axis = draw(st.sampled_from(["rows", "columns"]))
    binary = order > 1 and axis == "rows" and draw(st.booleans())
    scheme = Scheme(bits, 8, order=order, kept=kept, axis=axis, binary_last=binary)
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 24))
    return scheme, draw_weight(draw(st.sampled_from(KINDS)), *shape, draw(st.integers(0, 2**32 - 1)))


@MANY
@given(cases(), st.sampled_from(["joint", "joint", "tiled", "centred", "maxabs", "pow2"]))
def test_row_bound_holds(case, rule):
    scheme, weight = case
    expansion = expand(weight, scheme, rule=rule)
    error = (weight.double() - expansion.weight().double()).abs()
    assert bool((error.amax(1) <= row_bound(expansion, weight)).all())
    for term in expansion.terms:
        term.check("layer", expansion.matrix)


@MANY
@given(cases(), st.integers(0, 2**32 - 1))
def test_profiled_bound_holds_for_the_measured_and_the_expanded_weight(case, seed):
    scheme, weight = case
    if scheme.axis == "columns" and scheme.binary_last:
        return
    moments = torch.rand(weight.shape[1], generator=torch.Generator().manual_seed(seed % 2**31))
    option = profile_layer(weight.numpy(), [scheme], column_moments=moments.numpy())[0]
    assert option.measured_sup <= option.sup_bound + SMALLEST
    error = (weight.double() - expand(weight, scheme, moments=moments).weight().double()).abs()
    assert float(error.max()) <= option.sup_bound + SMALLEST


@SOME
@given(cases(), st.sampled_from(["tiled", "centred", "maxabs"]))
def test_a_priori_decay_holds_in_every_row(case, rule):
    scheme, weight = case
    if scheme.axis == "columns" or scheme.binary_last or scheme.weight_bits == 1:
        return
    expansion = expand(weight, scheme, rule=rule)
    first = expansion.terms[0].scale.double()
    wanted = decay_bound(first, scheme.weight_bits, expansion.counts, centred=rule != "maxabs")
    error = (weight.double() - expansion.weight().double()).abs().amax(1)
    peak = weight.double().abs().amax(1)
    assert bool((error <= wanted * (1 + 1e-6) + peak * 1e-6 + SMALLEST).all())


@SOME
@given(
    cases(),
    st.sampled_from([round_to_nearest, power_of_two, squant_flips(), squant_flips(3)]),
)
def test_bounds_on_top_of_first_order_operators(case, operator):
    scheme, weight = case
    if scheme.weight_bits == 1:
        return
    if operator is not round_to_nearest and weight.shape[1] % 3:
        weight = weight.repeat(1, 3)
    if operator is round_to_nearest or operator is power_of_two or weight.shape[1] % 3 == 0:
        expansion = expand(weight, scheme, first=operator, rule="tiled")
        error = (weight.double() - expansion.weight().double()).abs().amax(1)
        assert bool((error <= row_bound(expansion, weight)).all())
        peak = weight.double().abs().amax(1)
        live = peak >= SMALLEST
        offset = 0.5 if operator in (round_to_nearest, power_of_two) else 1.0
        first = expansion.terms[0].scale.double()
        assert bool((expansion.first_error <= offset * first * (1 + 1e-6) + peak * 1e-6)[live].all())


def test_gptq_first_order_is_repaired_by_the_second():
    """GPTQ moves weights by more than a step; the second order takes its range from what is left."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(24, 24, generator=generator, dtype=torch.float64)
    inputs = torch.randn(200, 24, generator=generator, dtype=torch.float64) @ mixing
    moment = inputs.T @ inputs / 200
    weight = torch.randn(8, 24, generator=generator)
    one = expand(weight, Scheme(3, 8), first=gptq_order(moment))
    nearest = expand(weight, Scheme(3, 8), rule="tiled")

    def output_error(expansion):
        delta = weight.double() - expansion.weight().double()
        return float(((delta @ moment) * delta).sum())

    assert output_error(one) < output_error(nearest)
    assert bool((one.first_error > one.terms[0].scale).any())
    two = expand(weight, Scheme(3, 8, order=2), first=gptq_order(moment))
    error = (weight.double() - two.weight().double()).abs().amax(1)
    assert bool((error <= row_bound(two, weight)).all())
    assert output_error(two) < 0.2 * output_error(one)


@FEW
@given(
    st.integers(1, 4),
    st.sampled_from(["w2a8.o2", "w4a8", "w4a8.o2.g50", "w3a8.o3", "w4a8.o2.c50", "w8a8"]),
    st.integers(0, 2**31 - 1),
    st.sampled_from(["relu", "tanh", "abs"]),
)
def test_network_bound_holds(depth, text, seed, activation):
    generator = torch.Generator().manual_seed(seed)
    function = {"relu": torch.relu, "tanh": torch.tanh, "abs": torch.abs}[activation]
    weights = [torch.randn(7, 7, generator=generator) for _ in range(depth)]
    expansions = [expand(weight, Scheme.parse(text)) for weight in weights]
    inputs = torch.randn(20, 7, generator=generator).double()
    step = 0.05
    exact, rough, sizes, noises = inputs, inputs, [], []
    for weight, expansion in zip(weights, expansions, strict=True):
        sizes.append(float(exact.norm(dim=1).max()))
        seen = torch.round(rough / step) * step
        noises.append(float((seen - rough).norm(dim=1).max()))
        exact, rough = function(exact @ weight.double().T), function(seen @ expansion.weight().double().T)
    gap = float((exact - rough).norm(dim=1).max())
    values = [expansion.weight() for expansion in expansions]
    errors = [weight - value for weight, value in zip(weights, values, strict=True)]
    bound = network_bound(values, errors, sizes, noises)
    assert gap <= bound * (1 + 1e-5)
    largest = [layer_bound(expansion, weight) for expansion, weight in zip(expansions, weights, strict=True)]
    for error, size in zip(errors, largest, strict=True):
        assert spectral_norm(error) <= weight_error_norm(7, 7, size)


@FEW
@given(st.integers(0, 2**31 - 1), st.integers(2, 4), st.integers(1, 3))
def test_ensemble_bound_holds(seed, order, depth):
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(9, 9, generator=generator) for _ in range(depth)]
    expansions = [expand(weight, Scheme(2, 8, order=order), rule="tiled") for weight in weights]
    inputs = torch.randn(16, 9, generator=generator).double()

    def run(orders):
        values = inputs
        for expansion in expansions:
            total = sum(expansion.terms[k].value(expansion.matrix) for k in orders)
            values = torch.relu(values @ total.double().T)
        return values

    def distance(orders):
        """Bound from the float network to the network that holds `orders`."""
        sizes, exact, values, errors = [], inputs, [], []
        for weight, expansion in zip(weights, expansions, strict=True):
            sizes.append(float(exact.norm(dim=1).max()))
            exact = torch.relu(exact @ weight.double().T)
            values.append(sum(expansion.terms[k].value(expansion.matrix) for k in orders))
            errors.append(weight - values[-1])
        return network_bound(values, errors, sizes, [0.0] * depth)

    full, base = list(range(order)), [0]
    members = [[0, k] for k in range(1, order)]
    telescoped = sum(run(m) for m in members) - (len(members) - 1) * run(base)
    gap = float((run(full) - telescoped).norm(dim=1).max())
    bound = ensemble_bound(distance(full), [distance(m) for m in members], distance(base))
    assert gap <= bound * (1 + 1e-5)


def test_network_bound_wants_one_entry_per_layer():
    with pytest.raises(QuantError, match="per layer"):
        network_bound([torch.eye(2)], [], [1.0], [0.0])
