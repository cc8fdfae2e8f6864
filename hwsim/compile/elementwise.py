"""What each elementwise operator of the graph is as a tree (`expr`): tables from the operator's name to its builder.

Truth values are 1 and 0, as stored tensors of them are.
"""

import math
from collections.abc import Callable

from hwsim.compile.expr import Node, const, gelu, op, sigmoid

Builder = Callable[..., Node]


def select(condition: Node, yes: Node, no: Node) -> Node:
    """``yes`` where the condition is 1, else ``no``."""
    return Node("where_ge0", (op("sub", condition, 0.5), yes, no))


def truncated(x: Node) -> Node:
    """The integer part, towards zero."""
    down = op("floor", op("abs", x))
    return Node("where_ge0", (x, down, op("mul", down, -1.0)))


def _clamp(x: Node, low: float | None = None, high: float | None = None) -> Node:
    if low is not None:
        x = op("max", x, low)
    return x if high is None else op("min", x, high)


def _gate(x: Node) -> Node:
    """relu6(x + 3) / 6."""
    return op("div", _clamp(op("add", x, 3.0), 0.0, 6.0), 6.0)


def _at_least(a: Node, b: Node | float) -> Node:
    return Node("where_ge0", (op("sub", a, b), const(1.0), const(0.0)))


def _below(a: Node, b: Node | float) -> Node:
    return Node("where_ge0", (op("sub", a, b), const(0.0), const(1.0)))


def _at_most(a: Node, b: Node | float) -> Node:
    return Node("where_ge0", (op("sub", b, a), const(1.0), const(0.0)))


def _above(a: Node, b: Node | float) -> Node:
    return Node("where_ge0", (op("sub", b, a), const(0.0), const(1.0)))


def _equal(a: Node, b: Node | float) -> Node:
    return op("mul", _at_least(a, b), _at_most(a, b))


def _unequal(a: Node, b: Node | float) -> Node:
    return op("sub", 1.0, _equal(a, b))


def _inverted(x: Node) -> Node:
    return op("sub", 1.0, x)


def _minus(x: Node) -> Node:
    return op("mul", x, -1.0)


def _leaky(x: Node, slope: float = 0.01) -> Node:
    return Node("where_ge0", (x, x, op("mul", x, slope)))


def _elu(x: Node, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Node:
    below = op("sub", op("exp", op("mul", op("min", x, 0.0), input_scale)), 1.0)
    return op("mul", Node("where_ge0", (x, x, op("mul", below, alpha))), scale)


def _softplus(x: Node, beta: float = 1.0, threshold: float = 20.0) -> Node:
    """log(1 + exp(beta x)) / beta without overflow; beyond the threshold the difference to x is no float."""
    x = x if beta == 1 else op("mul", x, beta)
    soft = op("add", op("max", x, 0.0), op("log", op("add", 1.0, op("exp", _minus(op("abs", x))))))
    soft = Node("where_ge0", (op("sub", x, threshold), x, soft))
    return soft if beta == 1 else op("div", soft, beta)


def power(x: Node, exponent: float) -> Node:
    """Whole powers up to 8 and roots exactly; others by logarithm, for positive numbers only."""
    if exponent < 0:
        return op("div", 1.0, power(x, -exponent))
    if exponent == 0:
        return op("add", op("mul", x, 0.0), 1.0)
    if exponent == 0.5:
        return op("sqrt", x)
    if exponent == int(exponent) and exponent <= 8:
        half = power(x, exponent // 2) if exponent > 1 else x
        square = op("mul", half, half) if exponent > 1 else x
        return op("mul", square, x) if exponent > 1 and exponent % 2 else square
    return op("exp", op("mul", op("log", x), exponent))


UNARY: dict[str, Builder] = {
    "aten.relu.default": lambda x: op("max", x, 0.0),
    "aten.relu_.default": lambda x: op("max", x, 0.0),
    "aten.gelu.default": lambda x, approximate="none": gelu(x, approximate),
    "aten.hardtanh.default": lambda x, low=-1.0, high=1.0: _clamp(x, low, high),
    "aten.hardtanh_.default": lambda x, low=-1.0, high=1.0: _clamp(x, low, high),
    "aten.relu6.default": lambda x: _clamp(x, 0.0, 6.0),
    "aten.clamp.default": _clamp,
    "aten.clamp_min.default": _clamp,
    "aten.clamp_max.default": lambda x, high: _clamp(x, None, high),
    "aten.silu.default": lambda x: op("mul", x, sigmoid(x)),
    "aten.silu_.default": lambda x: op("mul", x, sigmoid(x)),
    "aten.sigmoid.default": sigmoid,
    "aten.hardsigmoid.default": _gate,
    "aten.hardswish.default": lambda x: op("mul", x, _gate(x)),
    "aten.hardswish_.default": lambda x: op("mul", x, _gate(x)),
    "aten.leaky_relu.default": _leaky,
    "aten.elu.default": _elu,
    "aten.celu.default": lambda x, alpha=1.0: _elu(x, alpha, 1.0, 1.0 / alpha),
    "aten.selu.default": lambda x: _elu(x, 1.6732632423543772, 1.0507009873554805),
    "aten.softplus.default": _softplus,
    "aten.mish.default": lambda x: op("mul", x, op("tanh", _softplus(x))),
    "aten.log_sigmoid.default": lambda x: _minus(_softplus(_minus(x))),
    "aten.softsign.default": lambda x: op("div", x, op("add", 1.0, op("abs", x))),
    "aten.tanh.default": lambda x: op("tanh", x),
    "aten.exp.default": lambda x: op("exp", x),
    "aten.exp2.default": lambda x: op("exp", op("mul", x, math.log(2.0))),
    "aten.expm1.default": lambda x: op("sub", op("exp", x), 1.0),
    "aten.log.default": lambda x: op("log", x),
    "aten.log1p.default": lambda x: op("log", op("add", 1.0, x)),
    "aten.log2.default": lambda x: op("mul", op("log", x), 1.0 / math.log(2.0)),
    "aten.log10.default": lambda x: op("mul", op("log", x), 1.0 / math.log(10.0)),
    "aten.sinh.default": lambda x: op("mul", op("sub", op("exp", x), op("exp", _minus(x))), 0.5),
    "aten.cosh.default": lambda x: op("mul", op("add", op("exp", x), op("exp", _minus(x))), 0.5),
    "aten.erf.default": lambda x: op("erf", x),
    "aten.sin.default": lambda x: op("sin", x),
    "aten.cos.default": lambda x: op("cos", x),
    "aten.sqrt.default": lambda x: op("sqrt", x),
    "aten.rsqrt.default": lambda x: op("div", 1.0, op("sqrt", x)),
    "aten.reciprocal.default": lambda x: op("div", 1.0, x),
    "aten.square.default": lambda x: op("mul", x, x),
    "aten.pow.Tensor_Scalar": power,
    "aten.neg.default": _minus,
    "aten.abs.default": lambda x: op("abs", x),
    "aten.floor.default": lambda x: op("floor", x),
    "aten.ceil.default": lambda x: _minus(op("floor", _minus(x))),
    "aten.round.default": lambda x: op("round", x),
    "aten.trunc.default": truncated,
    "aten.sign.default": lambda x: op("sub", _above(x, 0.0), _below(x, 0.0)),
    "aten.rsub.Scalar": lambda x, other, alpha=1: op("sub", float(other), op("mul", x, float(alpha))),
    "aten.remainder.Scalar": lambda x, n: op(
        "sub", x, op("mul", op("floor", op("div", x, float(n))), float(n))
    ),
    "aten.fmod.Scalar": lambda x, n: op("sub", x, op("mul", truncated(op("div", x, float(n))), float(n))),
    "aten.logical_not.default": _inverted,
    "aten.ge.Scalar": _at_least,
    "aten.lt.Scalar": _below,
    "aten.le.Scalar": _at_most,
    "aten.gt.Scalar": _above,
    "aten.eq.Scalar": _equal,
    "aten.ne.Scalar": _unequal,
}


BINARY: dict[str, Builder] = {
    name: lambda a, b, kind=kind: op(kind, a, b)
    for kind, names in {
        "add": "add.Tensor add.Scalar add_.Tensor",
        "mul": "mul.Tensor mul.Scalar mul_.Tensor __and__.Tensor bitwise_and.Tensor logical_and.default",
        "sub": "sub.Tensor sub.Scalar",
        "div": "div.Tensor div.Scalar",
        "max": "maximum.default max.other __or__.Tensor bitwise_or.Tensor logical_or.default",
        "min": "minimum.default min.other",
    }.items()
    for name in (f"aten.{each}" for each in names.split())
} | {
    "aten.clamp_min.Tensor": lambda a, b: op("max", a, b),
    "aten.clamp_max.Tensor": lambda a, b: op("min", a, b),
    "aten.rsub.Tensor": lambda a, b: op("sub", b, a),
    "aten.logical_xor.default": lambda a, b: op("abs", op("sub", a, b)),
    "aten.bitwise_xor.Tensor": lambda a, b: op("abs", op("sub", a, b)),
    "aten.ge.Tensor": _at_least,
    "aten.lt.Tensor": _below,
    "aten.le.Tensor": _at_most,
    "aten.gt.Tensor": _above,
    "aten.eq.Tensor": _equal,
    "aten.ne.Tensor": _unequal,
    "aten.pow.Tensor_Tensor": lambda x, y: op("exp", op("mul", op("log", x), y)),
    "aten.floor_divide.default": lambda a, b: op("floor", op("div", a, b)),
}

SELECTIONS = frozenset(
    {"aten.where.Scalar", "aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf"}
)
