"""A model from a function of the user's own file: ``FILE.py:FACTORY`` returns a module, or (module, example inputs)."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hwsim.errors import UserError, first_line
from hwsim.model.sources import ModelSource
from hwsim.user_code import user_function

log = logging.getLogger(__name__)
OwnWeights = Literal["given", "random"]


def build_from_factory(
    source: ModelSource, batch: int, seed: int
) -> tuple[nn.Module, tuple[Any, ...], OwnWeights]:
    """The module, its example inputs, and whether its weights follow the seed of torch's generator."""
    factory = user_function(Path(source.name), source.factory or "", f"--model {source.asked}")
    module, given = _call(source, factory, seed)
    # Nobody says whether the numbers are trained. Those that another seed changes are not.
    again, _ = _call(source, factory, seed + 1)
    known = again.state_dict()
    same = all(torch.equal(value, known[name]) for name, value in module.state_dict().items())
    if given is None:
        given = (torch.zeros(1, 3, 224, 224),)
        log.warning(
            "%s: no example inputs, so one picture of 1 x 3 x 224 x 224 is taken; return (module, inputs) for others",
            source.asked,
        )
    inputs: tuple[Any, ...] = (given,) if isinstance(given, Tensor) else tuple(given)
    if batch > 1:
        inputs = tuple(
            item.expand(batch, *item.shape[1:]).clone()
            if isinstance(item, Tensor) and item.shape[:1] == (1,)
            else item
            for item in inputs
        )
    return module.eval(), inputs, "given" if same else "random"


def _call(source: ModelSource, factory: Callable[..., Any], seed: int) -> tuple[nn.Module, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            made = factory(**source.arguments)
        except Exception as error:
            raise UserError(f"--model {source.asked}: {type(error).__name__}: {first_line(error)}") from error
    module, given = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise UserError(f"--model {source.asked}: returned {type(module).__name__}, not a torch.nn.Module")
    return module, given
