"""A model from the user's own file: ``FILE.py:FACTORY`` is a module, or returns one or (module, example inputs)."""

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as nests

from hwsim.errors import UserError
from hwsim.model import inputs
from hwsim.model.sources import ModelSource
from hwsim.user_code import guarded, user_function

log = logging.getLogger(__name__)
OwnWeights = Literal["given", "random"]


def build_from_factory(
    source: ModelSource, batch: int, seed: int
) -> tuple[nn.Module, inputs.Arguments, OwnWeights]:
    """The module, its example inputs, and whether its weights follow the seed of torch's generator."""
    factory = user_function(Path(source.name), source.factory or "", f"--model {source.asked}")
    module, given = _call(source, factory, seed)
    # Nobody says whether the numbers are trained. Those that another seed changes are not.
    known = module.state_dict() if module is factory else _call(source, factory, seed + 1)[0].state_dict()
    same = all(_equal(value, known.get(name)) for name, value in module.state_dict().items())
    args, kwargs = inputs.in_float32(module, given, source.asked)
    if batch > 1:
        args, kwargs = nests.tree_map(lambda item: _repeated(item, batch), (args, kwargs))
    return module.eval(), (args, kwargs), "given" if same else "random"


def _equal(one: Tensor, other: Tensor | None) -> bool:
    """NaN counts as itself: it is refused later, by name."""
    return other is not None and one.shape == other.shape and torch.allclose(one, other, 0, 0, equal_nan=True)


def _repeated(item: Any, batch: int) -> Any:
    if isinstance(item, Tensor) and item.shape[:1] == (1,):
        return item.expand(batch, *item.shape[1:]).clone()
    return item


def _call(source: ModelSource, factory: Any, seed: int) -> tuple[nn.Module, inputs.Arguments]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with guarded(f"--model {source.asked}"):
            made = factory if isinstance(factory, nn.Module) else factory(**source.arguments)
        module, given = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not isinstance(module, nn.Module):
            raise UserError(
                f"--model {source.asked}: returned {type(module).__name__}, not a torch.nn.Module"
            )
        if given is None:
            given = torch.zeros(1, 3, 224, 224)
            log.warning(
                "%s: no example inputs, so one picture of 1 x 3 x 224 x 224 is taken; return (module, inputs) for "
                "others",
                source.asked,
            )
        with guarded(f"--model {source.asked}"):
            args, kwargs = inputs.arguments(given)
            inputs.materialise(module, args, kwargs)
    return module, (args, kwargs)
