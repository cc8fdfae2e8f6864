"""Activation codes in memory: the quantizer, and the layout its reader wants.

Codes live in memory as unsigned bytes (signed codes are shifted by 128, and so is their zero point, which
changes no product). Their layout follows the reader: rows with a pitch for a linear layer, channels-last with
a border for a convolution, columns or rows of whole vectors for the operands of a product of two activations.
"""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import fx

from hwsim.compile.expr import Node, leaf, quantize
from hwsim.compile.isa import Isa
from hwsim.compile.lower_part import LoweringPart
from hwsim.compile.program import constant
from hwsim.compile.values import Lazy, Pending, Value, View
from hwsim.errors import UserError
from quant.log_codes import thresholds


@dataclass
class Quantized:
    """A quantized activation: the float value it comes from and, by layout, its codes in memory."""

    source: fx.Node
    scale: float
    zero_point: int
    bits: int
    signed: bool
    shape: tuple[int, ...]
    codes: dict[str, View] = field(default_factory=dict)

    @property
    def wide(self) -> bool:
        """More than 8 bits: codes are kept as int32."""
        return self.bits > 8

    @property
    def shift(self) -> int:
        """What is added to signed codes to store them unsigned."""
        return 128 if self.signed and not self.wide else 0

    @property
    def stored_zero(self) -> int:
        """Zero point of the codes as they are stored."""
        return self.zero_point + self.shift

    def tree(self, x: Node, leaves: tuple[View, ...], name: str) -> tuple[Node, tuple[View, ...]]:
        """The quantizer over ``x``; its scale and zero point join the leaves."""
        low, high = 0, 2**self.bits - 1
        if self.signed:
            high = 2 ** (self.bits - 1) - 1
            low = -high
        settings = constant(name, np.array([self.scale, self.stored_zero], np.float32))
        still = (0,) * len(self.shape)
        added = tuple(View(settings, offset, self.shape, still) for offset in range(2))
        scale, zero = leaf(len(leaves) + 1), leaf(len(leaves) + 2)
        low, high = low + self.shift, high + self.shift
        tree = quantize(self._unlimited(x, low, high), scale, zero, low, high)
        return tree, (*leaves, *added)

    def _unlimited(self, x: Node, low: int, high: int) -> Node:
        """``x`` without limits (a ReLU, a clip) that the codes' own range implies: rounding is monotone."""
        while x.op in ("max", "min") and x.args[1].op == "const":
            level = np.rint(np.float32(x.args[1].value[0]) / np.float32(self.scale)) + self.stored_zero
            if not (level <= low if x.op == "max" else level >= high):
                break
            x = x.args[0]
        return x


@dataclass
class LogQuantized(Quantized):
    """Log codes of attention weights (quant/log_codes.py); ``levels`` is the code of zero."""

    levels: int = 0
    steps: int = 2

    def tree(self, x: Node, leaves: tuple[View, ...], name: str) -> tuple[Node, tuple[View, ...]]:
        """The quantizer over ``x``; its scale joins the leaves."""
        settings = constant(name, np.array([self.scale], np.float32))
        scale = View(settings, 0, self.shape, (0,) * len(self.shape))
        settled = (self.levels, self.steps, *thresholds(self.steps))
        return Node("log_code", (x, leaf(len(leaves) + 1)), settled), (*leaves, scale)


class CodesLowering(LoweringPart):
    """Mixin of `Lowering`."""

    _quantizers: int = 0

    @property
    def isa(self) -> Isa:
        """The machine."""
        return self.emitter.isa

    def _scalar(self, node: Any) -> float:
        tensor = getattr(self.values.get(node), "tensor", None)
        if tensor is None or tensor.numel() != 1:
            raise UserError(
                f"layer {self.emitter.layer}: activations quantized per token at run time have no kernel; "
                "use static activation quantizers (calibrated ranges)"
            )
        return tensor.item()

    def _hwsim_dynamic_range_default(self, node: Any) -> tuple[None, None]:
        return (None, None)

    def _hwsim_quantize_default(self, node: Any) -> Quantized:
        x, scale, zero_point, bits, signed = node.args
        shape = tuple(node.meta["val"].shape)
        return self._laid_out(
            node, Quantized(x, self._scalar(scale), int(self._scalar(zero_point)), bits, signed, shape)
        )

    def _hwsim_log_quantize_default(self, node: Any) -> Quantized:
        x, scale, levels, steps = node.args
        shape = tuple(node.meta["val"].shape)
        return self._laid_out(
            node, LogQuantized(x, self._scalar(scale), 0, 8, False, shape, levels=levels, steps=steps)
        )

    def _laid_out(self, node: Any, made: Quantized) -> Quantized:
        """The codes in every layout that a reader of ``node`` wants."""
        x = node.args[0]
        kinds = {(_layout(user, node)) for user in node.users}
        conv = [user for user in node.users if _layout(user, node) == "conv"]
        padding = tuple(max((user.args[5][i] for user in conv), default=0) for i in range(2))
        fused = len(kinds) == 1 and len(x.users) == 1
        if not fused:
            self.stored(x)
        for kind in sorted(kinds):
            made.codes[kind] = self._write_codes(made, kind, padding)
        return made

    def _write_codes(self, q: Quantized, kind: str, padding: tuple[int, ...]) -> View:
        """Codes in the layout that ``kind`` reads."""
        value, shape, dtype = self.values[q.source], q.shape, "int32" if q.wide else "uint8"
        if kind == "conv":
            images, channels, height, width = shape
            pitch = -(-channels // 4) * 4
            high, wide = height + 2 * padding[0], width + 2 * padding[1]
            strides = (high * wide * pitch, 1, wide * pitch, pitch)
            offset = padding[0] * strides[2] + padding[1] * strides[3]
            buffer = self.emitter.work(images * strides[0], dtype)
            if any(padding):
                self.emitter.fill(buffer, q.stored_zero)
        else:
            axes = list(range(len(shape)))
            if kind == "right" and not self._last_fast(value):
                axes[-1], axes[-2] = axes[-2], axes[-1]
            pitch = -(-shape[axes[-1]] // 4) * 4
            # The packing kernel reads whole vectors of columns: round the column axis up.
            rows = (
                shape[axes[-2]] if kind != "right" else -(-shape[axes[-2]] // self.isa.lanes) * self.isa.lanes
            )
            strides_list = [0] * len(shape)
            strides_list[axes[-1]] = 1
            strides_list[axes[-2]] = step = pitch
            step *= rows
            for axis in reversed(axes[:-2]):
                strides_list[axis] = step
                step *= shape[axis]
            strides, offset = tuple(strides_list), 0
            buffer = self.emitter.work(max(step, 1), dtype)
        destination = View(buffer, offset, shape, strides)
        self._into_codes(q, value, destination)
        return destination

    def _last_fast(self, value: Value) -> bool:
        """Whether the source of a right operand (..., K, N) has N contiguous."""
        if isinstance(value, Pending):
            return value.order[-1] == len(value.shape) - 1
        first = value.leaves[0] if isinstance(value, Lazy) else value
        return isinstance(first, View) and first.strides[-1] == 1

    def _into_codes(self, q: Quantized, value: Value, destination: View) -> None:
        if isinstance(value, Pending) and destination.strides[value.order[-1]] != 1:
            value = self.emitter.view(value)
        self._quantizers += 1
        name = f"quantizer{self._quantizers}.{self.emitter.layer}"
        if isinstance(value, Pending):
            value.emit(*q.tree(value.node, value.leaves, name), destination)
            return
        lazy = self.emitter.lazy(value)
        leaves = tuple(view.broadcast(q.shape) for view in lazy.leaves)
        self.emitter.elementwise(*q.tree(lazy.node, leaves, name), destination)


def _layout(user: fx.Node, q: fx.Node) -> Literal["rows", "conv", "left", "right"]:
    name = str(user.target)
    if name == "hwsim.int_linear.default":
        return "rows"
    if name == "hwsim.int_conv2d.default":
        return "conv"
    return "left" if user.args[0] is q else "right"
