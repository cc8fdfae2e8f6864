"""Handlers of operators that are written from simpler kernels: norms over channels, reductions, joins, resizing."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import fx

from hwsim.compile.emit import Emitter, sink_of, source_of
from hwsim.compile.expr import Node, leaf, op
from hwsim.compile.program import constant
from hwsim.compile.rowwise import LayerNorm
from hwsim.compile.values import Const, Lazy, Pending, Value, View, ordered_strides, row_major
from hwsim.compile.vector import Pool
from hwsim.errors import UserError

Shape = tuple[int, ...]


class ComposedLowering:
    """Mixin of `Lowering`."""

    emitter: Emitter
    values: dict[fx.Node, Any]
    stored: Callable[[fx.Node], View]
    compose: Callable[..., Value]
    rowwise: Callable[..., Pending]
    _spreads = 0

    def _spread(self, numbers: np.ndarray, shape: Shape, axes: Sequence[int]) -> View:
        """Constants along some axes of ``shape``, the same for all others."""
        self._spreads += 1
        buffer = constant(f"{self.emitter.layer}.spread{self._spreads}", numbers.astype(np.float32))
        own = dict(zip(axes, row_major(numbers.shape), strict=True))
        return View(buffer, 0, shape, tuple(own.get(axis, 0) for axis in range(len(shape))))

    def _numbers(self, node: Any) -> np.ndarray | None:
        """A stored parameter."""
        if node is None:
            return None
        value = self.values[node]
        if not isinstance(value, Const):
            raise UserError(f"layer {self.emitter.layer}: computed parameters have no kernel")
        return value.tensor.detach().numpy()

    def _affine(self, node: Any, x: Any, factor: np.ndarray | None, shift: np.ndarray | None) -> Value:
        """``x * factor + shift`` with one number a channel."""
        shape = tuple(node.meta["val"].shape)
        steps = [
            (name, numbers) for name, numbers in (("mul", factor), ("add", shift)) if numbers is not None
        ]

        def build(tree: Node, *numbers: Node) -> Node:
            for (name, _), each in zip(steps, numbers, strict=True):
                tree = op(name, tree, each)
            return tree

        return self.compose(node, build, [x, *(self._spread(numbers, shape, [1]) for _, numbers in steps)])

    def _aten_batch_norm_default(self, node: Any) -> Value:
        """With stored moments, what a preceding layer could not take in: one factor and one shift a channel."""
        if node.args[5]:
            raise UserError(
                f"layer {self.emitter.layer}: batch norm over the batch itself; call model.eval()"
            )
        weight, bias, mean, variance = (self._numbers(argument) for argument in node.args[1:5])
        assert mean is not None and variance is not None
        factor = (1.0 if weight is None else weight) / np.sqrt(variance + float(node.args[7]))
        return self._affine(node, node.args[0], factor, (0.0 if bias is None else bias) - mean * factor)

    def _aten_group_norm_default(self, node: Any) -> Value:
        """Layer norm over the channels of a group and all places, then one factor and one shift a channel."""
        arguments: list[Any] = [*node.args, None, None, None]
        x, groups, weight, bias, epsilon = arguments[:5]
        epsilon = 1e-5 if epsilon is None else float(epsilon)
        shape = tuple(node.meta["val"].shape)
        view = self.emitter.dense(self.values[x])
        rows = (shape[0], int(groups), math.prod(shape[1:]) // int(groups))
        parallel = self.emitter.parallel

        def make(dims: Any, columns: int, epilogue: Node, sources: Any, sink: Any) -> LayerNorm:
            return LayerNorm(dims, columns, epilogue, sources, sink, parallel, epsilon)

        normed = self.emitter.view(
            self.rowwise(rows, [View(view.buffer, view.offset, rows, row_major(rows))], make)
        )
        result = View(normed.buffer, 0, shape, row_major(shape))
        return self._affine(node, result, self._numbers(weight), self._numbers(bias))

    def _softmax_along(self, node: Any, axis: int, softmax: Callable[[View], Pending]) -> View:
        """Softmax over an axis that is not the last: with that axis moved there and back."""
        view = self.stored(node.args[0])
        axes = [a for a in range(len(view.shape)) if a != axis] + [axis]
        moved = View(
            view.buffer, view.offset, *(tuple(old[a] for a in axes) for old in (view.shape, view.strides))
        )
        made = self.emitter.view(softmax(moved))
        back = [axes.index(a) for a in range(len(axes))]
        return View(made.buffer, made.offset, view.shape, tuple(made.strides[a] for a in back))

    def _reduced(self, view: View, axes: Sequence[int], divisor: float, shape: Shape) -> View:
        """The sum over some axes, divided by a number."""
        kept = [a for a in range(len(view.shape)) if a not in axes]
        small = tuple(view.shape[a] for a in kept)
        strides = row_major(small)
        pool = Pool(
            small[:-1], small[-1] if small else 1,
            tuple((view.shape[a], view.strides[a]) for a in axes), (None,) * len(axes), True, divisor,
            (source_of(view, [view.strides[a] for a in kept[:-1]], view.strides[kept[-1]] if kept else 0),),
            sink_of(View(self.emitter.work(math.prod(small)), 0, small, strides), strides[:-1], 1),
        )  # fmt: skip
        result = View(self.emitter.work(math.prod(small)), 0, shape, row_major(shape))
        self.emitter.step(pool, [view.buffer, result.buffer])
        return result

    def _aten_mean_dim(self, node: Any) -> Value:
        view = self.stored(node.args[0])
        axes = _axes(node.args[1], view.shape)
        divisor = float(math.prod(view.shape[a] for a in axes))
        return self._reduced(view, axes, divisor, tuple(node.meta["val"].shape))

    def _aten_sum_dim_IntList(self, node: Any) -> Value:
        view = self.stored(node.args[0])
        return self._reduced(view, _axes(node.args[1], view.shape), 1.0, tuple(node.meta["val"].shape))

    def _aten_linalg_vector_norm_default(self, node: Any) -> Value:
        """The root of the sum of squares; other norms have no kernel."""
        arguments: list[Any] = [*node.args, None, None]
        if arguments[1] not in (None, 2, 2.0):
            raise UserError(f"layer {self.emitter.layer}: a norm of order {arguments[1]} has no kernel")
        view, shape = self.stored(node.args[0]), tuple(node.meta["val"].shape)
        squares = self.emitter.view(Lazy(view.shape, op("mul", leaf(1), leaf(1)), (view,)))
        total = self._reduced(squares, _axes(arguments[2], view.shape), 1.0, shape)
        return self.compose(node, lambda x: op("sqrt", x), [total])

    def _aten_stack_default(self, node: Any) -> Value:
        shape = tuple(node.meta["val"].shape)
        axis = (int(node.args[1]) if len(node.args) > 1 else 0) % len(shape)
        result = View(self.emitter.work(math.prod(shape)), 0, shape, row_major(shape))
        shape, strides = (tuple(x for a, x in enumerate(old) if a != axis) for old in (shape, result.strides))
        for place, part in enumerate(node.args[0]):
            value = self.stored(part) if len(part.users) > 1 else self.values[part]
            self.emitter.into(value, View(result.buffer, place * result.strides[axis], shape, strides))
        return result

    def _aten_upsample_nearest2d_vec(self, node: Any) -> Value:
        """Whole factors only: every place is written as often as it is repeated."""
        view, shape = self.stored(node.args[0]), tuple(node.meta["val"].shape)
        (images, channels, high, wide), out = view.shape, shape[2:]
        if out[0] % high or out[1] % wide:
            raise UserError(
                f"layer {self.emitter.layer}: resizing {high}x{wide} to {out[0]}x{out[1]} has no kernel"
            )
        factors = (out[0] // high, out[1] // wide)
        result = View(self.emitter.work(math.prod(shape)), 0, shape, ordered_strides(shape, (0, 2, 3, 1)))
        one, two, three, four = result.strides
        each = (images, channels, high, factors[0], wide, factors[1])
        target = View(result.buffer, 0, each, (one, two, three * factors[0], three, four * factors[1], four))
        a, b, c, d = view.strides
        self.emitter.elementwise(leaf(1), (View(view.buffer, view.offset, each, (a, b, c, 0, d, 0)),), target)
        return result

    def _without_padding(
        self, node: Any, mean: View, geometry: Sequence[tuple[int, int]], size: Shape
    ) -> Value:
        """Means over windows that counted their padding, as means over the places inside."""
        counts = []
        for (kernel, stride, padding), extent, places in zip(
            zip(*geometry, strict=True), size, mean.shape[2:], strict=True
        ):
            starts = np.arange(places) * stride - padding
            counts.append(np.minimum(starts + kernel, extent) - np.maximum(starts, 0))
        factor = math.prod(geometry[0]) / np.outer(*counts)
        spread = self._spread(factor, mean.shape, [2, 3])
        return self.compose(node, lambda x, f: op("mul", x, f), [mean, spread])


def _axes(given: Any, shape: Shape) -> list[int]:
    """Axes counted from the front; all where none are named."""
    if given is None or given == []:
        return list(range(len(shape)))
    return sorted(int(a) % len(shape) for a in (given if isinstance(given, list | tuple) else [given]))
