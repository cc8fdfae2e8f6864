"""Modules and example inputs as users have them, made ready for export: nests of inputs, lazy layers, half floats."""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as nests

log = logging.getLogger(__name__)
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
_OTHER_FLOATS = {torch.float16, torch.bfloat16, torch.float64}


def arguments(given: Any) -> Arguments:
    """Example inputs by position and by name: a tensor, a list or tuple of inputs, or a dictionary of named ones."""
    given = nests.tree_map(
        lambda item: torch.as_tensor(item) if isinstance(item, np.ndarray) else item, given
    )
    if isinstance(given, dict):
        return (), {str(name): value for name, value in given.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return ((given,) if isinstance(given, Tensor) else tuple(given)), {}


def tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
    """All tensors among the inputs, in the order of the exported program's."""
    leaves: list[Any] = nests.tree_leaves((args, kwargs))
    return tuple(item for item in leaves if isinstance(item, Tensor))


def materialise(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Let lazy layers find their sizes, by one run."""
    if any(nn.parameter.is_lazy(item) for item in module.state_dict().values()):
        with torch.no_grad():
            module.eval()(*args, **kwargs)


def computes_otherwise(module: nn.Module) -> bool:
    """Whether some stored floats are wider or narrower than 32 bits."""
    return any(tensor.dtype in _OTHER_FLOATS for tensor in module.state_dict().values())


def in_float32(module: nn.Module, given: Arguments, name: str) -> Arguments:
    """Turn a module of other floats into one of 32 bits, in place; returns the inputs that fit it."""
    if not computes_otherwise(module):
        return given
    log.warning("%s: its floats are not of 32 bits; they are turned into such", name)
    module.float()
    return nests.tree_map(_widened, given)


def _widened(item: Any) -> Any:
    return item.float() if isinstance(item, Tensor) and item.dtype in _OTHER_FLOATS else item
