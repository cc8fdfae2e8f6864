"""Residual expansion against its defining properties (methods.md 2.2-2.4 and traps P1-P10)."""

import itertools

import numpy as np
import pytest
import torch

from quant.bounds import decay_bound, layer_bound, row_bound
from quant.errors import QuantError
from quant.expansion import expand, make_terms
from quant.profile import profile_layer
from quant.scheme import Scheme
from quant.terms import weight_of

RULES = ["joint", "tiled", "centred", "maxabs", "pow2"]


def student(rows=12, columns=40, seed=0, df=3.0):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.standard_t(df, (rows, columns)).astype(np.float32))


def relative(weight, expansion):
    flat = weight.reshape(expansion.matrix).double()
    return float((flat - expansion.weight().double()).square().sum() / flat.square().sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("rule", ["tiled", "centred", "maxabs"])
def test_p1_each_step_halves_its_scale_and_shrinks_the_next(bits, rule):
    weight = student()
    limit = 2 ** (bits - 1) - 1
    orders = 4 if bits < 8 else 2
    expansion = expand(weight, Scheme(bits, 8, order=orders), rule=rule)
    for k, term in enumerate(expansion.terms, start=1):
        error = (weight.double() - expansion.weight(k).double()).abs().amax(1)
        assert bool((error <= term.scale.double() / 2 * (1 + 1e-6) + weight.abs().amax(1) * 1e-6).all())
    for term, following in itertools.pairwise(expansion.terms):
        assert bool((following.scale <= term.scale / (2 * limit) * (1 + 1e-5)).all())


@pytest.mark.parametrize(("bits", "factor"), [(2, 2.0), (3, 6.0), (4, 14.0), (8, 254.0)])
def test_p1_the_max_abs_decay_is_tight(bits, factor):
    """A weight half way between two codes: the next max-abs scale is exactly 1 / (2n) of this one."""
    limit = 2 ** (bits - 1) - 1
    weight = torch.tensor([[float(limit), 0.5, 0.0]])
    expansion = expand(weight, Scheme(bits, 8, order=2), rule="maxabs")
    ratio = expansion.terms[0].scale / expansion.terms[1].scale
    assert float(ratio) == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "text", ["w4a8.o3", "w3a8.o3.g50", "w2a8.o4.g75-50-25", "w4a8.o2.b1", "w1a8.o3", "w4a8.o3.c50"]
)
def test_p2_terms_add_up_to_what_is_claimed(rule, text):
    weight = student()
    expansion = expand(weight, Scheme.parse(text), rule=rule)
    rest = weight.double()
    for term in expansion.terms:
        term.check("layer", expansion.matrix)
        rest = rest - term.value(expansion.matrix).double()
    assert torch.allclose(weight.double() - expansion.weight().double(), rest, atol=1e-6)


@pytest.mark.parametrize("rule", ["tiled", "centred", "maxabs", "pow2"])
@pytest.mark.parametrize("suffix", ["", ".g50", ".c50"])
def test_p2_prefix_property(rule, suffix):
    weight = student()
    short = expand(weight, Scheme.parse(f"w3a8.o2{suffix}"), rule=rule)
    long = expand(weight, Scheme.parse(f"w3a8.o3{suffix}"), rule=rule)
    assert torch.equal(short.weight(), long.weight(2))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("df", [2.5, 4.0, 30.0])
def test_p4_the_joint_choice_is_never_worse(bits, order, df):
    weight = student(rows=32, columns=64, seed=7, df=df)
    scheme = Scheme(bits, 8, order=order)
    joint = relative(weight, expand(weight, scheme))
    for rule in ("tiled", "centred", "maxabs"):
        assert joint <= relative(weight, expand(weight, scheme, rule=rule)) * (1 + 1e-6)


def test_p4_weights_already_on_a_grid_are_kept_exactly():
    codes = torch.from_numpy(np.random.default_rng(1).integers(-127, 128, (8, 64)).astype(np.float32))
    codes[:, 0] = 127
    weight = codes * 0.013
    for text in ("w8a8", "w8a8.o2"):
        assert relative(weight, expand(weight, Scheme.parse(text))) < 1e-12


@pytest.mark.parametrize("axis", ["g", "c"])
def test_p5_all_groups_equal_dense_and_no_groups_equal_order_one(axis):
    weight = student()
    for rule in RULES:
        dense = expand(weight, Scheme.parse("w4a8.o3"), rule=rule)
        axis_name = "columns" if axis == "c" else "rows"
        full = expand(weight, Scheme(4, 8, order=3, kept=(100, 100), axis=axis_name), rule=rule)
        assert torch.equal(dense.weight(), full.weight())
        none = expand(weight, Scheme.parse(f"w4a8.o3.{axis}0"), rule=rule)
        assert torch.equal(none.weight(), expand(weight, Scheme.parse("w4a8"), rule=rule).weight())
        assert all(term.codes.numel() == 0 for term in none.terms[1:])


@pytest.mark.parametrize("text", ["w4a8.o3.g50", "w3a8.o2.g25", "w4a8.o2.g50.b1"])
def test_p5_permuting_rows_permutes_the_result(text):
    weight = student()
    order = torch.from_numpy(np.random.default_rng(3).permutation(len(weight)))
    once = expand(weight, Scheme.parse(text)).weight()[order]
    assert torch.equal(once, expand(weight[order], Scheme.parse(text)).weight())


def test_p5_a_sparse_term_stores_only_its_rows():
    expansion = expand(student(), Scheme.parse("w4a8.o2.g25"))
    assert expansion.terms[1].codes.shape == (3, 40)
    assert expansion.terms[1].rows.tolist() == sorted(expansion.terms[1].rows.tolist())


def test_rows_are_ranked_by_residual_not_by_index():
    weight = student()
    weight[5] *= 100
    expansion = expand(weight, Scheme.parse("w4a8.o2.g5"), rule="tiled")
    assert expansion.terms[1].rows.tolist() == [5]


def test_columns_are_ranked_by_residual_times_moment():
    weight = student()
    moments = torch.ones(40)
    moments[17] = 1e4
    expansion = expand(weight, Scheme.parse("w4a8.o2.c1"), moments=moments)
    assert expansion.terms[1].cols.tolist() == [17]


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_p6_error_falls_with_each_order(bits):
    weight = student()
    errors = [relative(weight, expand(weight, Scheme(bits, 8, order=k))) for k in (1, 2)]
    assert errors[1] <= 0.5 * errors[0]


def test_p8_depthwise_rows_are_output_channels():
    weight = torch.randn(6, 1, 3, 3)
    expansion = expand(weight, Scheme.parse("w4a8.o2"))
    assert expansion.matrix == (6, 9)
    assert expansion.terms[0].scale.shape == (6,)


def test_columns_of_a_convolution_are_whole_channels():
    weight = torch.randn(6, 4, 3, 3)
    cols = expand(weight, Scheme.parse("w4a8.o2.c25")).terms[1].cols
    assert cols.numel() == 9
    assert torch.equal(cols // 9, cols[:1].expand(9) // 9)


@pytest.mark.parametrize("shape", [(6, 8, 3, 3), (5, 12, 1, 7), (7, 20)])
@pytest.mark.parametrize("text", ["w4a8.o2.c25", "w3a8.o3.c50-25", "w2a8.o3.c0-50", "w4a8.o3.c0"])
def test_stored_columns_are_those_the_profile_priced(shape, text):
    """What `make_terms` keeps of a convolution costs and errs as the profile says, channel by channel."""
    torch.manual_seed(4)
    weight, moments = torch.randn(shape), torch.rand(shape[1])
    scheme = Scheme.parse(text)
    terms = make_terms("layer", weight, scheme, moments)
    flat = weight.reshape(shape[0], -1)
    kernel = flat.shape[1] // shape[1]
    error = (flat.double() - weight_of(terms, flat.shape).double()).square()
    option = profile_layer(weight.numpy(), [scheme], column_moments=moments.numpy())[0]
    assert option.weight_error == pytest.approx(float(error.sum()), rel=1e-4)
    per_entry = moments.repeat_interleave(kernel)
    assert option.output_error == pytest.approx(float((error * per_entry).sum()), rel=1e-4)
    kept = [t for t in terms if t.codes.numel()]
    stored = sum(t.codes.numel() * t.bits / 8 + 4 * len(t.scale) for t in kept)
    stored += sum(4 * t.cols.numel() // kernel for t in kept if t.cols is not None)
    assert option.bytes == pytest.approx(stored)
    for term in kept:
        if term.cols is not None:
            assert torch.equal(term.cols[::kernel] % kernel, torch.zeros(len(term.cols) // kernel).int())


def test_a_binary_last_term_by_columns_is_refused():
    scheme = Scheme(4, 8, order=3, kept=(50, 50), axis="columns", binary_last=True)
    with pytest.raises(QuantError, match="keeps rows"):
        expand(student(), scheme)
    with pytest.raises(QuantError, match="keeps rows"):
        profile_layer(student().numpy(), [scheme])


@pytest.mark.parametrize(("bits", "order"), [(8, 4), (6, 5), (4, 7)])
def test_p9_orders_below_float32_are_refused(bits, order):
    with pytest.raises(QuantError, match="below the resolution"):
        expand(student(), Scheme(bits, 8, order=order))


def test_q1_zero_rows_stay_zero_with_finite_scales():
    weight = student()
    weight[3] = 0
    weight[4] = 1e-39
    for text in ("w4a8.o3", "w1a8.o2", "w4a8.o2.b1", "w2a8.o3.g50"):
        for rule in RULES:
            expansion = expand(weight, Scheme.parse(text), rule=rule)
            assert all(bool(torch.isfinite(term.scale).all()) for term in expansion.terms)
            assert float(expansion.weight()[3].abs().max()) == 0


def test_p10_native_width_beats_expansion_at_equal_bits():
    """Two 4-bit terms are 225 cells; one 8-bit term has 255. Expansion must earn its place elsewhere."""
    weight = student(rows=64, columns=256)
    assert relative(weight, expand(weight, Scheme(8, 8))) < relative(
        weight, expand(weight, Scheme(4, 8, order=2))
    )


def test_binary_last_term_is_the_least_squares_one():
    weight = student()
    expansion = expand(weight, Scheme.parse("w4a8.o2.b1"))
    rest = weight - expansion.weight(1)
    scale = expansion.terms[1].scale
    for row, chosen in zip(rest, scale, strict=True):
        errors = [float((row.abs() - factor * chosen).square().sum()) for factor in (0.9, 1.0, 1.1)]
        assert errors[1] == min(errors)
    assert expansion.terms[1].bits == 1


@pytest.mark.parametrize(
    "text",
    [
        "w2a8",
        "w4a8",
        "w8a8",
        "w4a8.o2.g50",
        "w2a8.o3.g75",
        "w3a8.o3",
        "w4a8.o2.b1",
        "w1a8.o2",
        "w4a8.o3.c50",
        "w2a8.o3.c75",
    ],
)
def test_profile_agrees_with_the_expansion_it_predicts(text):
    """The profile reads errors off shared tables; the expansion computes them term by term."""
    weight = student(rows=24, columns=96, seed=5)
    moments = torch.rand(96)
    scheme = Scheme.parse(text)
    expansion = expand(weight, scheme, moments=moments)
    error = (weight.double() - expansion.weight().double()).square()
    squared = torch.rand(24, 96)
    option = profile_layer(
        weight.numpy(), [scheme], macs=10, column_moments=moments.numpy(), squared_gradient=squared.numpy()
    )[0]
    assert option.weight_error == pytest.approx(float(error.sum()), rel=1e-3)
    approximate = 0.1 if scheme.binary_last else 1e-3
    assert option.output_error == pytest.approx(float((error * moments).sum()), rel=approximate)
    assert option.loss == pytest.approx(0.5 * float((error * squared).sum()), rel=approximate)
    assert option.measured_sup == pytest.approx(float(error.sqrt().max()), rel=1e-3)
    assert option.sup_bound >= option.measured_sup
    if scheme.weight_bits > 1:
        assert option.sup_bound <= layer_bound(expansion, weight) * (1 + 1e-5)


def test_layer_names_stand_in_errors():
    with pytest.raises(QuantError, match=r"blocks\.0\.fc"):
        make_terms("blocks.0.fc", torch.full((2, 2), float("nan")), Scheme(4, 8), None)


def test_sparse_bound_follows_the_number_of_terms_of_each_row():
    weight = student()
    expansion = expand(weight, Scheme.parse("w4a8.o3.g50"), rule="centred")
    wanted = decay_bound(expansion.terms[0].scale.double(), 4, expansion.counts, centred=True)
    error = (weight.double() - expansion.weight().double()).abs().amax(1)
    assert bool((error <= wanted * (1 + 1e-5)).all())
    assert torch.allclose(row_bound(expansion, weight), wanted, rtol=1e-3)
