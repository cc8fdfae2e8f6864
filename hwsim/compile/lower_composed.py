"""Handlers of operators that are written from simpler kernels: norms over channels, a moved softmax, joins."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hwsim.compile.expr import Node, op
from hwsim.compile.lower_part import LoweringPart
from hwsim.compile.program import constant
from hwsim.compile.rowwise import LayerNorm
from hwsim.compile.values import Const, Pending, Value, View, row_major
from hwsim.errors import UserError

Shape = tuple[int, ...]


class ComposedLowering(LoweringPart):
    """Mixin of `Lowering`."""

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

    def _aten_instance_norm_default(self, node: Any) -> Value:
        """Group norm with a group for each channel."""
        x, weight, bias, mean, variance, of_input, _, epsilon, _ = node.args
        if not of_input:
            node.args = (x, weight, bias, mean, variance, False, 0.0, epsilon, False)
            return self._aten_batch_norm_default(node)
        node.args = (x, node.meta["val"].shape[1], weight, bias, epsilon)
        return self._aten_group_norm_default(node)

    def _aten_prelu_default(self, node: Any) -> Value:
        """One slope for all, or one a channel."""
        slope, shape = self._numbers(node.args[1]), tuple(node.meta["val"].shape)
        assert slope is not None
        axes = [1] if slope.size > 1 else []
        spread = self._spread(slope if axes else slope.reshape(()), shape, axes)
        return self.compose(
            node, lambda x, f: Node("where_ge0", (x, x, op("mul", x, f))), [node.args[0], spread]
        )

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

    def _aten_stack_default(self, node: Any) -> Value:
        shape = tuple(node.meta["val"].shape)
        axis = (int(node.args[1]) if len(node.args) > 1 else 0) % len(shape)
        result = View(self.emitter.work(math.prod(shape)), 0, shape, row_major(shape))
        shape, strides = (tuple(x for a, x in enumerate(old) if a != axis) for old in (shape, result.strides))
        for place, part in enumerate(node.args[0]):
            value = self.stored(part) if len(part.users) > 1 else self.values[part]
            self.emitter.into(value, View(result.buffer, place * result.strides[axis], shape, strides))
        return result
