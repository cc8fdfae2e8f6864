"""Operators between products, compiled alone, against torch in float64; resizing also against the formula."""

import numpy as np
import pytest

pytest.importorskip("tvm")
import torch
from torch import nn
from torch.nn import functional

from hwsim.compile.check import run_program
from hwsim.compile.isa import host_isa
from hwsim.compile.lower import lower
from hwsim.errors import UserError
from hwsim.model.export import export_program, graph_module
from hwsim.model.load import simplify


class Many(nn.Module):
    """One output for each function."""

    def __init__(self, functions):
        super().__init__()
        self.functions = functions

    def forward(self, *inputs):
        return tuple(function(*inputs) for function in self.functions)


def outputs(functions, inputs):
    """What the compiled program of all functions gives."""
    module = graph_module(export_program(Many(functions), inputs))
    simplify(module)
    return run_program(lower(module, host_isa()), host_isa(), [x.numpy() for x in inputs])


def assert_agree(functions, *inputs, tolerance=2e-6):
    found = outputs(list(functions.values()), inputs)
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    for (name, function), values in zip(functions.items(), found, strict=True):
        expected = function(*wide).numpy().astype(np.float64)
        assert values.shape == expected.shape, name
        assert np.abs(values - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-3), name


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_elementwise():
    names = "leaky_relu elu celu selu softplus mish logsigmoid softsign hardswish tanhshrink softshrink hardshrink"
    functions = {name: getattr(functional, name) for name in names.split()}
    names = "exp2 expm1 sin cos square floor ceil round trunc sign frac sinh"
    functions |= {name: getattr(torch, name) for name in names.split()}
    functions |= {
        "sin of many turns": lambda x: torch.sin(300 * x.round()),
        "remainder": lambda x: torch.remainder(x.round(), 3) + torch.fmod(x.round(), 3),
        "masked": lambda x: x.masked_fill((x > 1) | ~(x > -1), -3.0).clamp(max=x.abs() / 2),
        "comparisons": lambda x: (
            (x >= 1) + 2.0 * (x < 0) + 4.0 * (x == x) + 8.0 * (x != x) + 16.0 * (x <= 0.5)
        ),
        "integers": lambda x: (3 * x).to(torch.int64).to(x.dtype) + (x - 0.5).round().bool(),
        "glu": lambda x: functional.glu(x, 1),
        "prelu": lambda x: functional.prelu(x, torch.linspace(0.1, 0.5, 6, dtype=x.dtype)),
    }
    assert_agree(functions, 2 * noise(2, 6, 19))


def test_powers_and_logarithms():
    functions = {
        name: getattr(torch, name) for name in ["log", "log1p", "log2", "log10", "reciprocal", "rsqrt"]
    }
    functions |= {f"power {p}": lambda x, p=p: x**p for p in (2, 3, 5, 7, 0, 0.5, -0.5, -1, -3, 1.5, 2.3)}
    functions["powers"] = lambda x: (2.0**x) ** x
    assert_agree(functions, noise(5, 37).abs() + 0.01, tolerance=4e-6)


def test_reductions():
    functions = {
        name: lambda x, name=name: getattr(x, name)((1, 3)) for name in ("sum", "mean", "amax", "amin")
    }
    functions |= {
        "all values": lambda x: x.sum() + x.mean() + x.max() + x.min(),
        "places": lambda x: x.argmax(2) + 100 * x.argmin(1, keepdim=True)[:, 0, None, 0] + x.argmax(),
        "pairs": lambda x: x.max(2)[0] + x.max(2)[1] + x.min(2)[0] * x.min(2)[1],
        "truth": lambda x: (x > 2).any(1).double() + 2 * (x > -2).all(1),
        "variance": lambda x: x.var(1) + x.std((2, 3), keepdim=True)[:, 0] + x.var(1, unbiased=False),
        "norms": lambda x: x.norm(p=1, dim=1) + x.norm(dim=1) + x.norm(p=torch.inf, dim=1),
        "running sum": lambda x: x.cumsum(1) + x.cumsum(3),
        "log softmax": lambda x: x.log_softmax(-1) + x.logsumexp(-1, keepdim=True),
        "highest few": lambda x: torch.cat([x.topk(3, 2)[0], x.topk(2, 2)[1].to(x.dtype)], 2),
        "norm over places": lambda x: functional.layer_norm(x, (7, 9), torch.arange(63).to(x).reshape(7, 9)),
        "rms norm": lambda x: functional.rms_norm(x, (9,), torch.arange(9).to(x)),
        "instance norm": lambda x: functional.instance_norm(x),
    }
    assert_agree(functions, noise(2, 6, 7, 9))


def test_picking_and_placing():
    few = torch.tensor([3, 1, 1, 6])

    def shifted(x, i):
        result = torch.zeros_like(x)
        result[:, 1:] = x[:, :-1]
        result[:, 0] = 2.0
        result[..., ::2] *= 2
        return result

    functions = {
        "gather rows": lambda x, i: x.gather(1, i[:, :, None, None].expand(-1, -1, 7, 9)),
        "gather": lambda x, i: x.gather(3, i[:, None, None].expand(2, 6, 7, 3)),
        "select": lambda x, i: x.index_select(2, i[0]),
        "computed": lambda x, i: x[torch.arange(2)[:, None], i],
        "from the end": lambda x, i: x[:, -i[0] - 1],
        "constants": lambda x, i: x[:, :, few],
        "separated": lambda x, i: x[:, few[:2], :, few[2:]],
        "grid": lambda x, i: x[:, few[:2, None], few[None]],
        "turned": lambda x, i: x.flip(1, 3),
        "repeated": lambda x, i: x.repeat(2, 1, 1, 3),
        "each repeated": lambda x, i: x.repeat_interleave(3, 3),
        "reflected": lambda x, i: functional.pad(x, (1, 2, 3, 1), mode="reflect"),
        "replicated": lambda x, i: functional.pad(x, (1, 2, 3, 1), mode="replicate"),
        "circular": lambda x, i: functional.pad(x, (1, 2, 3, 1), mode="circular"),
        "cut": lambda x, i: functional.pad(x, (-1, 2, 1, -2), value=0.5),
        "shuffled": lambda x, i: functional.pixel_shuffle(x[:, :4], 2),
        "written": shifted,
    }
    assert_agree(functions, noise(2, 6, 7, 9), torch.tensor([[0, 4, 2], [5, 5, 1]]), tolerance=0)


def test_windows_and_pools():
    fold = {"kernel_size": 3, "padding": 1, "stride": 2}
    functions = {
        "unfold": lambda x: functional.unfold(x, **fold),
        "unfold dilated": lambda x: functional.unfold(x, (3, 2), dilation=2),
        "fold": lambda x: functional.fold(functional.unfold(x, **fold), (7, 9), **fold),
        "unfold one axis": lambda x: x.unfold(2, 3, 2) * 1.0,
        "mean, last window cut": lambda x: functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        "mean of what is inside": lambda x: functional.avg_pool2d(x, 4, 2, 1, True, count_include_pad=False),
        "sum over five": lambda x: functional.avg_pool2d(x, 3, 2, divisor_override=5),
        "maximum, last window cut": lambda x: functional.max_pool2d(x, 2, 2, ceil_mode=True),
        "rows": lambda x: functional.avg_pool1d(x[:, 0], 3, 2) + functional.max_pool1d(x[:, 0], 3, 2),
        "adaptive": lambda x: functional.adaptive_avg_pool2d(x, (3, 4)),
        "adaptive rows": lambda x: functional.adaptive_avg_pool1d(x[:, 0], 5),
        "adaptive maximum": lambda x: functional.adaptive_max_pool2d(x, (1, 3)),
    }
    assert_agree(functions, noise(2, 6, 7, 9))


def positions(size, out, corners):
    """Where each output lies between the inputs (PyTorch's documentation of interpolate)."""
    if corners:
        return np.arange(out) * (size - 1) / (out - 1)
    return (np.arange(out) + 0.5) * size / out - 0.5


def linear(size, out, corners):
    place = np.clip(positions(size, out, corners), 0, None)
    return np.maximum(0, 1 - np.abs(np.minimum(place, size - 1)[:, None] - np.arange(size)))


def cubic(size, out, corners, a=-0.75):
    """Keys 1981, with the border repeated."""
    matrix = np.zeros((out, size))
    for row, place in enumerate(positions(size, out, corners)):
        for source in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            d = abs(place - source)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            matrix[row, np.clip(source, 0, size - 1)] += near if d <= 1 else far
    return matrix


def test_smooth_resizing_follows_the_formula():
    x, sizes = noise(2, 5, 7, 9), ((13, 20), (3, 4), (7, 18))
    cases = [
        (mode, corners, size)
        for mode in ("bilinear", "bicubic")
        for corners in (False, True)
        for size in sizes
    ]
    functions = [
        lambda x, m=m, c=c, s=s: functional.interpolate(x, size=s, mode=m, align_corners=c)
        for m, c, s in cases
    ]
    for (mode, corners, size), found in zip(cases, outputs(functions, (x,)), strict=True):
        rows, columns = (
            {"bilinear": linear, "bicubic": cubic}[mode](n, out, corners)
            for n, out in zip((7, 9), size, strict=True)
        )
        expected = np.einsum("ih,nchw,jw->ncij", rows, x.double().numpy(), columns)
        np.testing.assert_allclose(found, expected, atol=4e-6, err_msg=f"{mode} {corners} {size}")


def test_resizing_by_factors():
    def to(**how):
        return lambda x: functional.interpolate(x, **how)

    functions = {
        "nearest": to(size=(13, 20)), "smaller": to(size=(3, 4)), "doubled": to(scale_factor=2),
        "nearest by factors": to(scale_factor=(1.7, 2.1)), "exact": to(size=(13, 20), mode="nearest-exact"),
        "bilinear by factors": to(scale_factor=(1.7, 0.6), mode="bilinear"),
        "bicubic by factors": to(scale_factor=(0.7, 1.6), mode="bicubic"),
        "antialiased": to(size=(3, 4), mode="bilinear", antialias=True),
        "antialiased cubic": to(size=(5, 4), mode="bicubic", antialias=True),
        "rows": lambda x: functional.interpolate(x[:, 0], size=15, mode="linear"),
    }  # fmt: skip
    assert_agree(functions, noise(2, 6, 7, 9))


def test_products_in_other_spellings():
    weight, row, bias = noise(6, 4, 3, 3), noise(6, 4, 5), noise(4)
    functions = {
        "transposed": lambda x, y: functional.conv_transpose2d(
            x, weight.to(x), bias.to(x), stride=2, padding=1, output_padding=1
        ),
        "transposed, apart": lambda x, y: functional.conv_transpose2d(
            x, weight[:, :, :2, :2].to(x), stride=2
        ),
        "transposed, dilated": lambda x, y: functional.conv_transpose2d(
            x, weight.to(x), padding=1, dilation=2, output_padding=0
        ),
        "transposed groups": lambda x, y: functional.conv_transpose2d(
            x, weight.to(x), stride=(3, 2), groups=2
        ),
        "transposed row": lambda x, y: functional.conv_transpose1d(
            x[:, :, 0], row.to(x), stride=2, padding=1
        ),
        "one for all": lambda x, y: x @ y[0, 0],
        "heads": lambda x, y: x[:, :1] @ y[:1],
        "vector": lambda x, y: (x @ y[0, 0, :, 0])[..., 0] + (y[0, 0, :7, 0] @ x)[..., 0],
    }
    assert_agree(functions, noise(2, 6, 7, 9), noise(2, 3, 9, 5))


def test_what_has_no_kernel_is_said_in_one_line():
    with pytest.raises(UserError, match=r"operator aten\.sort\.default has no kernel"):
        outputs([lambda x: x.sort(-1)[0]], (noise(3, 4),))
