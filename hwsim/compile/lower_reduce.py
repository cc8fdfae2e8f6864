"""Handlers of reductions: sums, means, extremes and their places, moments, running sums."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hwsim.compile.emit import sink_of, source_of
from hwsim.compile.expr import Node, const, leaf, op
from hwsim.compile.lower_part import LoweringPart
from hwsim.compile.values import Lazy, Value, View, row_major
from hwsim.compile.vector import Pool
from hwsim.errors import UserError

Shape = tuple[int, ...]
FEW = 16


class ReduceLowering(LoweringPart):
    """Mixin of `Lowering`."""

    _spread: Callable[..., View]

    def _reduced(
        self, view: View, axes: Sequence[int], divisor: float, shape: Shape, *, mean: bool = True
    ) -> View:
        """The sum over some axes, divided by a number; without ``mean`` the maximum."""
        kept = [a for a in range(len(view.shape)) if a not in axes]
        small = tuple(view.shape[a] for a in kept)
        strides = row_major(small)
        pool = Pool(
            small[:-1], small[-1] if small else 1,
            tuple((view.shape[a], view.strides[a]) for a in axes), (None,) * len(axes), mean, divisor,
            (source_of(view, [view.strides[a] for a in kept[:-1]], view.strides[kept[-1]] if kept else 0),),
            sink_of(View(self.emitter.work(math.prod(small)), 0, small, strides), strides[:-1], 1),
        )  # fmt: skip
        result = View(self.emitter.work(math.prod(small)), 0, shape, row_major(shape))
        self.emitter.step(pool, [view.buffer, result.buffer])
        return result

    def _lazily(self, view: View, build: Callable[[Node], Node]) -> View:
        """An elementwise operator on something in memory, in memory."""
        return self.emitter.view(Lazy(view.shape, build(leaf(1)), (view,)))

    def _total(self, node: Any, *, mean: bool) -> Value:
        view = self.stored(node.args[0])
        axes = _axes(node.args[1] if len(node.args) > 1 else None, view.shape)
        divisor = float(math.prod(view.shape[a] for a in axes)) if mean else 1.0
        return self._reduced(view, axes, divisor, tuple(node.meta["val"].shape))

    def _aten_mean_dim(self, node: Any) -> Value:
        return self._total(node, mean=True)

    def _aten_mean_default(self, node: Any) -> Value:
        return self._total(node, mean=True)

    def _aten_sum_dim_IntList(self, node: Any) -> Value:
        return self._total(node, mean=False)

    def _aten_sum_default(self, node: Any) -> Value:
        return self._total(node, mean=False)

    def _aten_linalg_vector_norm_default(self, node: Any) -> Value:
        """Sums of magnitudes, roots of sums of squares, largest magnitudes; other norms have no kernel."""
        arguments: list[Any] = [*node.args, None, None]
        order = 2.0 if arguments[1] is None else float(arguments[1])
        view, shape = self.stored(node.args[0]), tuple(node.meta["val"].shape)
        axes = _axes(arguments[2], view.shape)
        if order == 2:
            squares = self._lazily(view, lambda x: op("mul", x, x))
            return self.compose(node, lambda x: op("sqrt", x), [self._reduced(squares, axes, 1.0, shape)])
        if order not in (1, math.inf):
            raise UserError(f"layer {self.emitter.layer}: a norm of order {arguments[1]} has no kernel")
        return self._reduced(self._lazily(view, lambda x: op("abs", x)), axes, 1.0, shape, mean=order == 1)

    def _aten_topk_default(self, node: Any) -> list[Value]:
        """One maximum after another: meant for few."""
        if node.args[1] > FEW or (len(node.args) > 3 and not node.args[3]):
            raise UserError(
                f"layer {self.emitter.layer}: the {node.args[1]} highest have no kernel; {FEW} at most, not the lowest"
            )
        view = self.stored(node.args[0])
        axis = int(node.args[2] if len(node.args) > 2 else -1) % len(view.shape)
        small = tuple(1 if a == axis else n for a, n in enumerate(view.shape))
        shape = tuple(node.meta["val"][0].shape)
        results = [View(self.emitter.work(math.prod(shape)), 0, shape, row_major(shape)) for _ in range(2)]
        numbers = self._spread(np.arange(view.shape[axis], dtype=np.float32), view.shape, [axis])
        for turn in range(node.args[1]):
            found = (
                self._reduced(view, [axis], 1.0, small, mean=False),
                self._place_of_highest(view, [axis], small),
            )
            for result, one in zip(results, found, strict=True):
                offset = turn * result.strides[axis]
                self.emitter.into(one, View(result.buffer, offset, small, result.strides))
            there = op("abs", op("sub", leaf(2), leaf(3)))
            tree = Node("where_ge0", (op("sub", there, 0.5), leaf(1), const(-3.4e38)))
            taken = found[1].broadcast(view.shape)
            view = self.emitter.view(Lazy(view.shape, tree, (view, numbers, taken)))
        return list(results)

    def _highest(self, node: Any, shape: Shape) -> View:
        view = self.stored(node.args[0])
        axes = _axes(node.args[1] if len(node.args) > 1 else None, view.shape)
        return self._reduced(view, axes, 1.0, shape, mean=False)

    def _lowest(self, node: Any, shape: Shape) -> View:
        view = self._lazily(self.stored(node.args[0]), _negated)
        axes = _axes(node.args[1] if len(node.args) > 1 else None, view.shape)
        return self._lazily(self._reduced(view, axes, 1.0, shape, mean=False), _negated)

    def _aten_amax_default(self, node: Any) -> Value:
        return self._highest(node, tuple(node.meta["val"].shape))

    def _aten_amin_default(self, node: Any) -> Value:
        return self._lowest(node, tuple(node.meta["val"].shape))

    # Of truth values: whether any is set, whether all are.
    _aten_max_default = _aten_any_default = _aten_any_dim = _aten_any_dims = _aten_amax_default
    _aten_min_default = _aten_all_default = _aten_all_dim = _aten_all_dims = _aten_amin_default

    def _aten_max_dim(self, node: Any) -> list[Value]:
        shape = tuple(node.meta["val"][0].shape)
        view, axes = self.stored(node.args[0]), _axes(node.args[1], self.values[node.args[0]].shape)
        return [self._highest(node, shape), self._place_of_highest(view, axes, shape)]

    def _aten_min_dim(self, node: Any) -> list[Value]:
        shape = tuple(node.meta["val"][0].shape)
        view = self._lazily(self.stored(node.args[0]), _negated)
        return [
            self._lowest(node, shape),
            self._place_of_highest(view, _axes(node.args[1], view.shape), shape),
        ]

    def _aten_argmax_default(self, node: Any) -> Value:
        view = self.emitter.dense(self.values[node.args[0]])
        return self._argmax(node, view)

    def _aten_argmin_default(self, node: Any) -> Value:
        view = self._lazily(self.stored(node.args[0]), _negated)
        return self._argmax(node, self.emitter.dense(view))

    def _argmax(self, node: Any, view: View) -> Value:
        axis = node.args[1] if len(node.args) > 1 else None
        if axis is None:
            flat = (math.prod(view.shape),)
            view, axis = View(view.buffer, view.offset, flat, (1,)), 0
        return self._place_of_highest(view, _axes(axis, view.shape), tuple(node.meta["val"].shape))

    def _place_of_highest(self, view: View, axes: Sequence[int], shape: Shape) -> View:
        """The first place of the maximum: where x is highest, the highest of (size - place)."""
        axis, size = axes[0], view.shape[axes[0]]
        small = tuple(1 if a in axes else n for a, n in enumerate(view.shape))
        highest = self._reduced(view, axes, 1.0, small, mean=False).broadcast(view.shape)
        left = self._spread(size - np.arange(size, dtype=np.float32), view.shape, [axis])
        tree = Node("where_ge0", (op("sub", leaf(1), leaf(2)), leaf(3), const(0.0)))
        marked = self.emitter.view(Lazy(view.shape, tree, (view, highest, left)))
        found = self._reduced(marked, axes, 1.0, shape, mean=False)
        return self._lazily(found, lambda x: op("sub", float(size), x))

    def _moments(self, node: Any, shape: Shape) -> tuple[View, View]:
        """Variance and mean over the axes; the mean is taken off first, so nothing cancels."""
        view = self.stored(node.args[0])
        axes = _axes(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim"), view.shape)
        count = float(math.prod(view.shape[a] for a in axes))
        off = node.kwargs.get("correction", 1)
        if str(node.target).endswith((".dim", ".default")) and len(node.args) > 2:
            off = int(bool(node.args[2]))
        small = tuple(1 if a in axes else n for a, n in enumerate(view.shape))
        mean = self._reduced(view, axes, count, small)
        centred = op("sub", leaf(1), leaf(2))
        squares = self.emitter.view(
            Lazy(view.shape, op("mul", centred, centred), (view, mean.broadcast(view.shape)))
        )
        divisor = max(count - (1 if off is None else float(off)), 1e-30)
        variance = self._reduced(squares, axes, divisor, shape)
        return variance, View(mean.buffer, mean.offset, shape, row_major(shape))

    def _aten_var_correction(self, node: Any) -> Value:
        return self._moments(node, tuple(node.meta["val"].shape))[0]

    def _aten_std_correction(self, node: Any) -> Value:
        variance = self._moments(node, tuple(node.meta["val"].shape))[0]
        return self.compose(node, lambda x: op("sqrt", x), [variance])

    _aten_var_dim, _aten_std_dim = _aten_var_correction, _aten_std_correction

    def _aten_var_mean_correction(self, node: Any) -> list[Value]:
        return list(self._moments(node, tuple(node.meta["val"][0].shape)))

    def _aten_cumsum_default(self, node: Any) -> Value:
        """A sum over a window as long as the axis that ends at each place."""
        view = self.stored(node.args[0])
        axis = int(node.args[1]) % len(view.shape)
        size, stride = view.shape[axis], view.strides[axis]
        shape = view.shape
        result = View(self.emitter.work(math.prod(shape)), 0, shape, row_major(shape))
        begun = View(view.buffer, view.offset - (size - 1) * stride, shape, view.strides)
        others = [a for a in range(len(shape)) if a != axis]
        axes = [*others[:-1], axis]  # the last of the others is the column, the axis an outer loop
        column = others[-1] if others else None
        pool = Pool(
            tuple(shape[a] for a in axes), 1 if column is None else shape[column],
            ((size, stride),), ((len(axes) - 1, 1, size - 1, size),), True, 1.0,
            (source_of(begun, [view.strides[a] for a in axes], 0 if column is None else view.strides[column]),),
            sink_of(result, [result.strides[a] for a in axes], 1 if column is None else result.strides[column]),
        )  # fmt: skip
        self.emitter.step(pool, [view.buffer, result.buffer])
        return result


def _negated(x: Node) -> Node:
    return op("mul", x, -1.0)


def _axes(given: Any, shape: Shape) -> list[int]:
    """Axes counted from the front; all where none are named."""
    if given is None or given == []:
        return list(range(len(shape)))
    return sorted(int(a) % len(shape) for a in (given if isinstance(given, list | tuple) else [given]))
