"""Vector kernels against float64 numpy."""

import math

import numpy as np
import pytest

pytest.importorskip("tvm")

from hwsim.compile.build import call_kernel
from hwsim.compile.expr import gelu, leaf, op, sigmoid
from hwsim.compile.isa import host_isa
from hwsim.compile.program import Buffer, Port, Program, Step, lifetimes, plan_memory
from hwsim.compile.rowwise import Elementwise, LayerNorm, Softmax
from hwsim.compile.vector import Sink, Source

ERF = np.vectorize(math.erf)


def elementwise(tree, x):
    out = np.zeros_like(x)
    n = x.size
    call_kernel(Elementwise((), n, tree, (Source(n, 0, (), 1),), Sink(n, 0, ())), host_isa(), [x, out])
    return out


@pytest.mark.parametrize(
    ("tree", "exact"),
    [
        (op("exp", leaf(1)), np.exp),
        (op("erf", leaf(1)), ERF),
        (op("tanh", leaf(1)), np.tanh),
        (gelu(leaf(1)), lambda x: 0.5 * x * (1 + ERF(x / math.sqrt(2)))),
        (sigmoid(leaf(1)), lambda x: 1 / (1 + np.exp(-x))),
    ],
)
def test_functions_are_within_a_few_ulp(tree, exact):
    x = np.linspace(-20, 20, 4099, dtype=np.float32)
    expected = exact(x.astype(np.float64))
    error = np.abs(elementwise(tree, x) - expected)
    # exp grows with its value; GELU multiplies the rounding error of 1 + erf by x.
    assert (error <= 4e-7 * np.maximum(np.maximum(1, np.abs(x)), np.abs(expected))).all()


def test_exp_of_a_mask_is_zero():
    x = np.array([-np.inf, -3.4e38, -100.0, 0.0], np.float32)
    assert elementwise(op("exp", leaf(1)), x).tolist() == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("columns", [1, 7, 16, 197, 768])
def test_rows(columns):
    rng = np.random.default_rng(columns)
    x = (rng.standard_normal((5, columns)) * 3 + 100).astype(np.float32)
    n = x.size
    common = ((5,), columns)
    ends = ((Source(n, 0, (columns,), 1),), Sink(n, 0, (columns,)))
    wide = x.astype(np.float64)
    out = np.zeros_like(x)
    call_kernel(LayerNorm(*common, leaf(0), *ends, epsilon=1e-5), host_isa(), [x, out])
    centred = wide - wide.mean(1, keepdims=True)
    np.testing.assert_allclose(out, centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5), atol=3e-5)
    call_kernel(Softmax(*common, leaf(0), *ends), host_isa(), [x, out])
    shifted = np.exp(wide - wide.max(1, keepdims=True))
    np.testing.assert_allclose(out, shifted / shifted.sum(1, keepdims=True), rtol=2e-6, atol=1e-9)


def test_memory_plan_never_overlaps_live_buffers():
    rng = np.random.default_rng(0)
    program, made = Program(), []
    for index in range(60):
        out = Buffer(f"b{index}", int(rng.integers(1, 500)), "float32", "work")
        used = [made[int(i)] for i in rng.integers(max(0, len(made) - 8), len(made), 2)] if made else []
        program.steps.append(Step(Elementwise((), 1, leaf(1), (), Sink(1, 0, ())), (*used, out), "", (-1,)))  # type: ignore[arg-type]
        made.append(out)
    program.outputs.append(Port("y", (made[-1].elements,), "float32", made[-1]))
    offsets, total = plan_memory(program)
    spans = lifetimes(program)
    for a in spans:
        assert offsets[a] % 64 == 0
        assert offsets[a] + a.bytes + 64 <= total
        for b in spans:
            together = spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]
            if a is not b and together:
                assert offsets[a] + a.bytes + 64 <= offsets[b] or offsets[b] + b.bytes + 64 <= offsets[a]
    assert total < sum(b.bytes + 128 for b in spans)
