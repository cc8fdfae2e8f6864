"""What a network predicts: along which axis of the first output classes lie, if it has any; the others are numbers.

Everybody who compares two networks by their predictions asks here: the referee of a recipe, PD-Quant, the choice of
a bias and the evaluation.
"""
# pyright: basic
# tensor methods are untyped in torch's stubs.

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def class_axis(outputs: Tensor) -> int | None:
    """Axis 1 of maps (samples, classes, height, width), else the last; None where there is one number, no classes."""
    if outputs.dim() < 2:
        return None
    axis = 1 if outputs.dim() == 4 else outputs.dim() - 1
    return axis if outputs.shape[axis] > 1 else None


def classes_last(outputs: Tensor) -> Tensor:
    """The same with the classes on the last axis, one of size 1 where there are none."""
    axis = class_axis(outputs)
    if axis is None:
        return outputs if outputs.dim() > 1 and outputs.shape[-1] == 1 else outputs.unsqueeze(-1)
    return outputs.movedim(axis, -1)


def output_power(outputs: Tensor) -> float | None:
    """By what squared errors of outputs without classes are divided (`mean_square`); None where there are classes."""
    return None if class_axis(outputs) is not None else mean_square(outputs)


def float_tensors(output: Any) -> list[Tensor]:
    """All outputs in a nest that hold fractions, each once; where none does, the first."""
    found: dict[int, Tensor] = {}

    def collect(part: Any) -> None:
        if isinstance(part, Tensor):
            found.setdefault(id(part), part)
        elif isinstance(part, dict | list | tuple):
            for item in part.values() if isinstance(part, dict) else part:
                collect(item)

    collect(output)
    every = list(found.values())
    return [tensor for tensor in every if tensor.is_floating_point()] or every[:1]


def comparable(exact: Tensor, found: Tensor) -> Tensor:
    """Where two outputs can be compared: everywhere, but for the places that a mask has made infinite in either."""
    finite = exact.isfinite()
    return finite if bool(finite.all()) else finite & found.isfinite()


def mean_square(outputs: Tensor) -> float:
    """Mean square of what is finite, never 0."""
    finite = outputs[outputs.isfinite()].double()
    return max(float(finite.square().mean()), 1e-24) if len(finite) else 1e-24


def mean_squares(outputs: Sequence[Sequence[Tensor]]) -> list[float]:
    """That of each output, over all batches."""
    return [sum(map(mean_square, column)) / len(column) for column in zip(*outputs, strict=True)]
