"""Elementwise arithmetic as a tree, evaluated in vectors inside whatever kernel it is fused into.

A chain of elementwise operators of the model becomes one `Node`; the product kernel evaluates it on its
accumulators before it stores them, the elementwise kernel on loaded operands. The transcendental functions
are the usual minimax forms (Cephes exp, log, sin; Eigen's rational erf and tanh), a few ulp from the exact value.
"""
# pyright: basic
# TVM ships no type stubs for its expression classes.

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from hwsim.compile.builder import Code, constant, tirx, vector
from hwsim.compile.isa import Isa, nearest


@dataclass(frozen=True)
class Node:
    """One operator; ``value`` is the constant of "const", the operand index of "leaf", limits of "quantize".

    Operators: leaf, const, add, sub, mul, div, max, min, exp, erf, tanh, log, sin, cos, sqrt, abs, floor, round,
    where_ge0 (condition, then, else), quantize (x, scale, zero point; value = low, high; result is int32 codes),
    log_code (x, scale; value = levels, steps per octave, thresholds of the mantissa; result is int32 codes).
    """

    op: str
    args: tuple["Node", ...] = ()
    value: tuple[float, ...] = ()


def leaf(index: int) -> Node:
    """The operand with this index."""
    return Node("leaf", value=(index,))


def const(value: float) -> Node:
    """A float32 constant."""
    return Node("const", value=(float(value),))


def op(name: str, *args: Node | float) -> Node:
    """An operator; plain numbers become constants."""
    return Node(name, tuple(const(a) if isinstance(a, int | float) else a for a in args))


def quantize(x: Node, scale: Node, zero_point: Node, low: int, high: int) -> Node:
    """``clamp(round_half_even(x / scale) + zero_point, low, high)`` as int32.

    Scale and zero point are operands, not constants: layers that differ only in them share one kernel.
    """
    return Node("quantize", (x, scale, zero_point), (low, high))


def sigmoid(x: Node) -> Node:
    """1 / (1 + exp(-x))."""
    return op("div", 1.0, op("add", 1.0, op("exp", op("mul", x, -1.0))))


def gelu(x: Node, approximate: str = "none") -> Node:
    """GELU, exact (erf) or by tanh."""
    if approximate == "tanh":
        inner = op(
            "mul", 0.7978845608028654, op("add", x, op("mul", 0.044715, op("mul", x, op("mul", x, x))))
        )
        return op("mul", op("mul", 0.5, x), op("add", 1.0, op("tanh", inner)))
    return op("mul", op("mul", 0.5, x), op("add", 1.0, op("erf", op("mul", x, 0.7071067811865476))))


def remap(node: Node, mapping: Callable[[int], Node]) -> Node:
    """Replace every leaf by what ``mapping`` says."""
    if node.op == "leaf":
        return mapping(int(node.value[0]))
    return Node(node.op, tuple(remap(a, mapping) for a in node.args), node.value)


_SERIES = frozenset({"exp", "erf", "tanh", "log", "sin", "cos"})


@cache
def _holds_series(node: Node) -> bool:
    return node.op in _SERIES or any(_holds_series(a) for a in node.args)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: tirx.div(a, b),
    "max": tirx.max,
    "min": tirx.min,
}
_ERF_ODD = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
            -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)  # fmt: skip
_ERF_EVEN = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
             -1.42647390514189e-02)  # fmt: skip
_TANH_ODD = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
             1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03)  # fmt: skip
_TANH_EVEN = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)  # fmt: skip
_SIN = (2.6083159809786593e-06, -1.9810690719168633e-04, 8.3330785855650902e-03, -1.6666659712791443e-01)
_PI = (3.140625, 9.67502593994140625e-4, 1.509957990978376e-7)
"""In three parts: a small multiple of each of the first two is exact."""


class Evaluator:
    """Evaluates nodes in ``lanes``-wide float32 vectors; equal subtrees are computed once."""

    def __init__(self, code: Code, isa: Isa, leaves: Callable[[int], Any]) -> None:
        self.code, self.isa, self.lanes, self._leaves = code, isa, isa.lanes, leaves
        self._done: dict[Node, Any] = {}

    def number(self, value: float, dtype: str = "float32") -> Any:
        """A constant in every lane."""
        return constant(value, dtype, self.lanes)

    def __call__(self, node: Node) -> Any:
        """The value of ``node``, bound to a name."""
        if node not in self._done:
            self._done[node] = self.code.bind("t", self._compute(node))
        return self._done[node]

    def _compute(self, node: Node) -> Any:
        if node.op == "leaf":
            return self._leaves(int(node.value[0]))
        if node.op == "const":
            return self.number(node.value[0])
        args = [self(a) for a in node.args]
        if node.op in _SERIES and any(_holds_series(a) for a in node.args):
            args = [self._kept(a) for a in args]
        if node.op in _BINARY:
            return _BINARY[node.op](*args)
        if node.op == "where_ge0":
            return tirx.Select(args[0] >= self.number(0.0), args[1], args[2])
        return getattr(self, f"_{node.op}")(*args, *node.value)

    def _kept(self, x: Any) -> Any:
        """``x`` out of the compiler's sight: it would write one series into every term of the next."""
        place = self.code.scratch("kept", 1, vector("float32", self.lanes))
        self.code.store(place, 0, x)
        return self.code.bind("k", place.vload([0]))

    def _quantize(self, x: Any, scale: Any, zero_point: Any, low: float, high: float) -> Any:
        """The zero point is added after rounding, in whichever type: exact, both are small integers there."""
        if self.isa.rounds:  # far beyond all codes a level fits no int32: below it becomes the least one
            ratio = self.code.bind("q", tirx.min(tirx.div(x, scale), self.number(2.0**30)))
            whole = nearest(self.isa, ratio) + zero_point.astype(vector("int32", self.lanes))
            return tirx.min(tirx.max(whole, self.number(low, "int32")), self.number(high, "int32"))
        level = self._round(tirx.div(x, scale)) + zero_point
        limited = tirx.min(tirx.max(level, self.number(low)), self.number(high))
        return limited.astype(vector("int32", self.lanes))

    def _log_code(self, x: Any, scale: Any, levels: int, steps: int, *limits: int) -> Any:
        """Read off the bits of x / scale (quant/log_codes.py): no logarithm is computed; 0 is beyond all levels."""
        kind = vector("int32", self.lanes)
        ratio = self.code.bind("x", tirx.max(tirx.div(x, scale), self.number(1e-37)))
        bits = self.code.bind("b", tirx.reinterpret(kind, ratio))
        octaves = self.number(127, "int32") - (bits >> self.number(23, "int32"))
        level = octaves * self.number(steps, "int32")
        mantissa = self.code.bind("m", bits & self.number(0x7FFFFF, "int32"))
        for limit in limits:
            below = self.number(limit - 1, "int32") - mantissa  # negative from the threshold on
            level = level + (below >> self.number(31, "int32"))
        return tirx.min(tirx.max(level, self.number(0, "int32")), self.number(levels, "int32"))

    def _round(self, x: Any) -> Any:
        return tirx.nearbyint(x)

    def _floor(self, x: Any) -> Any:
        return tirx.floor(x)

    def _sqrt(self, x: Any) -> Any:
        return tirx.sqrt(x)

    def _abs(self, x: Any) -> Any:
        return tirx.max(x, self.number(0.0) - x)

    def _horner(self, x: Any, coefficients: tuple[float, ...]) -> Any:
        total = self.number(coefficients[0])
        for coefficient in coefficients[1:]:
            total = total * x + self.number(coefficient)
        return self.code.bind("p", total)

    def _rational(self, x: Any, limit: float, odd: tuple[float, ...], even: tuple[float, ...]) -> Any:
        inside = self.code.bind("x", tirx.min(tirx.max(x, self.number(-limit)), self.number(limit)))
        square = self.code.bind("s", inside * inside)
        return tirx.div(inside * self._horner(square, odd), self._horner(square, even))

    def _erf(self, x: Any) -> Any:
        return self._rational(x, 4.0, _ERF_ODD, _ERF_EVEN)

    def _tanh(self, x: Any) -> Any:
        return self._rational(x, 7.90531110763549805, _TANH_ODD, _TANH_EVEN)

    def _exp(self, x: Any) -> Any:
        """Cephes expf: x = n ln2 + r, polynomial in r, scaled by the exponent bits."""
        # Below -87 the result would be denormal; -inf (a mask) must give exactly 0.
        inside = self.code.bind("x", tirx.min(tirx.max(x, self.number(-87.3)), self.number(88.37)))
        n = self.code.bind("n", tirx.floor(inside * self.number(1.44269504088896341) + self.number(0.5)))
        high = inside - n * self.number(0.693359375)
        r = self.code.bind("r", high - n * self.number(-2.12194440e-4))
        y = self._horner(r, _EXP) * r * r + r + self.number(1.0)
        exponent = n.astype(vector("int32", self.lanes)) + self.number(127, "int32")
        power = exponent << self.number(23, "int32")
        value = y * tirx.reinterpret(vector("float32", self.lanes), power)
        return tirx.Select(x < self.number(-87.3), self.number(0.0), value)

    def _log(self, x: Any) -> Any:
        """Cephes logf: x = m 2**e with m in [sqrt(1/2), sqrt(2)); 0 gives the lowest number instead of -inf."""
        tiny, half = self.number(1.1754944e-38), self.number(0x3F3504F3, "int32")  # the bits of sqrt(1/2)
        bits = tirx.reinterpret(vector("int32", self.lanes), self.code.bind("x", tirx.max(x, tiny)))
        bits = self.code.bind("b", bits + self.number(0x3F800000 - 0x3F3504F3, "int32"))
        exponent = (bits >> self.number(23, "int32")) - self.number(127, "int32")
        e = self.code.bind("e", exponent.astype(vector("float32", self.lanes)))
        mantissa = self.code.bind("m", (bits & self.number(0x7FFFFF, "int32")) + half)
        m = tirx.reinterpret(vector("float32", self.lanes), mantissa) - self.number(1.0)
        m = self.code.bind("m", m)
        square = self.code.bind("s", m * m)
        cubic = self.code.bind("c", self._horner(m, _LOG) * m * square)
        tail = self.code.bind("c", cubic - e * self.number(2.12194440e-4) - square * self.number(0.5))
        value = self.code.bind("v", m + tail + e * self.number(0.693359375))
        return tirx.Select(x < tiny, self.number(-3.4e38), value)

    def _sin(self, x: Any) -> Any:
        n = self.code.bind("n", self._round(x * self.number(0.31830988618379067)))
        return self._half_turns(x, n, n)

    def _cos(self, x: Any) -> Any:
        """sin(x + pi/2), with the quarter turn taken in whole numbers."""
        n = self._round(x * self.number(0.31830988618379067) + self.number(0.5))
        n = self.code.bind("n", n)
        return self._half_turns(x, n, n - self.number(0.5))

    def _half_turns(self, x: Any, n: Any, turns: Any) -> Any:
        """(-1)**n sin(x - turns pi), the difference within a quarter turn."""
        for part in _PI:
            x = self.code.bind("r", x - turns * self.number(part))
        square = self.code.bind("s", x * x)
        value = self.code.bind("v", x + self._horner(square, _SIN) * square * x)
        odd = n - self.number(2.0) * tirx.floor(n * self.number(0.5))
        return tirx.Select(odd > self.number(0.5), self.number(0.0) - value, value)
