"""What users hand over as the tensors that a model takes: the same values in its types, or a refusal.

A conversion of torch's own goes through in silence where a value does not fit: an imaginary part is dropped, a
fraction cut off, a large number wrapped around.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from hwsim.data.dataset import InputForm, check_sample, check_shapes
from hwsim.errors import UserError, first_line

if TYPE_CHECKING:
    from torch import Tensor, dtype

log = logging.getLogger(__name__)


def as_inputs(values: Sequence[Any], form: InputForm, where: str) -> "tuple[Tensor, ...]":
    """The inputs of one sample, in the types that the model takes."""
    tensors = [_numbers(value, f"{where}: an input of a sample") for value in values]
    check_shapes(tensors, form, where)  # before the types: it says more about data of another kind
    made = tuple(
        _cast(tensor, example.dtype, where) for tensor, example in zip(tensors, form.examples, strict=True)
    )
    check_sample(made, form, where)
    return made


def _cast(tensor: "Tensor", wanted: "dtype", where: str) -> "Tensor":
    if wanted.is_floating_point:
        return tensor.to(wanted)
    name = str(wanted).removeprefix("torch.")
    fault = f"{where}: a sample holds values that are no {name}, which the model takes; give whole numbers in its range"
    return _unchanged(tensor, wanted, fault)


def as_label(value: Any, where: str) -> "Tensor | None":
    """The label of a sample: the number of its class, or several such numbers; None for what is no class."""
    import torch

    tensor = _numbers(value, f"{where}: a label")
    if tensor.is_floating_point() and not bool((tensor == tensor.round()).all()):
        tell_no_class(where)
        return None
    return _unchanged(tensor, torch.int64, f"{where}: a label is too large; give the number of the class")


@cache
def tell_no_class(where: str) -> None:
    """Once for each source."""
    log.warning("%s: labels hold fractions, so they are no classes, and no accuracy is measured", where)


def _numbers(value: Any, what: str) -> "Tensor":
    """The value as a tensor of real numbers, apart from any graph of gradients."""
    import torch

    kind = type(value).__name__
    if isinstance(value, str | bytes | Mapping):
        raise UserError(f"{what} is of type {kind}; give an array, a tensor or a number")
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(
            f"{what} is of type {kind}, but no array of numbers ({first_line(error)}); give an array or a tensor"
        ) from error
    if tensor.is_complex():
        raise UserError(f"{what} is complex; give an array of real numbers")
    return tensor


def _unchanged(tensor: "Tensor", wanted: "dtype", otherwise: str) -> "Tensor":
    """The tensor in a type of whole numbers, if that has all its values."""
    import torch

    made = tensor.to(wanted)
    # in the widest type: torch compares no unsigned numbers of more than 8 bits
    if not torch.equal(made.to(torch.float64), tensor.to(torch.float64)):
        raise UserError(otherwise)
    return made
