"""Handlers of pooling: maxima and means over windows of rows and pictures."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hwsim.compile.emit import sink_of, source_of
from hwsim.compile.expr import op
from hwsim.compile.lower_part import LoweringPart
from hwsim.compile.values import Value, View, ordered_strides
from hwsim.compile.vector import Pool
from hwsim.errors import UserError

Pair = tuple[int, int]


class PoolLowering(LoweringPart):
    """Mixin of `Lowering`."""

    adaptive_means: Callable[..., View]
    _spread: Callable[..., View]

    def _aten_max_pool2d_default(self, node: Any) -> Value:
        arguments = list(node.args) + [None] * 5
        kernel, stride = _pair(arguments[1]), _pair(arguments[2] or arguments[1])
        return self._pool(node, (kernel, stride, _pair(arguments[3] or 0), _pair(arguments[4] or 1)), False)

    def _aten_max_pool2d_with_indices_default(self, node: Any) -> list[Value]:
        shape = node.meta["val"]
        node.meta["val"] = shape[0]
        return [self._aten_max_pool2d_default(node)]

    def _aten_avg_pool2d_default(self, node: Any) -> Value:
        arguments = list(node.args) + [None] * 6
        kernel, stride, padding = (
            _pair(arguments[1]),
            _pair(arguments[2] or arguments[1]),
            _pair(arguments[3] or 0),
        )
        mean = self._pool(node, (kernel, stride, padding, (1, 1)), True)
        size = tuple(self.values[node.args[0]].shape[2:])
        if arguments[6] is not None:
            return self.compose(node, lambda x: op("mul", x, math.prod(kernel) / float(arguments[6])), [mean])
        counts = [
            _counts(places, *of_axis, include=arguments[5] is not False)
            for places, *of_axis in zip(mean.shape[2:], kernel, stride, padding, size, strict=True)
        ]
        factor = math.prod(kernel) / np.outer(*counts)
        if (factor == 1).all():
            return mean
        return self.compose(
            node, lambda x, f: op("mul", x, f), [mean, self._spread(factor, mean.shape, [2, 3])]
        )

    def _aten_adaptive_avg_pool2d_default(self, node: Any) -> Value:
        source = self.values[node.args[0]]
        out = _pair(node.meta["val"].shape[-2:])
        size = source.shape[-2:]
        if size[0] % out[0] or size[1] % out[1]:
            return self.adaptive_means(self.stored(node.args[0]), out)
        window = (size[0] // out[0], size[1] // out[1])
        return self._pool(node, (window, window, (0, 0), (1, 1)), True)

    def _aten__adaptive_avg_pool2d_default(self, node: Any) -> Value:
        return self._aten_adaptive_avg_pool2d_default(node)

    def _aten_adaptive_max_pool2d_default(self, node: Any) -> list[Value]:
        size, out = self.values[node.args[0]].shape[-2:], _pair(node.meta["val"][0].shape[-2:])
        if size[0] % out[0] or size[1] % out[1]:
            raise UserError(
                f"layer {self.emitter.layer}: adaptive maximum from {tuple(size)} to {out} has no kernel; "
                "take sizes that divide"
            )
        window = (size[0] // out[0], size[1] // out[1])
        node.meta["val"] = node.meta["val"][0]
        return [self._pool(node, (window, window, (0, 0), (1, 1)), False)]

    def _pool(self, node: Any, geometry: tuple[Pair, ...], mean: bool) -> View:
        kernel, stride, padding, dilation = geometry
        view = self.stored(node.args[0])
        shape = tuple(node.meta["val"].shape)
        order = (0, 2, 3, 1)
        result = View(self.emitter.work(math.prod(shape)), 0, shape, ordered_strides(shape, order))
        high, wide = view.strides[2], view.strides[3]
        offset = -padding[0] * high - padding[1] * wide
        moved = View(view.buffer, view.offset + offset, view.shape, view.strides)
        limits: list[tuple[int, int, int, int] | None] = [None, None]
        beyond = any(
            (shape[2 + i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) >= view.shape[2 + i] + padding[i]
            for i in range(2)
        )
        if any(padding) or beyond:
            if any(d != 1 for d in dilation):
                raise UserError(f"layer {self.emitter.layer}: dilated pooling with padding has no kernel")
            limits = [(1 + i, stride[i], padding[i], view.shape[2 + i]) for i in range(2)]
        pool = Pool(
            (shape[0], shape[2], shape[3]), shape[1],
            ((kernel[0], high * dilation[0]), (kernel[1], wide * dilation[1])), tuple(limits),
            mean, float(kernel[0] * kernel[1]),
            (source_of(moved, (view.strides[0], high * stride[0], wide * stride[1]), view.strides[1]),),
            sink_of(result, (result.strides[0], result.strides[2], result.strides[3]), 1),
        )  # fmt: skip
        self.emitter.step(pool, [view.buffer, result.buffer])
        return result


def _counts(places: int, kernel: int, stride: int, padding: int, size: int, *, include: bool) -> np.ndarray:
    """What torch divides the sum of each window by: its places, with or without those of the padding."""
    starts = np.arange(places) * stride - padding
    ends = np.minimum(starts + kernel, size + padding)
    return ends - starts if include else np.minimum(ends, size) - np.maximum(starts, 0)


def _pair(value: Any) -> Pair:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return (int(values[0]), int(values[-1]))
