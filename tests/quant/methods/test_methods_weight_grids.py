"""Row grids: never worse than max-abs at the final order (trap P4), sparse orders, integer terms (P5)."""

import numpy as np
import pytest
import torch

from quant.errors import QuantError
from quant.methods.product_inputs import Moments
from quant.methods.weight_grids import row_scales, term_grid
from quant.scheme import Scheme
from quant.terms import weight_of


def heavy(seed=0, groups=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(groups, 10, 24, generator=g) / torch.rand(groups, 10, 24, generator=g).add(0.05)


def inputs_moment(columns):
    """Second moment of inputs with a mean, as behind a ReLU."""
    x = torch.randn(200, columns, generator=torch.Generator().manual_seed(7)).double() + 0.7
    return (x.T @ x / len(x))[None]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_least_squares_chain_is_never_worse_than_max_abs(bits, order):
    weight, moment = heavy(), inputs_moment(24)
    scheme = Scheme(bits, None, order=order)
    errors = []
    for rule in ("minmax", "mse"):
        grid = term_grid(weight, scheme, rule, moment)
        gap = grid.value(grid.nearest(weight)) - weight.double()
        kept = moment if bits < 6 else torch.diag_embed(moment.diagonal(dim1=1, dim2=2))
        errors.append(((gap @ kept) * gap).sum(2))
    assert bool((errors[1] <= errors[0] * (1 + 1e-4) + 1e-18).all())
    if bits == 2 and order == 1:
        assert float(errors[1].sum()) < 0.8 * float(errors[0].sum())


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_scale_is_nearly_the_best_of_a_dense_scan_of_both_signs(bits):
    weight, moment = heavy(3)[:, :, :6], inputs_moment(6)
    chosen = row_scales(weight, bits, "mse", moment)[0].numpy()
    w, h = weight[0].double().numpy(), moment[0].numpy()

    def error(row, scale):
        rest = row - np.clip(np.round(row / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale
        return rest @ h @ rest

    def alone(row, scale):
        rest = row - np.clip(np.round(row / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale
        return rest**2 @ np.diag(h)

    for row, scale in zip(w, chosen, strict=True):
        scan = np.abs(row).max() / (2 ** (bits - 1) - 1) * np.linspace(1, 0.3, 2000)
        signed = scan * np.sign(scale)
        best = min(error(row, s) for s in signed)
        assert error(row, scale) <= 1.25 * best + 0.02 * row @ h @ row
        # the sign is decided on the inputs one by one
        assert min(alone(row, s) for s in signed) <= 1.25 * min(alone(row, -s) for s in signed)


def test_a_negative_scale_puts_the_extra_code_where_the_weights_are():
    weight = torch.tensor([[[2.0, 1.0, -1.0, 1.0, 0.0], [-2.0, -1.0, 1.0, -1.0, 0.0]]])
    grid = term_grid(weight, Scheme(2, None), "mse", torch.eye(5, dtype=torch.float64)[None])
    assert float(grid.scales[0, 0, 0]) < 0 < float(grid.scales[0, 0, 1])
    codes = grid.nearest(weight)
    assert codes[0, 0].tolist() == [[-2, -1, 1, -1, 0]] * 2
    for term in grid.terms(codes):
        term.check("signed", (2, 5))


@pytest.mark.parametrize("text", ["w3", "w4.o2", "w3.o3.g50-25", "w4.o2.c25", "w8.o2"])
@pytest.mark.parametrize("groups", [1, 2])
def test_terms_rebuild_the_weight_and_keep_their_sparsity(text, groups):
    scheme = Scheme.parse(text)
    weight = heavy(1, groups)
    if groups > 1 and scheme.axis == "columns":
        with pytest.raises(QuantError, match="grouped"):
            term_grid(weight, scheme, "minmax")
        return
    grid = term_grid(weight, scheme, "minmax")
    codes = grid.nearest(weight)
    terms = grid.terms(codes)
    shape = (groups * 10, 24)
    for number, term in enumerate(terms):
        term.check(f"term {number}", shape)
    torch.testing.assert_close(
        weight_of(terms, shape), grid.value(codes).reshape(shape).float(), rtol=1e-5, atol=1e-6
    )
    if scheme.kept and scheme.axis == "rows":
        assert len(terms[1].rows) == -(-groups * 10 * scheme.kept[0] // 100)
    if scheme.kept and scheme.axis == "columns":
        assert len(terms[1].cols) == 6


@pytest.mark.parametrize("rule", ["minmax", "mse"])
@pytest.mark.parametrize("text", ["w4", "w4.o2", "w4.o2.c50", "w4.o2.g50", "w4.o2.g0", "w4.o3.c50-100"])
def test_an_output_without_weights_has_zero_codes_and_stays_where_it_is(text, rule):
    weight, scheme = heavy(2), Scheme.parse(text)
    weight[0, 3] = 0
    grid = term_grid(weight, scheme, rule)
    terms = grid.terms(grid.nearest(weight))
    for number, term in enumerate(terms):
        term.check(f"term {number}", (10, 24))
        assert (term.rows is None) == (number == 0 or scheme.axis == "columns" or scheme.kept in ((), (0,)))
        full = term.dense((10, 24))
        assert not full.codes[3].any() and float(full.scale[3]) == 1.0
    alive = [row for row in range(10) if row != 3]
    without = term_grid(weight[:, alive], scheme, rule)
    plain = weight_of(without.terms(without.nearest(weight[:, alive])), (9, 24))
    assert torch.equal(weight_of(terms, (10, 24))[alive], plain)


def test_zero_rows_and_refusals():
    weight = torch.zeros(1, 3, 5)
    grid = term_grid(weight, Scheme(4, None, order=2), "mse")
    assert float(grid.nearest(weight).abs().max()) == 0
    assert torch.isfinite(row_scales(weight, 4, "mse")).all()
    for text in ("w1", "w4.o2.b1"):
        with pytest.raises(QuantError, match="2 or more bits"):
            term_grid(weight, Scheme.parse(text), "minmax")


def test_fine_scales_need_only_the_diagonal_of_the_second_moment():
    """From 6 bits on, also for later orders, whose rows or columns go by the residual energy."""
    weight, moment = heavy(5), inputs_moment(24)
    diagonal = moment.diagonal(dim1=1, dim2=2)
    for scheme in (Scheme(8, None), Scheme.parse("w8a8.o2.g50"), Scheme.parse("w6a8.o2.c25")):
        whole, alone = (term_grid(weight, scheme, "mse", given) for given in (moment, diagonal))
        assert torch.equal(whole.scales, alone.scales)
        assert (whole.columns is None) == (alone.columns is None)
        assert whole.columns is None or torch.equal(whole.columns, alone.columns)


def test_second_moments_and_their_diagonal():
    rows = torch.randn(2, 50, 7, generator=torch.Generator().manual_seed(1))
    whole, diagonal = Moments(), Moments(diagonal=True)
    for part in rows.split(20, 1):
        whole.update(part)
        diagonal.update(part)
    wide = rows.double()
    torch.testing.assert_close(whole.own, wide.transpose(1, 2) @ wide / 50, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(diagonal.own, wide.square().mean(1), rtol=1e-6, atol=1e-7)
    assert whole.cross is None
