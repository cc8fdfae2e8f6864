"""What the parts of the lowering have in common: each handles some operators, and `lower.Lowering` is all of them."""
# pyright: basic
# torch.fx nodes carry untyped arguments and metadata.

from collections.abc import Callable
from typing import Any

from torch import fx

from hwsim.compile.emit import Emitter
from hwsim.compile.values import Value, View


class LoweringPart:
    """The emitter, the values of the nodes so far, and what the whole offers to its parts."""

    emitter: Emitter
    values: dict[fx.Node, Any]
    stored: Callable[[fx.Node], View]
    compose: Callable[..., Value]
