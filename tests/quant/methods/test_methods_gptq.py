"""GPTQ against brute force and its own invariants (trap R9)."""

import itertools

import numpy as np
import pytest
import torch

from quant.errors import QuantError
from quant.methods.gptq import (
    GptqOptions,
    UniformRounder,
    asymmetric_target,
    gptq,
    output_error,
    second_moment,
)
from quant.methods.weight_grids import TermGrid


def problem(seed, rows=6, columns=16, groups=1, samples=200):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(groups, columns, columns, generator=g)
    x = torch.randn(groups, samples, columns, generator=g) @ mix
    return torch.randn(groups, rows, columns, generator=g), x


def symmetric(weight, bits):
    limit = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(2) / limit
    return UniformRounder(scale, torch.zeros_like(scale), -limit, limit)


def nearest(weight, rounder):
    return torch.stack([rounder(weight[:, :, j], torch.tensor([j]))[0] for j in range(weight.shape[2])], -1)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("groups", [1, 3])
def test_beats_nearest_rounding_on_correlated_inputs(bits, groups):
    wins = 0
    for seed in range(8):
        weight, x = problem(seed, groups=groups)
        moment, rounder = second_moment(x), symmetric(weight, bits)
        ours = output_error(weight - gptq(weight, moment, rounder).weight, moment)
        wins += bool(ours <= output_error(weight - nearest(weight, rounder), moment))
    assert wins >= 7


def test_equals_plain_loop_in_numpy():
    """Column-by-column optimal brain quantization with the inverse updated by Gaussian elimination."""
    weight, x = problem(3)
    moment, rounder = second_moment(x), symmetric(weight, 3)
    w, h = weight[0].double().numpy().copy(), moment[0].numpy().copy()
    h += 0.01 * np.mean(np.diag(h)) * np.eye(len(h))
    inverse, scale = np.linalg.inv(h), rounder.scale[0].double().numpy()
    result = np.zeros_like(w)
    for j in range(w.shape[1]):
        result[:, j] = np.clip(np.round(w[:, j] / scale), -3, 3) * scale
        error = (w[:, j] - result[:, j]) / inverse[j, j]
        w[:, j:] -= np.outer(error, inverse[j, j:])
        inverse -= np.outer(inverse[:, j], inverse[j, :]) / inverse[j, j]
    for block in (1, 5, 128):
        ours = gptq(weight, moment, rounder, GptqOptions(block=block)).weight[0].numpy()
        np.testing.assert_allclose(ours, result, rtol=1e-6, atol=1e-7)


def test_diagonal_moment_is_nearest_rounding():
    weight, _ = problem(1)
    rounder = symmetric(weight, 3)
    moment = torch.diag_embed(torch.rand(1, 16, dtype=torch.float64) + 0.1)
    for act_order in (False, True):
        ours = gptq(weight, moment, rounder, GptqOptions(act_order=act_order)).weight
        torch.testing.assert_close(ours, nearest(weight, rounder), rtol=1e-6, atol=1e-7)


def test_close_to_exhaustive_optimum():
    weight, x = problem(5, rows=1, columns=5)
    moment, rounder = second_moment(x), symmetric(weight, 2)
    scale = float(rounder.scale[0, 0])
    best = min(
        float(output_error(weight - torch.tensor(point).reshape(1, 1, 5) * scale, moment))
        for point in itertools.product((-1.0, 0.0, 1.0), repeat=5)
    )
    ours = float(output_error(weight - gptq(weight, moment, rounder, GptqOptions(damp=1e-6)).weight, moment))
    assert best - 1e-9 <= ours <= float(output_error(weight - nearest(weight, rounder), moment)) + 1e-9


def test_act_order_round_trip_is_exact():
    weight, x = problem(2, groups=2)
    moment = second_moment(x)
    rounder = symmetric(weight, 3)
    ordered = gptq(weight, moment, rounder, GptqOptions(act_order=True))
    order = moment.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    for group in range(2):
        p = order[group]
        one = UniformRounder(rounder.scale[group : group + 1], rounder.zero[group : group + 1], -3, 3)
        permuted = gptq(weight[group : group + 1, :, p], moment[group : group + 1][:, p][:, :, p], one)
        assert torch.equal(ordered.weight[group][:, p], permuted.weight[0])
        assert torch.equal(ordered.codes[:, group][:, :, p], permuted.codes[:, 0])


def test_codes_rebuild_the_weight_and_dead_columns_are_zero():
    weight, x = problem(4)
    x[:, :, 3] = 0
    rounder = symmetric(weight, 3)
    result = gptq(weight, second_moment(x), rounder)
    assert result.dead_columns == 1
    assert torch.equal(result.weight[:, :, 3], torch.zeros(1, 6))
    torch.testing.assert_close(result.codes[0] * rounder.scale[:, :, None].double(), result.weight.double())
    assert int(result.codes.abs().max()) <= 3


def test_digits_are_integers_within_the_limit_and_beat_nearest_digits():
    weight, x = problem(6, rows=8, columns=24)
    moment = second_moment(x)
    first = weight.abs().amax(2)
    rounder = TermGrid(torch.stack([first, first / 3]).double(), None, 2)
    result = gptq(weight, moment, rounder)
    assert result.codes.shape == (2, 1, 8, 24)
    assert set(result.codes.unique().int().tolist()) <= {-2, -1, 0, 1}
    rebuilt = (result.codes * rounder.scales[:, :, :, None]).sum(0)
    torch.testing.assert_close(rebuilt, result.weight.double(), rtol=1e-6, atol=1e-7)
    plain = output_error(weight - nearest(weight.double(), rounder).float(), moment)
    assert output_error(weight - result.weight, moment) < plain
    single = gptq(weight, moment, TermGrid(rounder.scales[:1], None, 2))
    assert output_error(weight - result.weight, moment) < output_error(weight - single.weight, moment)


def test_switched_off_term_has_zero_codes():
    weight, x = problem(7)
    first = weight.abs().amax(2).double()
    second = first / 7
    second[:, ::2] = 0
    result = gptq(weight, second_moment(x), TermGrid(torch.stack([first, second]), None, 3))
    assert int(result.codes[1, :, ::2].abs().max()) == 0
    assert int(result.codes[1, :, 1::2].abs().max()) > 0


def test_asymmetric_target_is_the_least_squares_map():
    weight, x = problem(8, samples=400)
    noisy = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    moment = second_moment(noisy)
    cross = x.double().transpose(1, 2) @ noisy.double() / x.shape[1]
    target = asymmetric_target(weight.double(), moment, cross, damp=0.0)
    y = (x.double() @ weight.double().transpose(1, 2))[0].numpy()
    expected = np.linalg.lstsq(noisy[0].double().numpy(), y, rcond=None)[0].T
    np.testing.assert_allclose(target[0].numpy(), expected, rtol=1e-6, atol=1e-8)
    assert torch.equal(asymmetric_target(weight, moment, moment, damp=0.5), weight)


def test_asymmetric_start_lowers_error_against_the_float_output():
    total = [0.0, 0.0]
    for seed in range(6):
        weight, x = problem(seed, rows=12, columns=24, samples=600)
        noisy = x + 0.2 * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        moment = second_moment(noisy)
        cross = x.double().transpose(1, 2) @ noisy.double() / x.shape[1]
        for k, start in enumerate((weight, asymmetric_target(weight, moment, cross))):
            quantized = gptq(start, moment, symmetric(weight, 4)).weight
            total[k] += float(
                (x @ weight.transpose(1, 2) - noisy @ quantized.transpose(1, 2)).square().mean()
            )
    assert total[1] < total[0]


def test_wrong_shapes_are_one_line_errors():
    with pytest.raises(QuantError, match="does not fit"):
        gptq(torch.zeros(2, 3), torch.zeros(1, 3, 3), symmetric(torch.ones(1, 2, 3), 4))
