"""Plain quantizers against brute force, and the quantizer traps Q1-Q5; ensemble forms (traps P3, P7)."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.ensemble_forms import (
    disjoint_members,
    exact_members,
    first_layer_members,
    run_members,
    telescoped_members,
)
from quant.errors import QuantError
from quant.expansion import expand
from quant.first_order import equalize
from quant.input_expansion import expand_input, expanded_product, kept_pairs
from quant.quantizers import asymmetric, binary, logarithmic, power_of_two_symmetric, symmetric, ternary
from quant.scheme import Scheme

rows = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12)
UNIFORM = [symmetric, asymmetric, power_of_two_symmetric]


@pytest.mark.parametrize("quantizer", UNIFORM)
@given(values=rows, bits=st.integers(2, 16))
def test_codes_are_integers_in_range_and_zero_stays_zero(quantizer, values, bits):
    tensor = torch.tensor([[*values, 0.0]], dtype=torch.float64)
    found = quantizer(tensor, bits)
    low, high = (0, 2**bits - 1) if quantizer is asymmetric else (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
    assert int(found.codes.min()) >= low
    assert int(found.codes.max()) <= high
    assert float(found.value()[0, -1]) == 0.0
    assert low <= int(found.zero_point[0]) <= high
    assert bool(((found.value() - tensor).abs() <= found.scale[:, None] * (1 + 1e-9)).all())


@pytest.mark.parametrize("quantizer", [*UNIFORM, lambda x, _: binary(x), lambda x, _: ternary(x)])
def test_q1_zero_range_gives_zeros_and_finite_scales(quantizer):
    found = quantizer(torch.zeros(3, 4), 4)
    assert bool(torch.isfinite(found.scale).all())
    assert float(found.value().abs().max()) == 0.0


def test_q3_ties_round_to_even_like_the_numpy_reference():
    value = torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]])
    assert symmetric(value, 4).codes.tolist()[0] == np.rint(value.numpy()[0]).astype(int).tolist()


@given(values=rows, bits=st.integers(2, 8))
def test_q5_quantizing_again_changes_nothing(values, bits):
    once = symmetric(torch.tensor([values], dtype=torch.float64), bits)
    again = symmetric(once.value(), bits)
    assert torch.allclose(again.value(), once.value(), rtol=1e-12)


def test_granularities_share_scales_as_they_say():
    value = torch.randn(4, 6)
    assert symmetric(value, 4, "tensor").scale.shape == (1,)
    assert symmetric(value, 4, "row").scale.shape == (4,)
    grouped = symmetric(value, 4, "group", 3)
    assert grouped.scale.shape == (8,)
    assert torch.equal(grouped.value()[:, :3], symmetric(value[:, :3].contiguous(), 4).value())
    with pytest.raises(QuantError, match="must divide"):
        symmetric(value, 4, "group", 4)
    with pytest.raises(QuantError, match="2 to 16"):
        symmetric(value, 1)


@settings(max_examples=60)
@given(values=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=6))
def test_ternary_is_the_least_squares_optimum(values):
    tensor = torch.tensor([values], dtype=torch.float64)
    error = float((ternary(tensor).value() - tensor).square().sum())
    best = float(tensor.square().sum())
    for pattern in itertools.product((-1.0, 0.0, 1.0), repeat=len(values)):
        signs = torch.tensor(pattern, dtype=torch.float64)
        if bool(signs.any()):
            scale = float(signs @ tensor[0]) / float(signs.square().sum())
            best = min(best, float((scale * signs - tensor[0]).square().sum()))
    assert error <= best + 1e-9


def test_power_of_two_scales_are_powers_of_two():
    exponent = torch.log2(power_of_two_symmetric(torch.randn(5, 9), 4).scale)
    assert torch.equal(exponent, exponent.round())


@pytest.mark.parametrize(("steps", "worst"), [(1, 2**0.5), (2, 2**0.25)])
def test_logarithmic_error_is_half_a_step_in_the_exponent(steps, worst):
    value = torch.rand(500) + 1e-2
    found = logarithmic(value, 8, steps)
    ratio = found.value() / value
    assert float(ratio.max()) <= worst * 1.0001
    assert float(ratio.min()) >= 1 / worst / 1.0001
    assert float(logarithmic(torch.tensor([0.0, 1.0]), 4).value()[0]) == 0.0
    with pytest.raises(QuantError, match="not be negative"):
        logarithmic(torch.tensor([-1.0]), 4)


def test_equalised_pair_computes_the_same_function_with_equal_ranges():
    torch.manual_seed(0)
    first, bias, second = torch.randn(8, 5) * torch.rand(8, 1) * 10, torch.randn(8), torch.randn(3, 8)
    x = torch.randn(20, 5)
    new_first, new_bias, new_second = equalize(first, bias, second)
    before = torch.relu(x @ first.T + bias) @ second.T
    assert torch.allclose(torch.relu(x @ new_first.T + new_bias) @ new_second.T, before, atol=1e-4)
    assert torch.allclose(new_first.abs().amax(1), new_second.abs().amax(0), rtol=1e-4)


def test_input_expansion_converges_with_both_orders():
    torch.manual_seed(0)
    weight, x = torch.randn(6, 16), torch.randn(10, 16)
    exact = x.double() @ weight.double().T
    errors = []
    for order in (1, 2, 3):
        expansion = expand(weight, Scheme(4, 8, order=order))
        product = expanded_product(expansion, expand_input(x, 4, order))
        errors.append(float((product - exact).norm() / exact.norm()))
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 5
    assert kept_pairs(2, 2) == [(1, 1), (1, 2), (2, 1)]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    weights = [torch.randn(64, 64) * (2 / 64) ** 0.5 for _ in range(4)]
    biases = [0.1 * torch.randn(64) for _ in range(4)]
    return weights, biases, torch.randn(128, 64)


def error_of(network, members_of, order):
    weights, biases, x = network
    layers = [expand(weight, Scheme(4, 8, order=order), rule="maxabs") for weight in weights]
    exact = x
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        exact = exact @ weight.T + bias
        exact = torch.relu(exact) if index < 3 else exact
    found = run_members(members_of, layers, biases, torch.relu, x)
    return float((found - exact).norm() / exact.norm())


def test_p7_one_residual_group_is_the_plain_expansion(network):
    plain = error_of(network, exact_members(4, 2), 2)
    assert error_of(network, telescoped_members(4, [[0], [1]]), 2) == pytest.approx(plain, rel=1e-5)
    assert error_of(network, telescoped_members(4, [[0, 1]]), 2) == pytest.approx(plain, rel=1e-5)


def test_p7_telescoping_works_where_disjoint_orders_do_not(network):
    base = error_of(network, exact_members(4, 1), 1)
    telescoped = error_of(network, telescoped_members(4, [[0], [1], [2]]), 3)
    assert telescoped < 0.2 * base
    disjoint = error_of(network, disjoint_members(4, [[0], [1]]), 2)
    assert disjoint == pytest.approx(base, rel=0.1)
    split_first = error_of(network, first_layer_members(4, [[0], [1]]), 2)
    assert error_of(network, exact_members(4, 2), 2) < split_first


def test_p3_biases_count_once_whatever_the_form(network):
    _, biases, x = network
    zeros = [expand(torch.zeros(64, 64), Scheme(4, 8, order=3)) for _ in range(4)]
    for members in (
        exact_members(4, 3),
        telescoped_members(4, [[0], [1], [2]]),
        disjoint_members(4, [[0], [1], [2]]),
    ):
        found = run_members(members, zeros, biases, torch.relu, x)
        assert torch.allclose(found, biases[-1].expand_as(found), atol=1e-6)
    assert sum(member.weight for member in telescoped_members(4, [[0], [1], [2]])) == 1


def test_groups_must_hold_every_order_once():
    with pytest.raises(QuantError, match="every order once"):
        telescoped_members(2, [[1], [0]])
