"""Depthwise kernels against int64 numpy, tap by tap and woven, and quantizers at ties and far beyond their range."""

import numpy as np
import pytest

pytest.importorskip("tvm")

from hwsim.compile.build import call_kernel
from hwsim.compile.depthwise import Depthwise
from hwsim.compile.expr import leaf, op, quantize
from hwsim.compile.lower_codes import Quantized
from hwsim.compile.rowwise import Elementwise
from hwsim.compile.vector import Sink, Source
from tests.hwsim.compile.test_compile_product import runnable


def windows(x, kernel, stride, dilation, height, width):
    """Inputs (taps, height, width, channels) under the window of every output."""
    return np.stack(
        [
            x[u * dilation :, v * dilation :][: height * stride : stride, : width * stride : stride]
            for u in range(kernel[0])
            for v in range(kernel[1])
        ]
    )


@pytest.mark.parametrize("isa", runnable(), ids=lambda i: i.name)
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (7, 7), (1, 4), (9, 2)])
@pytest.mark.parametrize(
    ("stride", "dilation", "channels", "terms", "width"),
    [(1, 1, 16, 1, 7), (2, 1, 33, 1, 17), (1, 2, 5, 2, 1), (2, 2, 48, 3, 9), (1, 1, 20, 1, 112)],
)
def test_equals_int64(isa, kernel, stride, dilation, channels, terms, width):
    height, rng = 3, np.random.default_rng(width)
    rows = (height - 1) * stride + (kernel[0] - 1) * dilation + 1
    columns = (width - 1) * stride + (kernel[1] - 1) * dilation + 1
    x = rng.integers(0, 256, (rows, columns, channels), dtype=np.uint8)
    x[rng.random(x.shape) < 0.2] = 255
    taps, padded = kernel[0] * kernel[1], -(-channels // isa.lanes) * isa.lanes
    weights = np.zeros((terms, taps, padded), np.int8)
    weights[..., :channels] = rng.choice([-128, 127, *range(-20, 20)], (terms, taps, channels))
    initial = np.zeros((terms, padded), np.int32)
    initial[:, :channels] = -119 * weights[..., :channels].sum(1, dtype=np.int64)
    line = columns * channels
    made = Depthwise(
        ((1, 0, 0), (height, stride * line, width * channels), (width, stride * channels, channels)),
        ((kernel[0], dilation * line), (kernel[1], dilation * channels)),
        terms, channels, (x.size, height * width * channels), 0, 0, "uint8", "int32", leaf(0), raw=True,
    )  # fmt: skip
    assert made.woven(isa) == isa.sums_words
    out = np.zeros(height * width * channels, np.int32)
    call_kernel(made, isa, [x.ravel(), made.packed(weights, isa).ravel(), initial.ravel(), out])
    seen = windows(x.astype(np.int64) - 119, kernel, stride, dilation, height, width)
    expected = np.einsum("thwc,tc->hwc", seen, weights[..., :channels].sum(0, dtype=np.int64))
    assert np.array_equal(out.reshape(expected.shape), expected)


@pytest.mark.parametrize("isa", runnable(), ids=lambda i: i.name)
@pytest.mark.parametrize(("low", "high", "zero"), [(0, 255, 119.0), (1, 255, 128.0), (0, 15, 0.0)])
def test_a_quantizer_at_ties_and_far_outside(isa, low, high, zero):
    """In float32, as torch does it: ties to even, and everything beyond the codes at their ends."""
    scale = np.float32(0.25)
    x = np.concatenate([np.arange(-600, 600) / 8, [1e9, -1e9, 3e38, -3e38, np.inf, -np.inf]]).astype(
        np.float32
    )
    settings = np.array([scale, zero], np.float32)
    sources = tuple(
        Source(*arguments, "float32")
        for arguments in ((x.size, 0, (0,), 1), (2, 0, (0,), 0), (2, 1, (0,), 0))
    )
    kernel = Elementwise((1,), x.size, quantize(leaf(1), leaf(2), leaf(3), low, high), sources,
                         Sink(x.size, 0, (0,), 1, "uint8"))  # fmt: skip
    codes = np.zeros(x.size, np.uint8)
    call_kernel(kernel, isa, [x, settings, settings, codes])
    with np.errstate(over="ignore"):
        expected = np.clip(np.rint(x / scale) + np.float32(zero), low, high)
    assert np.array_equal(codes, expected.astype(np.uint8))


@pytest.mark.parametrize(
    ("scale", "zero_point", "dropped"),
    [(6 / 255, 0, 2), (6 / 255, 3, 1), (7 / 255, 0, 0), (7 / 255, -1, 0), (5 / 255, 0, 2)],
)
def test_a_clip_that_the_codes_imply_is_left_out(scale, zero_point, dropped):
    """relu6: its upper end is implied if code(6) is the highest, its lower one if code(0) is the lowest."""
    q = Quantized(None, scale, zero_point, 8, False, (1,))  # type: ignore[arg-type]
    tree, _ = q.tree(op("min", op("max", leaf(0), 0.0), 6.0), (), "q")
    left, inner = 0, tree.args[0]
    while inner.op != "leaf":
        left, inner = left + 1, inner.args[0]
    assert left == 2 - dropped
    x = np.linspace(-9, 9, 2001, dtype=np.float32)
    whole = np.clip(np.rint(np.clip(x, 0, 6) / np.float32(scale)) + zero_point, 0, 255)
    short = (
        x
        if dropped == 2
        else np.maximum(x, 0)
        if left == 1 and tree.args[0].op == "max"
        else np.clip(x, 0, 6)
    )
    assert np.array_equal(np.clip(np.rint(short / np.float32(scale)) + zero_point, 0, 255), whole)
