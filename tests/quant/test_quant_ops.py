"""Integer operators against numpy int64 arithmetic."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant import exact
from quant import ops as _ops  # noqa: F401

hwsim = torch.ops.hwsim


def _codes(rng, shape, bits, signed=False):
    low, high = (-(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    dtype = torch.int32 if bits > 8 else torch.int8 if signed else torch.uint8
    return torch.from_numpy(rng.integers(low, high + 1, shape)).to(dtype)


def _zero(value):
    return torch.tensor(value, dtype=torch.int32)


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 20), k=st.integers(1, 300), n=st.integers(1, 40),
    act=st.sampled_from([2, 4, 8, 12, 16]), weight=st.integers(2, 8), signed=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_int_linear_is_int64_arithmetic(m, k, n, act, weight, signed, seed):
    rng = np.random.default_rng(seed)
    q, codes = _codes(rng, (m, k), act, signed), _codes(rng, (n, k), weight, signed=True)
    z = 0 if signed else int(rng.integers(0, 2**act))
    expected = (q.numpy().astype(np.int64) - z) @ codes.numpy().astype(np.int64).T
    wrapped = expected.astype(np.int32)
    assert np.array_equal(hwsim.int_linear(q, _zero(z), codes, None).numpy(), wrapped)


def test_int_linear_worst_case_reaches_the_edge_of_the_accumulator():
    k = 66_000  # 255 * 127 * 66000 = 2.137e9 < 2^31
    q, codes = torch.full((3, k), 255, dtype=torch.uint8), torch.full((5, k), 127, dtype=torch.int8)
    assert hwsim.int_linear(q, _zero(0), codes, None).unique().tolist() == [255 * 127 * k]
    assert hwsim.int_linear(q, _zero(0), -codes, None).unique().tolist() == [-255 * 127 * k]


def test_all_three_engines_agree(monkeypatch):
    rng = np.random.default_rng(0)
    q, codes = _codes(rng, (50, 700), 8), _codes(rng, (30, 700), 8, signed=True)
    expected = q.numpy().astype(np.int64) @ codes.numpy().astype(np.int64).T
    for int8, float32 in itertools.product((True, False), repeat=2):
        if int8 and not exact.has_exact_int8_product():
            continue
        monkeypatch.setattr(exact, "_int8_product_applies", lambda *_, on=int8: on)
        monkeypatch.setattr(exact, "_float32_is_full_precision", lambda _, on=float32: on)
        assert np.array_equal(exact.codes_times_weights(q, codes, _zero(0)).numpy(), expected)


def test_float32_is_not_used_beyond_its_exact_range():
    left = torch.tensor([[1 << 12, 1]], dtype=torch.int32)
    right = torch.tensor([[1 << 13], [1]], dtype=torch.int32)
    assert exact.integer_matmul(left, right).item() == (1 << 25) + 1


def test_column_sparse_term_gathers_inputs():
    rng = np.random.default_rng(1)
    q, codes = _codes(rng, (2, 3, 20), 8), _codes(rng, (4, 5), 4, signed=True)
    cols = torch.tensor([0, 3, 4, 11, 19], dtype=torch.int32)
    expected = (q.numpy()[..., cols.numpy()].astype(np.int64) - 9) @ codes.numpy().astype(np.int64).T
    assert np.array_equal(hwsim.int_linear(q, _zero(9), codes, cols).numpy(), expected)


def _conv_reference(q, z, codes, stride, padding, dilation, groups, row_channel, channels):
    """Direct loops over output positions in int64."""
    x = q.numpy().astype(np.int64) - z
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    w = codes.numpy().astype(np.int64)
    rows, per_group, kh, kw = w.shape
    oh = (x.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (x.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = np.zeros((x.shape[0], rows, oh, ow), dtype=np.int64)
    for r in range(rows):
        g = row_channel[r] // (channels // groups)
        part = x[:, g * per_group : (g + 1) * per_group]
        for i, j in itertools.product(range(oh), range(ow)):
            top, left = i * stride[0], j * stride[1]
            window = part[
                :, :, top : top + dilation[0] * kh : dilation[0], left : left + dilation[1] * kw : dilation[1]
            ]
            out[:, r, i, j] = (window[:, :, :kh, :kw] * w[r]).sum((1, 2, 3))
    return out


@pytest.mark.parametrize("groups, channels, cin", [(1, 6, 4), (4, 4, 4), (4, 8, 4), (2, 6, 4)])
@pytest.mark.parametrize("kernel, stride, padding, dilation", [
    ([3, 3], [1, 1], [1, 1], [1, 1]), ([3, 2], [2, 1], [0, 1], [1, 2]), ([1, 1], [2, 2], [0, 0], [1, 1]),
])  # fmt: skip
@pytest.mark.parametrize("sparse", [False, True])
def test_int_conv2d_is_int64_arithmetic(groups, channels, cin, kernel, stride, padding, dilation, sparse):
    rng = np.random.default_rng(channels)
    q = _codes(rng, (2, cin, 9, 8), 8)
    order1 = np.arange(channels)
    row_channel = np.concatenate([order1, rng.permutation(channels)[: channels // 2]]) if sparse else order1
    codes = _codes(rng, (len(row_channel), cin // groups, *kernel), 4, signed=True)
    rows = torch.from_numpy(row_channel).to(torch.int32) if sparse else None
    got = hwsim.int_conv2d(
        q, _zero(77), codes, kernel, stride, padding, dilation, groups, channels, rows, None
    )
    expected = _conv_reference(q, 77, codes, stride, padding, dilation, groups, row_channel, channels)
    assert np.array_equal(got.numpy(), expected)


def test_padding_is_the_zero_point():
    """An image of zero points convolves to zero everywhere, borders included."""
    q = torch.full((1, 3, 5, 5), 200, dtype=torch.uint8)
    codes = torch.ones(2, 3, 3, 3, dtype=torch.int8)
    geometry = ([3, 3], [1, 1], [1, 1], [1, 1], 1, 2, None, None)
    assert not hwsim.int_conv2d(q, _zero(200), codes, *geometry).any()


@settings(max_examples=30, deadline=None)
@given(k=st.integers(1, 400), bits=st.sampled_from([4, 8, 11]), seed=st.integers(0, 99))
def test_int_matmul_is_int64_arithmetic(k, bits, seed):
    rng = np.random.default_rng(seed)
    a, b = _codes(rng, (2, 3, 5, k), bits), _codes(rng, (2, 3, k, 4), 8)
    za, zb = int(rng.integers(0, 2**bits)), int(rng.integers(0, 256))
    expected = (a.numpy().astype(np.int64) - za) @ (b.numpy().astype(np.int64) - zb)
    assert np.array_equal(hwsim.int_matmul(a, _zero(za), b, _zero(zb)).numpy(), expected)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_quantize_rounds_half_to_even_and_clamps(bits, signed):
    x = np.arange(-40, 41, dtype=np.float32) / 4
    z = 0 if signed else 1
    low, high = (-(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    expected = np.clip(np.rint(x / np.float32(0.5)) + z, low, high)
    got = hwsim.quantize(torch.from_numpy(x), torch.tensor(0.5), _zero(z), bits, signed)
    assert np.array_equal(got.numpy(), expected)


def test_quantize_is_idempotent_and_monotone():
    x = torch.linspace(-3, 5, 4001)
    scale, zero = torch.tensor(0.0317), _zero(90)
    q = hwsim.quantize(x, scale, zero, 8, False)
    again = hwsim.quantize((q.float() - zero) * scale, scale, zero, 8, False)
    assert torch.equal(q, again)
    assert bool((q.int().diff() >= 0).all())


def test_dynamic_range_covers_every_token_and_zero():
    x = torch.tensor([[1.0, 2.0, 4.0], [-1.0, -3.0, -2.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 3.0]])
    scale, zero = hwsim.dynamic_range(x, 8)
    q = hwsim.quantize(x, scale, zero, 8, False)
    back = (q.to(torch.int32) - zero) * scale
    assert torch.all((back - x).abs() <= scale / 2 + 1e-6)
    assert zero.flatten().tolist()[:3] == [0, 255, 0]


@pytest.mark.parametrize("dim", [-1, 1])
def test_rescale_adds_terms_at_their_rows_and_the_bias_once(dim):
    rng = np.random.default_rng(2)
    acc = torch.from_numpy(rng.integers(-9999, 9999, (2, 7, 3, 3))).to(torch.int32)
    acc = acc.movedim(1, -1) if dim == -1 else acc
    rows = torch.tensor([0, 1, 2, 3, 1, 3, 2], dtype=torch.int32)
    scale, bias = torch.rand(7), torch.randn(4)
    got = hwsim.rescale(acc, scale, torch.tensor(0.25), rows, [4, 2, 1], bias, 4, dim)
    expected = np.zeros((2, 4, 3, 3))
    wide = acc.movedim(dim, 1).numpy().astype(np.float64)
    for r, channel in enumerate(rows.tolist()):
        expected[:, channel] += wide[:, r] * float(scale[r]) * 0.25
    expected += bias.numpy()[:, None, None]
    assert np.allclose(got.movedim(dim, 1).numpy(), expected, rtol=1e-5, atol=1e-4)


def test_fake_implementations_predict_shapes_and_types():
    q, codes = torch.zeros(2, 4, 9, 8, dtype=torch.uint8), torch.ones(6, 4, 3, 3, dtype=torch.int8)
    geometry = ([3, 3], [2, 1], [1, 0], [1, 1], 1, 6, None, None)
    real = hwsim.int_conv2d(q, _zero(0), codes, *geometry)
    fake = hwsim.int_conv2d(q.to("meta"), _zero(0).to("meta"), codes.to("meta"), *geometry)
    assert real.shape == fake.shape and real.dtype == fake.dtype == torch.int32
    x = torch.randn(3, 5)
    torch.library.opcheck(hwsim.quantize.default, (x, torch.tensor(0.1), _zero(3), 8, False))
    torch.library.opcheck(
        hwsim.int_linear.default, (q[:, 0, :, 0], _zero(1), torch.ones(2, 9, dtype=torch.int8), None)
    )
    torch.library.opcheck(hwsim.int_matmul.default, (q, _zero(1), q.transpose(2, 3).contiguous(), _zero(2)))
